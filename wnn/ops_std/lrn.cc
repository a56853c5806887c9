// wnn: once
// y = x / (bias + alpha / size * sum of x^2 over `size` neighbouring channels)^beta, channels last.
//   x, y : (rows, C) f32, contiguous      attrs: struct { int64 size; float alpha, beta, bias; }
#include "simd.h"

KERNEL(lrn_f32) {
  const int64_t size = attr<int64_t>(attrs, 0), C = last_dim(in[0]), rows = C ? count(in[0]) / C : 0;
  const float alpha = attr<float>(attrs, 8), beta = attr<float>(attrs, 12), bias = attr<float>(attrs, 16);
  const int64_t before = (size - 1) / 2, after = size / 2;
  parallel_for(ctx, rows, [&](int64_t r, int) {
    const float *const x = f32(in[0]) + r * C;
    float *const y = f32(out[0]) + r * C;
    for (int64_t c = 0; c < C; c++) {
      float sum = 0;
      for (int64_t k = c < before ? 0 : c - before; k < C && k <= c + after; k++) sum += x[k] * x[k];
      y[c] = x[c] / powf(bias + alpha / float(size) * sum, beta);
    }
  });
  return 0;
}
