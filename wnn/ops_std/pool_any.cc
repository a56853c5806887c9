// wnn: once
// max_pool of the dtypes that pool.cc does not have, and max_pool_indices. Tensors and attrs as there, contiguous.
//   indices: i64, like y: the place in (N, C, *spatial)      column_major, in the attrs after the paddings: within *spatial
#include "conv/conv.h"

namespace {

// y = max(y, x), n elements
template <class T> void raise(T *y, const T *x, int64_t n) {
  typedef T V __attribute__((vector_size(16)));
  constexpr int64_t lanes = 16 / sizeof(T);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    V a, b;
    memcpy(&a, y + i, 16), memcpy(&b, x + i, 16);
    a = (b > a) | (b != b) ? b : a;
    memcpy(y + i, &a, 16);
  }
  for (; i < n; i++) y[i] = x[i] > y[i] || x[i] != x[i] ? x[i] : y[i];
}

// body(first element of the tap's pixel, pixel's number in its sample, output pixel, sample) for all taps inside the input
template <class F> void each_tap(const Conv &c, int64_t row, bool column_major, F body) {
  const int64_t od = row / c.out[1] % c.out[0], oh = row % c.out[1], n = row / c.out[1] / c.out[0];
  const auto within = [&](int axis, int64_t o, int64_t tap, int64_t *i) {
    *i = o * c.stride[axis] - c.pad[axis] + tap * c.dilation[axis];
    return *i >= 0 && *i < c.in[axis];
  };
  for (int64_t ow = 0; ow < c.out[2]; ow++) {
    int64_t d, h, w;
    for (int64_t kd = 0; kd < c.kernel[0]; kd++)
      for (int64_t kh = 0; within(0, od, kd, &d) && kh < c.kernel[1]; kh++)
        for (int64_t kw = 0; within(1, oh, kh, &h) && kw < c.kernel[2]; kw++)
          if (within(2, ow, kw, &w))
            body((((n * c.in[0] + d) * c.in[1] + h) * c.in[2] + w) * c.C,
                 column_major ? d + c.in[0] * (h + c.in[1] * w) : (d * c.in[1] + h) * c.in[2] + w, row * c.out[2] + ow, n);
  }
}

template <class T> int pool(wnn_ctx *ctx, const void *attrs, const wnn_tensor *tx, const wnn_tensor *ty, T lowest) {
  const Conv c(attrs, tx, ty);
  const T *const x = (const T *)tx->data;
  T *const y = (T *)ty->data;
  parallel_for(ctx, c.N * c.out[0] * c.out[1], [&](int64_t row, int) {
    for (int64_t i = row * c.out[2] * c.C; i < (row + 1) * c.out[2] * c.C; i++) y[i] = lowest;
    each_tap(c, row, false, [&](int64_t at, int64_t, int64_t pixel, int64_t) { raise(y + pixel * c.C, x + at, c.C); });
  });
  return 0;
}

template <class T> int indices(wnn_ctx *ctx, const void *attrs, const wnn_tensor *tx, wnn_tensor *const *out, T lowest) {
  const Conv c(attrs, tx, out[0]);
  const bool column_major = attr<int32_t>(attrs, sizeof(ConvAttrs) + 12);
  const T *const x = (const T *)tx->data;
  T *const y = (T *)out[0]->data;
  int64_t *const place = (int64_t *)out[1]->data;
  parallel_for(ctx, c.N * c.out[0] * c.out[1], [&](int64_t row, int) {
    for (int64_t i = row * c.out[2] * c.C; i < (row + 1) * c.out[2] * c.C; i++) y[i] = lowest, place[i] = -1;
    each_tap(c, row, column_major, [&](int64_t at, int64_t number, int64_t pixel, int64_t n) {
      for (int64_t ch = 0, i = pixel * c.C; ch < c.C; ch++, i++)
        if (place[i] < 0 || x[at + ch] > y[i]) y[i] = x[at + ch], place[i] = (n * c.C + ch) * c.in[0] * c.in[1] * c.in[2] + number;
    });
  });
  return 0;
}

}  // namespace

KERNEL(max_pool_i8) { return pool<int8_t>(ctx, attrs, in[0], out[0], INT8_MIN); }
KERNEL(max_pool_u8) { return pool<uint8_t>(ctx, attrs, in[0], out[0], 0); }
KERNEL(max_pool_f64) { return pool<double>(ctx, attrs, in[0], out[0], -HUGE_VAL); }
KERNEL(max_pool_indices_f32) { return indices<float>(ctx, attrs, in[0], out, -HUGE_VALF); }
KERNEL(max_pool_indices_f64) { return indices<double>(ctx, attrs, in[0], out, -HUGE_VAL); }
KERNEL(max_pool_indices_i8) { return indices<int8_t>(ctx, attrs, in[0], out, INT8_MIN); }
KERNEL(max_pool_indices_u8) { return indices<uint8_t>(ctx, attrs, in[0], out, 0); }
