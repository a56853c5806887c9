// wnn: base
// max_pool of the dtypes that pool.cc does not have. Tensors and attrs as there, contiguous.
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
    a = b > a ? b : a;
    memcpy(y + i, &a, 16);
  }
  for (; i < n; i++) y[i] = x[i] > y[i] ? x[i] : y[i];
}

template <class T> int pool(wnn_ctx *ctx, const void *attrs, const wnn_tensor *tx, const wnn_tensor *ty, T lowest) {
  const Conv c(attrs, tx, ty);
  const int64_t rows = c.N * c.out[0] * c.out[1];
  parallel_for(ctx, rows, [&](int64_t r, int) {
    const int64_t od = r / c.out[1] % c.out[0], oh = r % c.out[1], n = r / c.out[1] / c.out[0];
    const auto within = [&](int axis, int64_t o, int64_t tap, int64_t *i) {
      *i = o * c.stride[axis] - c.pad[axis] + tap * c.dilation[axis];
      return *i >= 0 && *i < c.in[axis];
    };
    T *y = (T *)ty->data + r * c.out[2] * c.C;
    for (int64_t ow = 0; ow < c.out[2]; ow++, y += c.C) {
      for (int64_t ch = 0; ch < c.C; ch++) y[ch] = lowest;
      int64_t d, h, w;
      for (int64_t kd = 0; kd < c.kernel[0]; kd++)
        for (int64_t kh = 0; within(0, od, kd, &d) && kh < c.kernel[1]; kh++)
          for (int64_t kw = 0; within(1, oh, kh, &h) && kw < c.kernel[2]; kw++)
            if (within(2, ow, kw, &w)) raise(y, (const T *)tx->data + (((n * c.in[0] + d) * c.in[1] + h) * c.in[2] + w) * c.C, c.C);
    }
  });
  return 0;
}

}  // namespace

KERNEL(max_pool_i8) { return pool<int8_t>(ctx, attrs, in[0], out[0], INT8_MIN); }
KERNEL(max_pool_u8) { return pool<uint8_t>(ctx, attrs, in[0], out[0], 0); }
