// gemm.h: matrix products as the core's own kernels use them, inside a task of parallel_for. Op packages use api->gemm.
//
// Every element of C is one chain of fused multiply-adds over k in ascending order, started at the bias where the posts
// begin with one. So its bits do not depend on the tile, the block or the thread that made it.
#pragma once
#include "vecmath.h"

// What will be read next, fetched by tiles in passing
struct Stream { const float *at, *end; };

// C[m, n] for m in [0, M), n in [n0, n1) = post(sum over t, k of A_t[m, k] * B[t*kc + k, n])
struct GemmBlock {
  const float *a;             // segment t of row m starts at a + a_rows[t*a_step + m]; without a_rows, at a + m*lda
  const int64_t *a_rows;
  int64_t lda, a_step, taps, kc;
  const float *b;             // columns 16j to 16j + 15 at b + j*panel, row k of them at 16k more
  int64_t panel;
  const int64_t *b_rows;      // the row of B where segment t begins; null: t * kc
  float *c;                   // row m is C's row number (rows ? rows[m] : row0 + m), at c + number*ldc
  const int32_t *rows;
  int64_t row0, ldc, M, n0, n1;  // n0 is a multiple of 16
  const wnn_post *post;
  int n_post;
  Stream *later;              // or null
};

int gemm(wnn_ctx *ctx, const wnn_gemm_call *call);
size_t gemm_scratch_bytes(const wnn_gemm_call *call, int num_threads);

extern bool wnn_fma512;  // 512-bit multiply-adds have the rate of 256-bit ones

// The best builds for this CPU
extern void (*wnn_gemm_block)(const GemmBlock &block);
extern void (*wnn_gemm_thin)(const wnn_gemm_call *call, int64_t m, int64_t R, int64_t n0, int64_t n1);
extern void (*wnn_pack_panel)(int64_t K, int64_t N, const float *b, int64_t b_row, int64_t b_col, float *panel);

// One panel of N columns, 1 to 16
static inline void pack_panel(int64_t K, int64_t N, const float *b, int64_t b_row, int64_t b_col, float *panel) {
  wnn_pack_panel(K, N, b, b_row, b_col, panel);
}

#ifdef WNN_BEST_GEMM
static inline void gemm_block(const GemmBlock &block) { wnn_gemm_block(block); }
#else
namespace WNN_ISA_SPACE(WNN_ISA) {
void gemm_block(const GemmBlock &block);
// The same where columns are few or K is short; false, and nothing done, elsewhere
bool gemm_narrow(const GemmBlock &block);
// Rows m to m + R, at most 3, of columns [n0, n1) of a product with a plain B of dense rows
void gemm_thin(const wnn_gemm_call *call, int64_t m, int64_t R, int64_t n0, int64_t n1);
}
#endif

namespace {

constexpr int32_t post_both = -1;    // a post of the core's own: mat += c, then c += what lies `reserved` floats behind mat
constexpr int64_t max_table = 4096;  // entries of a table of rows on a task's stack

WNN_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
WNN_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
WNN_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
WNN_INLINE int64_t panel_floats(int64_t K, int64_t N) { return ceil_div(N, 16) * 16 * K; }

// Elements from `base` to `p`, which may lie in another array
WNN_INLINE int64_t apart(const float *p, const float *base) { return (int64_t(p) - int64_t(base)) / 4; }

// body(task) for each task; in the caller where one thread is allowed
template <class F> WNN_INLINE void for_tasks(wnn_ctx *ctx, int threads, int64_t tasks, const F &body) {
  if (threads > 1 && tasks > 1) parallel_for(ctx, tasks, [&](int64_t task, int) { body(task); });
  else for (int64_t task = 0; task < tasks; task++) body(task);
}

}  // namespace

// How C is cut into tasks: m_count x n_count blocks of at most m_size x n_size
struct GemmGrid {
  int64_t M, N, m_size, n_size, m_count, n_count;
  __attribute__((always_inline)) int64_t tasks() const { return m_count * n_count; }
  __attribute__((always_inline)) void at(int64_t task, int64_t *m0, int64_t *m1, int64_t *n0, int64_t *n1) const {
    *m0 = task / n_count * m_size, *n0 = task % n_count * n_size;
    *m1 = min_of(M, *m0 + m_size), *n1 = min_of(N, *n0 + n_size);
  }
};
GemmGrid gemm_grid(int64_t M, int64_t N, int64_t K, int64_t max_rows, int threads);

namespace {

// ---- what kernels with posts share ----
// The row stride of a tensor whose axes before the last collapse into one
WNN_INLINE int64_t row_stride(const wnn_tensor *t) {
  for (int i = t->ndim - 2; i >= 0; i--)
    if (t->shape[i] != 1) return t->strides[i];
  return last_dim(t);
}

struct Posts { const float *bias = nullptr, *add = nullptr; int64_t add_ld = 0; bool clip = false; float lo = 0, hi = 0; const wnn_post *rest; int n_rest; };
// What a tile does in registers: bias, then a matrix to add, then a clip, each if it comes next
[[maybe_unused]] static Posts split(const wnn_post *post, int n_post) {
  Posts s;
  const wnn_post *const end = post + n_post;
  if (post < end && post->kind == WNN_POST_BIAS) s.bias = post++->data;
  if (post < end && post->kind == WNN_POST_ADD) s.add = post->data, s.add_ld = post++->ld;
  if (post < end && post->kind == WNN_POST_RELU) s.clip = true, s.hi = INFINITY, post++;
  else if (post < end && post->kind == WNN_POST_CLIP) s.clip = true, s.lo = post->a, s.hi = post++->b;
  s.rest = post, s.n_rest = int(end - post);
  return s;
}

// The posts of a call: attrs as wnn/post.py packs them, after a bias that may be absent
struct PostList {
  static constexpr int most = 16;
  wnn_post post[most];
  int n = 0;

  PostList(const void *attrs, const wnn_tensor *bias, const wnn_tensor *const *in) {
    struct Packed { int32_t kind, input; float a, b; };
    if (bias) post[n++] = {WNN_POST_BIAS, 0, 0, 0, f32(bias), 0};
    const int32_t count = attr<int32_t>(attrs, 0);
    for (int32_t i = 0; i < count && n < most; i++) {
      const Packed p = attr<Packed>(attrs, 8 + 16 * i);
      const wnn_tensor *t = p.input < 0 ? nullptr : in[p.input];
      post[n++] = {p.kind, 0, p.a, p.b, t ? f32(t) : nullptr, t ? row_stride(t) : 0};
    }
  }
  // the same for columns from n on
  PostList(const PostList &all, int64_t column) : n(all.n) {
    for (int i = 0; i < n; i++) {
      post[i] = all.post[i];
      if (post[i].data) post[i].data += column;
    }
  }
};

}  // namespace
