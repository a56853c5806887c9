// wnn: inline
// layer_norm: y = (x - mean) / sqrt(var + eps) * gamma + beta    rms_norm: y = x / sqrt(mean(x^2) + eps) * gamma
// over the last axis.
//   x, y : (rows, C) f32, contiguous; y may be x      gamma?, beta? : (C,) f32
//   attrs: float eps
// Mean and variance each take a pass: the one-pass form loses digits where |mean| is far above the deviation.
#include "simd.h"

namespace {

constexpr int64_t TASK = 16384;  // elements

// body(row) for each of `rows` rows of C elements
template <class F> void each_row(wnn_ctx *ctx, int64_t rows, int64_t C, const F &body) {
  const int64_t each = C >= TASK ? 1 : TASK / (C ? C : 1);
  parallel_for(ctx, (rows + each - 1) / each, [&](int64_t task, int) {
    for (int64_t r = task * each; r < rows && r < (task + 1) * each; r++) body(r);
  });
}

// y = (x - mean) * scale * gamma + beta
void affine(float *y, const float *x, int64_t C, float mean, float scale, const float *gamma, const float *beta) {
  if (gamma && beta)
    map(y, C, [=](auto v, int64_t c) { return (v(x + c) - mean) * scale * v(gamma + c) + v(beta + c); });
  else if (gamma)
    map(y, C, [=](auto v, int64_t c) { return (v(x + c) - mean) * scale * v(gamma + c); });
  else if (beta)
    map(y, C, [=](auto v, int64_t c) { return (v(x + c) - mean) * scale + v(beta + c); });
  else
    map(y, C, [=](auto v, int64_t c) { return (v(x + c) - mean) * scale; });
}

}  // namespace

KERNEL(layer_norm_f32) {
  const float eps = attr<float>(attrs, 0);
  const int64_t C = last_dim(in[0]), rows = C ? count(in[0]) / C : 0;
  const float *const gamma = nin > 1 && in[1] ? f32(in[1]) : nullptr, *const beta = nin > 2 && in[2] ? f32(in[2]) : nullptr;
  each_row(ctx, rows, C, [&](int64_t r) {
    const float *const x = f32(in[0]) + r * C;
    const float mean = reduce_sum(C, [=](auto v, int64_t c) { return v(x + c); }) / float(C);
    const float square = reduce_sum(C, [=](auto v, int64_t c) { const vf d = v(x + c) - mean; return d * d; });
    affine(f32(out[0]) + r * C, x, C, mean, 1 / sqrtf(square / float(C) + eps), gamma, beta);
  });
  return 0;
}

KERNEL(rms_norm_f32) {
  const float eps = attr<float>(attrs, 0);
  const int64_t C = last_dim(in[0]), rows = C ? count(in[0]) / C : 0;
  const float *const gamma = nin > 1 && in[1] ? f32(in[1]) : nullptr;
  each_row(ctx, rows, C, [&](int64_t r) {
    const float *const x = f32(in[0]) + r * C;
    const float square = reduce_sum(C, [=](auto v, int64_t c) { return v(x + c) * v(x + c); });
    affine(f32(out[0]) + r * C, x, C, 0, 1 / sqrtf(square / float(C) + eps), gamma, nullptr);
  });
  return 0;
}
