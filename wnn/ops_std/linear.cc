// wnn: once
// y = post(x w + bias), rows of x times a matrix.
//   x: (..., K) f32, axes before the last collapse into rows      w: (K, N) f32, panels of 16 or plain      bias?: (N,)
//   y: (..., N) f32, rows as x; matrices that posts read likewise
//   attrs: posts
#include "gemm.h"

namespace {
wnn_gemm_call describe(const wnn_tensor *x, const wnn_tensor *w, const wnn_tensor *y) {
  wnn_gemm_call g{};
  g.struct_size = sizeof g;
  g.K = last_dim(x), g.N = last_dim(y), g.M = g.N ? count(y) / g.N : 0;
  g.A = f32(x), g.lda = row_stride(x);
  g.B = f32(w), g.b_layout = int32_t(w->layout), g.b_row = w->strides[0], g.b_col = w->strides[1];
  g.C = f32(y), g.ldc = row_stride(y);
  return g;
}
}  // namespace

SCRATCH(linear_f32) {
  const wnn_gemm_call g = describe(in[0], in[1], out[0]);
  return gemm_scratch_bytes(&g, num_threads);
}
KERNEL_S(linear_f32) {
  wnn_gemm_call g = describe(in[0], in[1], out[0]);
  const PostList posts(attrs, nin > 2 ? in[2] : nullptr, in);
  g.post = posts.post, g.n_post = posts.n;
  g.scratch = ctx->scratch;
  return gemm(ctx, &g);
}
