// wnn: once
// y = post(what windows hold, added up where they overlap, + bias), channels last, 1 to 3 spatial axes.
//   x: (N, *spatial, taps * M) f32, rows, taps before channels      bias?: (M,)      y: (N, *out spatial, M) f32, contiguous
//   attrs: ConvAttrs, posts
// Outputs are made part of a row by part, each from the windows in ascending order.
#include "conv.h"

namespace {

// The place along axis i of the window whose tap k reaches output o; -1: there is none
int64_t window(const Conv &c, int i, int64_t o, int64_t k) {
  const int64_t at = o + c.pad[i] - k * c.dilation[i];
  return at < 0 || at % c.stride[i] || at / c.stride[i] >= c.in[i] ? -1 : at / c.stride[i];
}

// to[j - from] += v[j - at] for the j of [at, at + n) that are in [from, end)
void add(const float *v, int64_t at, int64_t n, int64_t from, int64_t end, float *to) {
  const int64_t skip = max_of(0, from - at);
  v += skip, at += skip, n = min_of(n - skip, end - at), to += at - from;
  if (n > 0) map(to, n, [=](auto load, int64_t i) { return load(to + i) + load(v + i); });
}

}  // namespace

KERNEL(col2im_f32) {
  const Conv c(attrs, in[0], out[0]);
  const PostList posts((const char *)attrs + posts_offset, nullptr, in);
  const float *const bias = nin > 1 && in[1] ? f32(in[1]) : nullptr;
  float *const y = f32(out[0]);
  const int64_t M = last_dim(out[0]), rows = c.N * c.out[0] * c.out[1], K = c.kernel[2];
  // taps that lie side by side in y, too, go together
  const int64_t segments = c.dilation[2] == 1 ? 1 : K, length = K / segments * M;
  const int64_t each = max_of(1, 8192 / max_of(1, M)), parts = ceil_div(c.out[2], each);
  bool same = true;  // posts ask for neither channel nor pixel
  for (int i = 0; i < posts.n; i++) same = same && !posts.post[i].data;
  for_tasks(ctx, ctx->num_threads, rows * parts, [&](int64_t task) {
    const int64_t row = task / parts, w0 = task % parts * each, w1 = min_of(c.out[2], w0 + each);
    const int64_t oh = row % c.out[1], od = row / c.out[1] % c.out[0], n = row / c.out[1] / c.out[0];
    float *const to = y + (row * c.out[2] + w0) * M;
    if (M == 1 || !bias) {
      const float start = bias ? *bias : 0;
      map(to, (w1 - w0) * M, [=](auto, int64_t) { return splat(start); });
    } else for (int64_t w = 0; w < w1 - w0; w++) map(to + w * M, M, [=](auto load, int64_t m) { return load(bias + m); });
    const int64_t first = max_of(0, ceil_div(max_of(0, w0 + c.pad[2] - (K - 1) * c.dilation[2]), c.stride[2]));
    const int64_t last = w1 + c.pad[2] <= 0 ? 0 : min_of(c.in[2], (w1 - 1 + c.pad[2]) / c.stride[2] + 1);
    for (int64_t kd = 0; kd < c.kernel[0]; kd++)
      for (int64_t kh = 0; kh < c.kernel[1]; kh++) {
        const int64_t id = window(c, 0, od, kd), ih = window(c, 1, oh, kh);
        if (id < 0 || ih < 0) continue;
        const float *const from = c.x + ((n * c.in[0] + id) * c.in[1] + ih) * c.in[2] * c.pixel + (kd * c.kernel[1] + kh) * K * M;
        for (int64_t iw = first; iw < last; iw++)
          for (int64_t s = 0; s < segments; s++)
            add(from + iw * c.pixel + s * length, (iw * c.stride[2] - c.pad[2] + s * c.dilation[2]) * M, length, w0 * M, w1 * M, to);
      }
    if (same) post_tile(posts.post, posts.n, to, 0, 0, nullptr, 1, 0, (w1 - w0) * M);
    else post_tile(posts.post, posts.n, to, M, row * c.out[2] + w0, nullptr, w1 - w0, 0, M);
  });
  return 0;
}
