// wnn: inline
// layer_norm: y = (x - mean) / sqrt(var + eps) * gamma + beta    rms_norm: y = x / sqrt(mean(x^2) + eps) * gamma
// over the last axis.
//   x, y : (rows, C) f32, contiguous; y may be x      gamma?, beta? : (C,) f32
//   attrs: float eps
// Mean and variance each take a pass: the one-pass form loses digits where |mean| is far above the deviation. The second one also
// finds by how much the mean is off, and corrects both (Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983).
#include "simd.h"

namespace {

constexpr int64_t TASK = 16384;        // elements
constexpr int ROWS = WNN_ISA ? 4 : 1;  // at once: the sums of one are done long after its elements are there

struct Norm {
  float eps;
  int64_t C, rows;
  const float *x, *gamma, *beta;  // gamma and beta may be null
  float *y;

  Norm(const void *attrs, const wnn_tensor *const *in, int nin, const wnn_tensor *out) {
    eps = attr<float>(attrs, 0);
    C = last_dim(in[0]), rows = C ? count(in[0]) / C : 0;
    x = f32(in[0]), y = f32(out);
    gamma = nin > 1 && in[1] ? f32(in[1]) : nullptr, beta = nin > 2 && in[2] ? f32(in[2]) : nullptr;
  }
};

// f(v, c) for the columns by vectors: v(p) loads, v.put(p, x) stores, v.only(x) is x with zeros past the last column
struct Whole : Full {
  WNN_MEMBER void put(float *p, vf x) const { store(p, x); }
  WNN_MEMBER vf only(vf x) const { return x; }
};
struct Part : Tail {
  WNN_MEMBER void put(float *p, vf x) const { store_n(p, x, n); }
  WNN_MEMBER vf only(vf x) const { return keep_n(x, n, vf{}); }
};
template <class F> WNN_INLINE void columns(int64_t C, F f) {
  int64_t c = 0;
  for (; c + L <= C; c += L) f(Whole{}, c);
  if (c < C) f(Part{{C - c}}, c);
}

float total(vf x) { return fold(x, [](auto x, auto y) { return x + y; }); }

// The rows from `first` on, ROWS of them; those from `end` on repeat the last
WNN_INLINE void normalize(const Norm &n, bool centre, int64_t first, int64_t end) {
  const float *const x = n.x + first * n.C, *const gamma = n.gamma, *const beta = n.beta;
  float *const y = n.y + first * n.C;
  int64_t at[ROWS];
  float mean[ROWS], scale[ROWS];
  vf sum[ROWS], square[ROWS];
#pragma GCC unroll 4
  for (int r = 0; r < ROWS; r++) at[r] = (first + r < end ? r : end - 1 - first) * n.C, sum[r] = vf{};
  columns(n.C, [&](auto v, int64_t c) {
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++) sum[r] += v(x + c + at[r]);
  });
#pragma GCC unroll 4
  for (int r = 0; r < ROWS; r++) mean[r] = centre ? total(sum[r]) / float(n.C) : 0, sum[r] = square[r] = vf{};
  columns(n.C, [&](auto v, int64_t c) {
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++) {
      const vf d = v.only(v(x + c + at[r]) - mean[r]);
      sum[r] += d, square[r] += d * d;
    }
  });
#pragma GCC unroll 4
  for (int r = 0; r < ROWS; r++) {
    const float off = centre ? total(sum[r]) / float(n.C) : 0, variance = total(square[r]) / float(n.C) - off * off;
    mean[r] += off;
    scale[r] = 1 / sqrtf((variance < 0 ? 0 : variance) + n.eps);
  }
  columns(n.C, [&](auto v, int64_t c) {
    const vf g = gamma ? v(gamma + c) : splat(1), b = beta ? v(beta + c) : vf{};
    vf z[ROWS];  // all are read before one is written: y may be x
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++) z[r] = (v(x + c + at[r]) - mean[r]) * scale[r] * g + b;
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++) v.put(y + c + at[r], z[r]);
  });
}

int run(wnn_ctx *ctx, const Norm &n, bool centre) {
  const int64_t each = n.C >= TASK ? 1 : TASK / (n.C ? n.C : 1);
  parallel_for(ctx, (n.rows + each - 1) / each, [&](int64_t task, int) {
    const int64_t end = n.rows < (task + 1) * each ? n.rows : (task + 1) * each;
    for (int64_t r = task * each; r < end; r += ROWS) normalize(n, centre, r, end);
  });
  return 0;
}

}  // namespace

KERNEL(layer_norm_f32) { return run(ctx, Norm(attrs, in, nin, out[0]), true); }
KERNEL(rms_norm_f32) { return run(ctx, Norm(attrs, in, nin, out[0]), false); }
