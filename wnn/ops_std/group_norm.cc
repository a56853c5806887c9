// wnn: avx2
// y = (x - mean) / sqrt(var + eps) * gamma + beta, channels last, statistics over all positions and one group of channels.
//   x, y : (N, *spatial, C) f32, contiguous; y may be x      gamma?, beta? : (C,) f32
//   attrs: struct { int64 groups; float eps; }
// Sums of channels go first, over chunks of positions that tasks share out; groups are then put together in double.
// Of few channels several positions make a row, as far as these divide into such rows: a vector is filled then.
// Mean and variance each take a pass: the one-pass form loses digits where |mean| is far above the deviation.
#include "simd.h"

namespace {

constexpr int64_t TASK = 16384, CHUNKS = 64, RUN = 64, NARROW = 16, WIDE = 64;

struct Sizes {
  int64_t channels, N, S, C, chunks, chunk;  // samples, rows, columns, which are channels; chunks of a sample, rows of a chunk
  explicit Sizes(const wnn_tensor *x) {
    C = channels = last_dim(x), N = x->shape[0], S = 1;
    for (int i = 1; i < x->ndim - 1; i++) S *= x->shape[i];
    int64_t positions = C && C < NARROW && S ? WIDE / C : 1;
    while (S % positions) positions--;
    C *= positions, S /= positions;
    int64_t parts = S * C / TASK, most = N && N < CHUNKS ? CHUNKS / N : 1;
    parts = parts < 1 ? 1 : parts < most ? parts : most;
    chunk = (S + parts - 1) / parts;
    chunks = chunk ? (S + chunk - 1) / chunk : 0;
  }
  int64_t floats() const { return (N * (chunks + 2) + 1) * C; }
};

// V vectors of columns: sums of x, or of (x - mean)^2, over runs of rows
template <int V, bool SQUARE> void columns(const float *x, int64_t rows, int64_t C, const float *mean, int64_t tail, float *sums) {
  vf total[V], m[V];
  const auto at = [=](const float *p, int k) { return k < V - 1 ? load(p + k * L) : load_n(p + k * L, tail); };
#pragma GCC unroll 4
  for (int k = 0; k < V; k++) total[k] = vf{}, m[k] = SQUARE ? at(mean, k) : vf{};
  for (int64_t r = 0; r < rows; r += RUN) {
    vf run[V];
#pragma GCC unroll 4
    for (int k = 0; k < V; k++) run[k] = vf{};
    for (int64_t i = r; i < rows && i < r + RUN; i++)
#pragma GCC unroll 4
      for (int k = 0; k < V; k++) {
        const vf d = at(x + i * C, k) - m[k];
        run[k] += SQUARE ? d * d : d;
      }
#pragma GCC unroll 4
    for (int k = 0; k < V; k++) total[k] += run[k];
  }
#pragma GCC unroll 4
  for (int k = 0; k < V; k++) k < V - 1 ? store(sums + k * L, total[k]) : store_n(sums + k * L, total[k], tail);
}

template <bool SQUARE> void all_columns(const float *x, int64_t rows, int64_t C, const float *mean, float *sums) {
  int64_t c = 0;
  for (; c + 4 * L <= C; c += 4 * L) columns<4, SQUARE>(x + c, rows, C, mean + c, L, sums + c);
  for (; c < C; c += L) columns<1, SQUARE>(x + c, rows, C, mean + c, C - c < L ? C - c : L, sums + c);
}

// The mean over each group, of sums by chunks and columns; f is called with it for each column
template <class F> void each_column(const Sizes &s, int64_t groups, const float *sums, F f) {
  const int64_t width = s.channels / groups;
  for (int64_t g = 0; g < groups; g++) {
    const auto own = [&](auto body) {
      for (int64_t c = g * width; c < s.C; c += s.channels)
        for (int64_t i = c; i < c + width; i++) body(i);
    };
    double sum = 0;
    for (int64_t k = 0; k < s.chunks; k++) own([&](int64_t c) { sum += double(sums[k * s.C + c]); });
    const double mean = sum / double(s.S * s.C / groups);
    own([&](int64_t c) { f(c, mean); });
  }
}

}  // namespace

SCRATCH(group_norm_f32) { return size_t(Sizes(in[0]).floats()) * sizeof(float); }
KERNEL_S(group_norm_f32) {
  const int64_t groups = attr<int64_t>(attrs, 0);
  const float eps = attr<float>(attrs, 8);
  const Sizes s(in[0]);
  const float *const x = f32(in[0]);
  float *const y = f32(out[0]);
  const float *const gamma = nin > 1 && in[1] ? f32(in[1]) : nullptr, *const beta = nin > 2 && in[2] ? f32(in[2]) : nullptr;
  float *const means = (float *)ctx->scratch, *const scales = means + s.N * s.C, *const shifts = scales + s.N * s.C, *const sums = shifts + s.C;
  const auto chunks = [&](auto body) {
    parallel_for(ctx, s.N * s.chunks, [&](int64_t task, int) {
      const int64_t n = task / s.chunks, from = task % s.chunks * s.chunk, rows = s.S - from < s.chunk ? s.S - from : s.chunk;
      body(n, (n * s.S + from) * s.C, rows, sums + task * s.C);
    });
  };
  chunks([&](int64_t, int64_t at, int64_t rows, float *to) { all_columns<false>(x + at, rows, s.C, means, to); });
  for (int64_t n = 0; n < s.N; n++)
    each_column(s, groups, sums + n * s.chunks * s.C, [&](int64_t c, double mean) { means[n * s.C + c] = float(mean); });
  chunks([&](int64_t n, int64_t at, int64_t rows, float *to) { all_columns<true>(x + at, rows, s.C, means + n * s.C, to); });
  for (int64_t n = 0; n < s.N; n++)
    each_column(s, groups, sums + n * s.chunks * s.C, [&](int64_t c, double var) {
      scales[n * s.C + c] = (gamma ? gamma[c % s.channels] : 1) / sqrtf(float(var) + eps);
    });
  for (int64_t c = 0; c < s.C; c++) shifts[c] = beta ? beta[c % s.channels] : 0;
  chunks([&](int64_t n, int64_t at, int64_t rows, float *) {
    const float *const mean = means + n * s.C, *const scale = scales + n * s.C;
    for (int64_t i = at; i < at + rows * s.C; i += s.C) {
      const float *const from = x + i;
      map(y + i, s.C, [=](auto v, int64_t c) { return (v(from + c) - v(mean + c)) * v(scale + c) + v(shifts + c); });
    }
  });
  return 0;
}
