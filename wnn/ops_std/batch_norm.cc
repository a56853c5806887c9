// wnn: avx2
// y = post(x * w + bias), channel by channel.
//   x, y: (..., C) f32, rows; y may be the same memory as x    w, bias?: (C,)    attrs: posts
#include "conv/conv.h"

namespace {

constexpr int64_t TASK = 16384;  // elements

struct Row {
  const float *w, *bias;
  float lo = -INFINITY, hi = INFINITY;
};

void rows(const Row &row, const float *x, int64_t ldx, float *y, int64_t ldy, int64_t M, int64_t C) {
  const float *const w = row.w, *const bias = row.bias;
  const float lo = row.lo, hi = row.hi;
  for (int64_t r = 0; r < M; r++, x += ldx, y += ldy)
    map(y, C, [=](auto v, int64_t i) { return clamp(v(x + i) * v(w + i) + (bias ? v(bias + i) : vf{}), lo, hi); });
}

}  // namespace

KERNEL(batch_norm_f32) {
  const PostList posts(attrs, nin > 2 ? in[2] : nullptr, in);
  Row row{f32(in[1]), nullptr};
  const wnn_post *const post = take_bias_and_clip(row, posts), *const end = posts.post + posts.n;
  const int64_t C = last_dim(out[0]), M = C ? count(out[0]) / C : 0, each = max_of(1, TASK / max_of(1, C));
  const int64_t ldx = row_stride(in[0]), ldy = row_stride(out[0]);
  parallel_for(ctx, ceil_div(M, each), [&](int64_t task, int) {
    const int64_t first = task * each, n = min_of(each, M - first);
    rows(row, f32(in[0]) + first * ldx, ldx, f32(out[0]) + first * ldy, ldy, n, C);
    if (post < end) post_tile(post, int(end - post), f32(out[0]) + first * ldy, ldy, first, nullptr, n, 0, C);
  });
  return 0;
}
