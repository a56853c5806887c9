// conv.h: the geometry that the convolution kernels share. Fewer than three spatial axes are taken as led by axes of 1.
#pragma once
#include "gemm.h"

namespace {

struct ConvAttrs {
  int32_t kernel[3], stride[3], pad[3], dilation[3];  // depth, height, width; pad: before the first element
  int32_t groups, reserved;
};  // posts follow

struct Conv {
  int64_t N, C, in[3], out[3], kernel[3], stride[3], pad[3], dilation[3], groups;
  int64_t pixel;  // from one input pixel to the next
  const float *x;

  // tx: what windows slide over      ty: the pixels that each have one
  Conv(const void *attrs, const wnn_tensor *tx, const wnn_tensor *ty) {
    const ConvAttrs a = attr<ConvAttrs>(attrs, 0);
    const int spatial = tx->ndim - 2;
    N = tx->shape[0], C = last_dim(tx), groups = a.groups, pixel = row_stride(tx), x = f32(tx);
    for (int i = 0; i < 3; i++) {
      const int axis = i - 3 + spatial;
      in[i] = axis < 0 ? 1 : tx->shape[1 + axis], out[i] = axis < 0 ? 1 : ty->shape[1 + axis];
      kernel[i] = a.kernel[i], stride[i] = a.stride[i], pad[i] = a.pad[i], dilation[i] = a.dilation[i];
    }
  }
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t pixels() const { return N * out[0] * out[1] * out[2]; }
  // one past the last input element that a window touches
  int64_t reach(int i) const { return (out[i] - 1) * stride[i] - pad[i] + (kernel[i] - 1) * dilation[i] + 1; }
  bool padded(int i) const { return pad[i] > 0 || reach(i) > in[i]; }
};
constexpr int64_t posts_offset = sizeof(ConvAttrs);

// The outputs r in [0, run) that start at `first` and step by `step` and lie within [0, size): [*begin, *end)
WNN_INLINE void inside(int64_t first, int64_t step, int64_t size, int64_t run, int64_t *begin, int64_t *end) {
  *begin = first >= 0 ? 0 : min_of(run, ceil_div(-first, step));
  *end = first >= size ? *begin : max_of(*begin, min_of(run, ceil_div(size - first, step)));
}

// Weights (groups, K, N) as panels of 16: where they are, or packed into `memory`
WNN_INLINE int64_t weight_floats(const wnn_tensor *w) {
  return w->layout == WNN_PANEL16 ? 0 : w->shape[0] * panel_floats(w->shape[1], w->shape[2]);
}
[[maybe_unused]] static const float *panels(const wnn_tensor *w, float *memory) {
  if (w->layout == WNN_PANEL16) return f32(w);
  const int64_t K = w->shape[1], N = w->shape[2];
  for (int64_t g = 0; g < w->shape[0]; g++)
    for (int64_t n = 0; n < N; n += 16)
      pack_panel(K, min_of(16, N - n), f32(w) + g * w->strides[0] + n * w->strides[2], w->strides[1], w->strides[2], memory + g * panel_floats(K, N) + n * K);
  return memory;
}

}  // namespace
