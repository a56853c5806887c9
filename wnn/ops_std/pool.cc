// max_pool, average_pool: y = the maximum, or the mean, over a window, channels last, 1 to 3 spatial axes.
//   x: (N, *spatial, C) f32, rows      y: (N, *out spatial, C) f32, rows
//   attrs: ConvAttrs, then int32 after[3] (padding behind the last element), count_include_pad
#include "conv/conv.h"

namespace {

constexpr int64_t TASK = 16384;  // elements times taps

struct Add {
  static constexpr float start = 0;
  WNN_MEMBER vf operator()(vf a, vf b) const { return a + b; }
};
struct Max {  // may pass a NaN over
  static constexpr float start = -INFINITY;
  WNN_MEMBER vf operator()(vf a, vf b) const { return a > b ? a : b; }
};
struct MaxOrNan {
  static constexpr float start = -INFINITY;
  WNN_MEMBER vf operator()(vf a, vf b) const { return (b > a) | (b != b) ? b : a; }
};

// A run of n pixels with the same taps [k0, k1) of each axis within the input, the first pixel's from x on
struct Run { const float *x; float *y; int64_t n, step, ld, k0[3], k1[3]; };

// V vectors of channels; the last has `tail` lanes. With WATCH the taps' sum is returned as well: NaN where a tap is
template <int V, bool WATCH, class J> WNN_INLINE float pixels(const Conv &c, Run w, int64_t tail, float scale, J join) {
  vf sum[V];
#pragma GCC unroll 4
  for (int k = 0; k < V; k++) sum[k] = vf{};
  const int64_t across = c.dilation[2] * c.pixel, down = c.dilation[1] * c.in[2] * c.pixel, deep = c.dilation[0] * c.in[1] * c.in[2] * c.pixel;
  w.x += w.k0[2] * across;
  for (int64_t p = 0; p < w.n; p++, w.x += w.step, w.y += w.ld) {
    vf acc[V];
#pragma GCC unroll 4
    for (int k = 0; k < V; k++) acc[k] = splat(J::start);
    for (int64_t d = w.k0[0]; d < w.k1[0]; d++)
      for (int64_t h = w.k0[1]; h < w.k1[1]; h++) {
        const float *x = w.x + d * deep + h * down;
        for (int64_t i = w.k0[2]; i < w.k1[2]; i++, x += across)
#pragma GCC unroll 4
          for (int k = 0; k < V; k++) {
            const vf v = k < V - 1 ? load(x + k * L) : load_n(x + k * L, tail);
            acc[k] = join(acc[k], v);
            if (WATCH) sum[k] += v;
          }
      }
#pragma GCC unroll 4
    for (int k = 0; k < V; k++) {
      const vf v = acc[k] * scale;
      k < V - 1 ? store(w.y + k * L, v) : store_n(w.y + k * L, v, tail);
    }
  }
#pragma GCC unroll 4
  for (int k = 1; k < V; k++) sum[0] += sum[k];
  return WATCH ? fold(sum[0], [](auto a, auto b) { return a + b; }) : 0;
}

// The same for the windows of at least P whole kernels of K columns at stride S, of at least L channels: each pixel of a row is loaded once
// for P windows, whose rows are joined first. The last windows, and the last channels, may be made once more.
template <int K, int S, bool WATCH, class J> WNN_INLINE float row_pixels(const Conv &c, const Run &run, int64_t C, float scale, J join) {
  constexpr int P = 4, X = (P - 1) * S + K;
  const Run w = run;  // of its own: stores do not change it
  const int64_t pixel = c.pixel, down = c.dilation[1] * c.in[2] * pixel, deep = c.dilation[0] * c.in[1] * c.in[2] * pixel;
  vf sum[4]{};
  for (int64_t p = 0; p < w.n; p += P) {
    const int64_t at = min_of(p, w.n - P);
    for (int64_t from = 0; from < C; from += L) {
      const int64_t ch = min_of(from, C - L);
      vf column[X];
#pragma GCC unroll 9
      for (int i = 0; i < X; i++) column[i] = splat(J::start);
      for (int64_t d = w.k0[0]; d < w.k1[0]; d++) {
        const float *first = w.x + at * w.step + d * deep + w.k0[1] * down + ch;
        for (int64_t h = w.k1[1] - w.k0[1]; h > 0; h--, first += down) {
          const float *x = first;
#pragma GCC unroll 9
          for (int i = 0; i < X; i++, x += pixel) {
            asm("" : "+r"(x));  // else GCC keeps an address for each
            const vf v = load(x);
            column[i] = join(column[i], v);
            if (WATCH) sum[i % 4] += v;
          }
        }
      }
      float *y = w.y + at * w.ld + ch;
#pragma GCC unroll 4
      for (int q = 0; q < P; q++, y += w.ld) {
        vf acc = column[q * S];
#pragma GCC unroll 5
        for (int k = 1; k < K; k++) acc = join(acc, column[q * S + k]);
        store(y, acc * scale);
      }
    }
  }
  return WATCH ? fold((sum[0] + sum[1]) + (sum[2] + sum[3]), [](auto a, auto b) { return a + b; }) : 0;
}

template <int V> void mean(const Conv &c, const Run &w, int64_t tail, float scale) { pixels<V, false>(c, w, tail, scale, Add{}); }
void with_nan(const Conv &c, Run w, int vectors, int64_t tail) {
  for (int k = 0; k < vectors; k++, w.x += L, w.y += L) pixels<1, false>(c, w, k < vectors - 1 ? L : tail, 1, MaxOrNan{});
}
template <int V> void maximum(const Conv &c, const Run &w, int64_t tail, float) {
  const float sum = pixels<V, true>(c, w, tail, 1, Max{});
  if (sum != sum) with_nan(c, w, V, tail);
}
template <int K, int S> void row_mean(const Conv &c, const Run &w, int64_t C, float scale) { row_pixels<K, S, false>(c, w, C, scale, Add{}); }
template <int K, int S> void row_maximum(const Conv &c, const Run &w, int64_t C, float) {
  const float sum = row_pixels<K, S, true>(c, w, C, 1, Max{});
  if (sum != sum) with_nan(c, w, int(ceil_div(C, L)), (C - 1) % L + 1);
}
using RunFn = void (*)(const Conv &, const Run &, int64_t, float);
struct Pool {
  RunFn some[4];  // by vectors of channels
  struct { int64_t kernel, stride; RunFn fn; } rows[4];
};
#define ROW(fn, K, S) {K, S, WNN_ISA ? fn<K, S> : nullptr}
const Pool means = {{mean<1>, mean<2>, mean<3>, mean<4>}, {ROW(row_mean, 2, 2), ROW(row_mean, 3, 1), ROW(row_mean, 3, 2)}};
const Pool maxima = {{maximum<1>, maximum<2>, maximum<3>, maximum<4>}, {ROW(row_maximum, 2, 2), ROW(row_maximum, 3, 1), ROW(row_maximum, 3, 2), ROW(row_maximum, 5, 1)}};

// How many positions of a window starting at `first` count for the mean
int64_t positions(const Conv &c, int axis, int64_t first, const int32_t *after, bool include) {
  int64_t k0, k1;
  const int64_t pad = include ? c.pad[axis] : 0;
  inside(first + pad, c.dilation[axis], c.in[axis] + pad + (include ? after[axis] : 0), c.kernel[axis], &k0, &k1);
  return k1 - k0;
}

int pool(wnn_ctx *ctx, const void *attrs, const wnn_tensor *tx, const wnn_tensor *ty, const Pool &runs, bool is_mean) {
  const Conv c(attrs, tx, ty);
  const int32_t *const after = (const int32_t *)((const char *)attrs + sizeof(ConvAttrs));
  const bool include = after[3];
  RunFn row = nullptr;
  for (const auto &r : runs.rows)
    if (r.kernel == c.kernel[2] && r.stride == c.stride[2] && c.dilation[2] == 1 && c.C >= L) row = r.fn;
  float *const y = f32(ty);
  const int64_t ld = row_stride(ty), rows = c.N * c.out[0] * c.out[1];
  const int64_t each = max_of(1, TASK / (c.out[2] * c.C * c.taps()));
  parallel_for(ctx, ceil_div(rows, each), [&](int64_t task, int) {
    for (int64_t r = task * each; r < min_of(rows, (task + 1) * each); r++) {
      int64_t at[3] = {r / c.out[1] % c.out[0], r % c.out[1], 0}, start[3], counted[3];
      Run w{};
      w.step = c.stride[2] * c.pixel, w.ld = ld;
      const auto place = [&](int axis) {
        start[axis] = at[axis] * c.stride[axis] - c.pad[axis];
        const bool whole = start[axis] >= 0 && start[axis] + (c.kernel[axis] - 1) * c.dilation[axis] < c.in[axis];
        w.k0[axis] = 0, w.k1[axis] = counted[axis] = c.kernel[axis];
        if (whole) return;
        inside(start[axis], c.dilation[axis], c.in[axis], c.kernel[axis], &w.k0[axis], &w.k1[axis]);
        if (is_mean) counted[axis] = positions(c, axis, start[axis], after, include);
      };
      place(0), place(1);
      const float *const from = c.x + ((r / c.out[1] / c.out[0] * c.in[0] + start[0]) * c.in[1] + start[1]) * c.in[2] * c.pixel;
      const int64_t room = c.in[2] + c.pad[2] - (c.kernel[2] - 1) * c.dilation[2];  // where whole windows start before
      for (int64_t next = 0; next < c.C; next += 4 * L) {  // few channels at a time, so that the windows' rows stay in L1
        const int64_t ch = row ? min_of(next, c.C - L) : next;
        const int64_t vectors = min_of(4, ceil_div(c.C - ch, L)), tail = min_of(L, c.C - ch - (vectors - 1) * L);
        for (at[2] = 0; at[2] < c.out[2]; at[2] += w.n) {
          place(2);
          const int64_t wholes = min_of(c.out[2], ceil_div(max_of(0, room), c.stride[2])) - at[2];
          w.n = start[2] < 0 ? 1 : max_of(1, wholes);
          w.x = from + start[2] * c.pixel + ch;
          w.y = y + (r * c.out[2] + at[2]) * ld + ch;
          const float scale = 1.0f / float(counted[0] * counted[1] * counted[2]);
          if (row && w.n >= 4) row(c, w, min_of(4 * L, c.C - ch), scale);
          else runs.some[vectors - 1](c, w, tail, scale);
        }
      }
    }
  });
  return 0;
}

}  // namespace

KERNEL(max_pool_f32) { return pool(ctx, attrs, in[0], out[0], maxima, false); }
KERNEL(average_pool_f32) { return pool(ctx, attrs, in[0], out[0], means, true); }
