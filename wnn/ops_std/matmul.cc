// wnn: once
// y = post(a b) over broadcast batches of matrices.
//   a: (..., M, K) f32, any strides      b: (..., K, N) f32, any strides, or panels of 16      y: (..., M, N) f32, last axis dense
//   attrs: posts; their matrices have y's shape
// A plain b is packed, an a whose last axis is not dense is copied: by each task for many small matrices, else once for all.
#include "gemm.h"

namespace {

struct Matmul {
  int64_t M, N, K, batch;
  const wnn_tensor *a, *b, *y;
  int64_t ldc;

  Matmul(const wnn_tensor *const *in, const wnn_tensor *out) : a(in[0]), b(in[1]), y(out) {
    M = y->shape[y->ndim - 2], N = last_dim(y), K = last_dim(a), ldc = M > 1 ? y->strides[y->ndim - 2] : N;
    batch = 1;
    for (int i = 0; i < y->ndim - 2; i++) batch *= y->shape[i];
  }
  int64_t step(const wnn_tensor *t, int from_end) const { return t->ndim >= from_end ? t->strides[t->ndim - from_end] : 0; }
  bool packed() const { return b->layout == WNN_PANEL16; }
  bool dense() const { return K == 1 || step(a, 1) == 1; }
  // where matrix i of the batch lies in t; matrix: elements of one if it is packed, else 0
  int64_t offset(const wnn_tensor *t, int64_t i, int64_t matrix) const {
    int64_t at = 0, step = matrix;
    for (int axis = y->ndim - 3; axis >= 0; axis--) {
      const int64_t index = i % y->shape[axis];
      i /= y->shape[axis];
      const int own = axis - y->ndim + t->ndim;
      if (own < 0) continue;
      if (t->shape[own] > 1) at += index * (matrix ? step : t->strides[own]);
      step *= t->shape[own];
    }
    return at;
  }
  // the batch is one tall matrix against one b
  bool tall() const {
    if (batch == 1 || !dense()) return false;
    for (int i = 0; i < b->ndim - 2; i++)
      if (b->shape[i] != 1) return false;
    const wnn_tensor *const rows[] = {a, y};
    for (const wnn_tensor *t : rows) {
      int64_t row = t->strides[t->ndim - 2] * t->shape[t->ndim - 2];
      if (t->ndim != y->ndim) return false;
      for (int i = t->ndim - 3; i >= 0; i--) {
        if (t->shape[i] != y->shape[i]) return false;
        if (t->shape[i] > 1 && t->strides[i] != row) return false;
        row *= t->shape[i];
      }
    }
    return true;
  }
  // one matrix is work for all threads
  bool large(int threads) const { return batch < threads || (batch < 4 * threads && M * N * K > 1 << 21); }
  int64_t a_floats() const { return dense() ? 0 : ceil_div(M * K, 16) * 16; }
  int64_t b_floats() const { return packed() ? 0 : panel_floats(K, N); }

  wnn_gemm_call call(int64_t i, const PostList &posts, wnn_post *own) const {
    wnn_gemm_call g{};
    g.struct_size = sizeof g;
    g.M = M, g.N = N, g.K = K;
    g.A = f32(a) + offset(a, i, 0), g.lda = step(a, 2);
    g.B = f32(b) + offset(b, i, packed() ? panel_floats(K, N) : 0), g.b_layout = int32_t(b->layout), g.b_row = step(b, 2), g.b_col = step(b, 1);
    g.C = f32(y) + offset(y, i, 0), g.ldc = ldc;
    for (int p = 0; p < posts.n; p++) {
      own[p] = posts.post[p];
      if (own[p].kind == WNN_POST_ADD || own[p].kind == WNN_POST_MUL) own[p].data += i * M * own[p].ld;
    }
    g.post = own, g.n_post = posts.n;
    return g;
  }
};

// Copies a's matrix, of strides row and col, to dense rows
void copy_rows(const wnn_gemm_call &g, int64_t col, float *to) {
  for (int64_t m0 = 0; m0 < g.M; m0 += 16)
    for (int64_t k = 0; k < g.K; k++)
      for (int64_t m = m0; m < min_of(g.M, m0 + 16); m++) to[m * g.K + k] = g.A[m * g.lda + k * col];
}

}  // namespace

SCRATCH(matmul_f32) {
  const Matmul m(in, out[0]);
  return size_t(m.a_floats() + m.b_floats()) * 4 * size_t(m.large(num_threads) ? 1 : num_threads);
}

KERNEL_S(matmul_f32) {
  Matmul m(in, out[0]);
  const PostList posts(attrs, nullptr, in);
  float *scratch = (float *)ctx->scratch;
  wnn_post own[PostList::most];
  if (m.tall()) m.M *= m.batch, m.batch = 1, m.ldc = m.step(m.y, 2);
  const bool large = m.large(ctx->num_threads);
  auto one = [&](int64_t i, float *memory, wnn_post *list) {
    wnn_gemm_call g = m.call(i, posts, list);
    g.threads = large ? 0 : 1;
    if (!m.dense()) {
      copy_rows(g, m.step(m.a, 1), memory);
      g.A = memory, g.lda = m.K;
    }
    g.scratch = memory + m.a_floats();
    return gemm(ctx, &g);
  };
  if (large || m.batch == 1) {
    for (int64_t i = 0; i < m.batch; i++) one(i, scratch, own);
    return 0;
  }
  parallel_for(ctx, m.batch, [&](int64_t i, int worker) {
    wnn_post list[PostList::most];
    one(i, scratch + worker * (m.a_floats() + m.b_floats()), list);
  });
  return 0;
}
