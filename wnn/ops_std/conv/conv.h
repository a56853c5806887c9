// conv.h: the geometry that the convolution kernels share. Fewer than three spatial axes are taken as led by axes of 1.
#pragma once
#include "gemm.h"

struct ConvAttrs {
  int32_t kernel[3], stride[3], pad[3], dilation[3];  // depth, height, width; pad: before the first element
  int32_t groups, reserved;
};  // posts follow

struct ConvSizes {
  int64_t N, C, in[3], out[3], kernel[3], stride[3], pad[3], dilation[3], groups;
  int64_t pixel;  // from one input pixel to the next
  const float *x;
};
// interleave.cc, the best build for this CPU: three planes -> n pixels
extern void (*wnn_interleave)(const float *r, const float *g, const float *b, int64_t n, float *to);
// conv.cc: tx: what windows slide over, ty: the pixels that each have one
ConvSizes conv_sizes(const void *attrs, const wnn_tensor *tx, const wnn_tensor *ty);

namespace {

struct Conv : ConvSizes {
  Conv(const void *attrs, const wnn_tensor *tx, const wnn_tensor *ty) : ConvSizes(conv_sizes(attrs, tx, ty)) {}
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t pixels() const { return N * out[0] * out[1] * out[2]; }
  // one past the last input element that a window touches
  int64_t reach(int i) const { return (out[i] - 1) * stride[i] - pad[i] + (kernel[i] - 1) * dilation[i] + 1; }
  bool padded(int i) const { return pad[i] > 0 || reach(i) > in[i]; }
};
constexpr int64_t posts_offset = sizeof(ConvAttrs);
constexpr int most_rows = 64;  // of a kernel, where each has an address; KERNEL_ROWS of geometry.py

// A row of zeros of n floats, which is read for padding
WNN_INLINE size_t zeros_bytes(int64_t n) { return size_t(ceil_div(n, 16)) * 64; }

// The outputs r in [0, run) that start at `first` and step by `step` and lie within [0, size): [*begin, *end)
WNN_INLINE void inside(int64_t first, int64_t step, int64_t size, int64_t run, int64_t *begin, int64_t *end) {
  *begin = first >= 0 ? 0 : min_of(run, ceil_div(-first, step));
  *end = first + (run - 1) * step < size ? run : first >= size ? *begin : max_of(*begin, min_of(run, ceil_div(size - first, step)));
}

// Taps [d0, d1) by [h0, h1) by [w0, w1) of a kernel. A row along w of which each is one segment has one.
struct Taps {
  int64_t d0, d1, h0, h1, w0, w1;
  int64_t count() const { return (d1 - d0) * (h1 - h0) * (w1 - w0); }
  bool operator==(const Taps &o) const { return d0 == o.d0 && d1 == o.d1 && h0 == o.h0 && h1 == o.h1 && w0 == o.w0 && w1 == o.w1; }
};

// The kernel rows of t that are not all padding at output row number `index`
WNN_INLINE Taps within(const Conv &c, Taps t, int64_t index) {
  const int64_t oh = index % c.out[1], od = index / c.out[1] % c.out[0];
  inside(od * c.stride[0] - c.pad[0], c.dilation[0], c.in[0], c.kernel[0], &t.d0, &t.d1);
  inside(oh * c.stride[1] - c.pad[1], c.dilation[1], c.in[1], c.kernel[1], &t.h0, &t.h1);
  return t;
}

// What a row of outputs does in registers, if it comes first: bias, then a clip; returns the rest of the posts
template <class Row> WNN_INLINE const wnn_post *take_bias_and_clip(Row &row, const PostList &posts) {
  const wnn_post *post = posts.post, *const end = post + posts.n;
  if (post < end && post->kind == WNN_POST_BIAS) row.bias = post++->data;
  if (post < end && post->kind == WNN_POST_RELU) row.lo = 0, post++;
  else if (post < end && post->kind == WNN_POST_CLIP) row.lo = post->a, row.hi = post++->b;
  return post;
}

// acc[p] += four taps of depthwise kernels, for P pixels each as far from the last as a tap is: a pixel is loaded once for them
template <int P> static inline __attribute__((always_inline, unused)) void four_taps(vf *acc, const float *x, int64_t pixel, const float *w, int64_t tap) {
  vf wv[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) wv[i] = held(load(w + i * tap));
#pragma GCC unroll 11
  for (int i = 0; i < P + 3; i++, x += pixel) {
    asm("" : "+r"(x));  // else GCC keeps an address for each
    const vf xv = held(load(x));
#pragma GCC unroll 8
    for (int p = 0; p < P; p++)
      if (i - p >= 0 && i - p < 4) acc[p] += wv[i - p] * xv;
  }
}

// f(input row, kernel row) for the rows within x of the kernel at output row number `index`
template <class F> WNN_INLINE void kernel_rows(const Conv &c, int64_t index, F f) {
  const int64_t oh = index % c.out[1], od = index / c.out[1] % c.out[0], n = index / c.out[1] / c.out[0];
  const int64_t d = od * c.stride[0] - c.pad[0], h = oh * c.stride[1] - c.pad[1];
  const Taps t = within(c, {}, index);
  for (int64_t kd = t.d0; kd < t.d1; kd++)
    for (int64_t kh = t.h0; kh < t.h1; kh++) f((n * c.in[0] + d + kd * c.dilation[0]) * c.in[1] + h + kh * c.dilation[1], kd * c.kernel[1] + kh);
}

// p[i] = at + i*step
__attribute__((noinline, unused)) static void ramp(int64_t *p, int64_t n, int64_t at, int64_t step) {
  typedef int64_t v2 __attribute__((vector_size(16), aligned(8), may_alias));
  v2 x = {at, at + step}, y = x + 2 * step;
  int64_t i = 0;
  for (; i + 4 <= n; i += 4, x += 4 * step, y += 4 * step) *(v2 *)(p + i) = x, *(v2 *)(p + i + 2) = y;
  for (; i < n; i++) p[i] = at + i * step;
}

// a[t*M + r]: where in x the tap number t of `taps` begins for output m0 + r
[[maybe_unused]] static void row_table(const Conv &c, const Taps &taps, int64_t zeros, int64_t m0, int64_t M, int64_t *a) {
  for (int64_t m = 0; m < M;) {
    const int64_t ow = (m0 + m) % c.out[2], row = (m0 + m) / c.out[2], oh = row % c.out[1], plane = row / c.out[1];
    const int64_t od = plane % c.out[0], n = plane / c.out[0], run = min_of(M - m, c.out[2] - ow);
    int64_t *p = a + m;
    for (int64_t kd = taps.d0; kd < taps.d1; kd++)
      for (int64_t kh = taps.h0; kh < taps.h1; kh++) {
        const int64_t id = od * c.stride[0] - c.pad[0] + kd * c.dilation[0], ih = oh * c.stride[1] - c.pad[1] + kh * c.dilation[1];
        const bool in = id >= 0 && id < c.in[0] && ih >= 0 && ih < c.in[1];
        const int64_t step = c.stride[2] * c.pixel;
        for (int64_t kw = taps.w0; kw < taps.w1; kw++, p += M) {
          const int64_t iw = ow * c.stride[2] - c.pad[2] + kw * c.dilation[2];
          int64_t begin = run, end = run;
          if (in) inside(iw, c.stride[2], c.in[2], run, &begin, &end);
          const int64_t at = (((n * c.in[0] + id) * c.in[1] + ih) * c.in[2] + iw) * c.pixel;
          ramp(p, begin, zeros, 0);
          ramp(p + begin, end - begin, at + begin * step, step);
          ramp(p + end, run - end, zeros, 0);
        }
      }
    m += run;
  }
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
