// wnn: inline
// softmax: y = exp(x - m) / sum exp(x - m)    log_softmax: y = x - m - log(sum exp(x - m)), m the maximum, along one axis.
//   x, y : the same shape, f32, contiguous; y may be x
//   attrs: int64 axis
// A NaN makes all of its row NaN through the sum, though the maximum may pass it over; so do +inf, and -inf throughout.
#include "vecmath.h"

namespace {

constexpr int64_t TASK = 8192;  // elements
constexpr int WIDE = 4;         // vectors of columns that go together
constexpr int NARROW = L / 2;   // columns of rows that go together

WNN_INLINE vf above(vf x, vf y) { return x > y ? x : y; }

void row(const float *x, float *y, int64_t n, bool log) {
  const float m = reduce_max(n, [=](auto v, int64_t i) { return v(x + i); });
  const auto power = [=](auto v, int64_t i) {
    const vf p = vexp2_negative((v(x + i) - m) * log2e);
    if (log) return p;
    if (n - i >= L) store(y + i, p);
    else store_n(y + i, p, n - i);
    return p;
  };
  vf sums = {};
  int64_t i = 0;
  while (i + L <= n) {
    vf part = {};  // of a few, so that a long row's sum loses no more than a short one's
    for (const int64_t end = i + 32 * L; i + L <= n && i < end; i += L) part += power(Full{}, i);
    sums += part;
  }
  if (i < n) sums += keep_n(power(Tail{n - i}, i), n - i, vf{});
  const float sum = fold(sums, [](auto a, auto b) { return a + b; });
  const float scale = 1 / sum, shift = logf(sum);
  if (log) map(y, n, [=](auto v, int64_t i) { return (v(x + i) - m) - shift; });
  else map(y, n, [=](auto v, int64_t i) { return v(y + i) * scale; });
}

// softmax of a row of V vectors, the last with `tail` lanes, that stays in registers
template <int V> void short_row(const float *x, float *y, int64_t tail) {
  vf v[V], m = splat(-INFINITY), sum = vf{};
#pragma GCC unroll 4
  for (int k = 0; k < V; k++) v[k] = k < V - 1 ? load(x + k * L) : keep_n(load_n(x + k * L, tail), tail, splat(-INFINITY));
#pragma GCC unroll 4
  for (int k = 0; k < V; k++) m = above(v[k], m);
  m = splat(fold(m, [](auto a, auto b) { return a > b ? a : b; }));
#pragma GCC unroll 4
  for (int k = 0; k < V; k++) {
    v[k] = vexp2_negative((v[k] - m) * log2e);
    sum += k < V - 1 ? v[k] : keep_n(v[k], tail, vf{});
  }
  const vf scale = splat(1 / fold(sum, [](auto a, auto b) { return a + b; }));
#pragma GCC unroll 4
  for (int k = 0; k < V; k++) k < V - 1 ? store(y + k * L, v[k] * scale) : store_n(y + k * L, v[k] * scale, tail);
}

// log_softmax of a vector of columns whose maximum and sum are known
__attribute__((noinline)) void finish_log(const float *x, float *y, int64_t n, int64_t inner, int64_t lanes, vf m, vf sum) {
  const vf shift = vlog(sum);
  for (int64_t i = 0; i < n * inner; i += inner) store_n(y + i, (load_n(x + i, lanes) - m) - shift, lanes);
}

// V vectors of columns, the last with `tail` lanes; rows are `inner` apart
template <int V> void columns(const float *x, float *y, int64_t n, int64_t inner, int64_t tail, bool log) {
  vf m[V], sum[V];
#pragma GCC unroll 4
  for (int k = 0; k < V; k++) m[k] = splat(-INFINITY), sum[k] = vf{};
  const auto at = [=](const float *p, int k) __attribute__((always_inline)) { return k < V - 1 ? load(p + k * L) : load_n(p + k * L, tail); };
  const auto put = [=](float *p, int k, vf v) __attribute__((always_inline)) { k < V - 1 ? store(p + k * L, v) : store_n(p + k * L, v, tail); };
  for (int64_t i = 0; i < n; i++)
#pragma GCC unroll 4
    for (int k = 0; k < V; k++) m[k] = above(at(x + i * inner, k), m[k]);
  for (int64_t i = 0; i < n; i++)
#pragma GCC unroll 4
    for (int k = 0; k < V; k++) {
      const vf p = vexp2_negative((at(x + i * inner, k) - m[k]) * log2e);
      if (!log) put(y + i * inner, k, p);
      sum[k] += p;
    }
  if (log) {
#pragma GCC unroll 4
    for (int k = 0; k < V; k++) finish_log(x + k * L, y + k * L, n, inner, k < V - 1 ? L : tail, m[k], sum[k]);
    return;
  }
#pragma GCC unroll 4
  for (int k = 0; k < V; k++) sum[k] = 1.0f / sum[k];
  for (int64_t i = 0; i < n; i++)
#pragma GCC unroll 4
    for (int k = 0; k < V; k++) put(y + i * inner, k, at(y + i * inner, k) * sum[k]);
}

// softmax of at most NARROW columns: all lanes work, lane i of a block of vectors on column i % inner
void narrow_columns(const float *x, float *y, int64_t n, int64_t inner) {
  float m[NARROW * L], sum[NARROW * L];
  const int64_t shared = inner & -inner, total = n * inner, block = inner / (shared < L ? shared : L) * L;  // whole vectors and rows
  const auto each = [=](auto f) {  // f(place, lanes, place within the block)
    for (int64_t i = 0, k = 0; i < total; i += L, k = k + L < block ? k + L : 0) f(i, total - i < L ? total - i : L, k);
  };
  const auto join = [=](float *v, auto f) {
    for (int64_t i = block - 1; i >= inner; i--) v[i - inner] = f(v[i], v[i - inner]);
    for (int64_t i = inner; i < block; i++) v[i] = v[i - inner];
  };
  for (int64_t i = 0; i < block; i += L) store(m + i, splat(-INFINITY)), store(sum + i, vf{});
  each([&](int64_t i, int64_t lanes, int64_t k) {
    store(m + k, above(keep_n(load_n(x + i, lanes), lanes, splat(-INFINITY)), load(m + k)));
  });
  join(m, [](float a, float b) { return a > b ? a : b; });
  each([&](int64_t i, int64_t lanes, int64_t k) {
    const vf p = vexp2_negative((load_n(x + i, lanes) - load(m + k)) * log2e);
    store_n(y + i, p, lanes);
    store(sum + k, load(sum + k) + keep_n(p, lanes, vf{}));
  });
  join(sum, [](float a, float b) { return a + b; });
  for (int64_t i = 0; i < block; i++) sum[i] = 1 / sum[i];
  each([&](int64_t i, int64_t lanes, int64_t k) { store_n(y + i, load_n(y + i, lanes) * load(sum + k), lanes); });
}

// so many narrow rows, at most L at a time as the columns of a block
void narrow_rows(const float *x, float *y, int64_t rows, int64_t n, bool log) {
  float block[NARROW * L];
  for (int64_t r = 0; r < rows; r += L, x += n * L, y += n * L) {
    const int64_t lanes = rows - r < L ? rows - r : L;
    for (int64_t i = 0; i < lanes; i++)
      for (int64_t j = 0; j < n; j++) block[j * L + i] = x[i * n + j];
    columns<1>(block, block, n, L, lanes, log);
    for (int64_t i = 0; i < lanes; i++)
      for (int64_t j = 0; j < n; j++) y[i * n + j] = block[j * L + i];
  }
}

using RowFn = void (*)(const float *, float *, int64_t);
constexpr RowFn short_rows[4] = {short_row<1>, short_row<2>, short_row<3>, short_row<4>};

int run(wnn_ctx *ctx, int64_t axis, const wnn_tensor *tx, const wnn_tensor *ty, bool log) {
  const int64_t n = tx->shape[axis], total = count(tx);
  if (total == 0) return 0;
  const float *const x = f32(tx);
  float *const y = f32(ty);
  int64_t inner = 1;
  for (int i = int(axis) + 1; i < tx->ndim; i++) inner *= tx->shape[i];
  const int64_t outer = total / n / inner, width = WIDE * L;
  if (inner == 1) {
    const int64_t each = n >= TASK ? 1 : TASK / n, vectors = (n + L - 1) / L, tail = n - (vectors - 1) * L;
    parallel_for(ctx, (outer + each - 1) / each, [&](int64_t task, int) {
      if (n <= NARROW) {
        const int64_t first = task * each, rows = outer - first < each ? outer - first : each;
        return narrow_rows(x + first * n, y + first * n, rows, n, log);
      }
      for (int64_t r = task * each * n; r < outer * n && r < (task + 1) * each * n; r += n) {
        if (log || vectors > 4) row(x + r, y + r, n, log);
        else short_rows[vectors - 1](x + r, y + r, tail);
      }
    });
    return 0;
  }
  const int64_t blocks = (inner + width - 1) / width;
  const int64_t each = n * width >= TASK ? 1 : TASK / (n * (inner < width ? inner : width));
  parallel_for(ctx, (outer * blocks + each - 1) / each, [&](int64_t task, int) {
    for (int64_t b = task * each; b < outer * blocks && b < (task + 1) * each; b++) {
      const int64_t from = b % blocks * width, to = inner - from < width ? inner : from + width;
      const int64_t start = b / blocks * n * inner;
      if (WNN_ISA && inner <= NARROW && n >= 2 * L && !log) {
        narrow_columns(x + start, y + start, n, inner);
        continue;
      }
      if (to - from == width) {
        columns<WIDE>(x + start + from, y + start + from, n, inner, L, log);
        continue;
      }
      for (int64_t c = from; c < to; c += L)
        columns<1>(x + start + c, y + start + c, n, inner, to - c < L ? to - c : L, log);
    }
  });
  return 0;
}

}  // namespace

KERNEL(softmax_f32) { return run(ctx, attr<int64_t>(attrs, 0), in[0], out[0], false); }
KERNEL(log_softmax_f32) { return run(ctx, attr<int64_t>(attrs, 0), in[0], out[0], true); }
