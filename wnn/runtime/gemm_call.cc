// wnn: once
// A whole product as the api describes it: B is packed if it is plain, C is cut into tasks.
#include "gemm.h"

namespace {
// What the busiest of the threads gets of `total` in parts of `size`, each of which is `others` tasks
int64_t busiest(int64_t total, int64_t size, int64_t others, int threads) {
  const int64_t parts = ceil_div(total, size), rounds = parts * others / threads, left = parts * others % threads;
  return rounds * size + (!left ? 0 : left == 1 && others == 1 ? total - (parts - 1) * size : size);
}
}  // namespace

GemmGrid gemm_grid(int64_t M, int64_t N, int64_t K, int64_t max_rows, int threads) {
  constexpr int64_t a_floats = 1 << 16, min_flops = 1 << 20;  // of A in L2; of a task
  const int64_t most = max_of(1, min_of(threads > 1 ? 4 * threads : 1, 2 * M * N * K / min_flops));
  const int64_t rows = min_of(max_rows, max_of(72, a_floats / max_of(1, min_of(K, 512))));
  int64_t n_count = 1;
  if (M < N) n_count = min_of(most, ceil_div(N, 64));
  int64_t m_count = max_of(ceil_div(M, rows), min_of(ceil_div(most, n_count), ceil_div(M, 24)));
  if (m_count * n_count < most) n_count = min_of(ceil_div(most, max_of(1, m_count)), ceil_div(N, 64));
  int64_t m_size = max_of(1, ceil_div(M, max_of(1, m_count))), n_size = max_of(16, ceil_div(ceil_div(N, max_of(1, n_count)), 16) * 16);
  if (most == 1) m_size = m_size > 72 ? min_of(max_rows, ceil_div(m_size, 36) * 36) : m_size;
  else {  // fewer columns or rows at a time where the threads are done sooner
    for (int64_t i = n_count - 1, best = busiest(N, n_size, m_count, threads); i > n_count / 2; i--) {
      const int64_t size = ceil_div(ceil_div(N, i), 16) * 16, load = busiest(N, size, m_count, threads);
      if (load < best) best = load, n_size = size;
    }
    n_count = ceil_div(N, n_size);
    for (int64_t i = m_count + 1, best = busiest(M, m_size, n_count, threads); i < m_count + threads; i++) {
      const int64_t size = ceil_div(M, i), load = busiest(M, size, n_count, threads);
      if (load < best) best = load, m_size = size;
    }
  }
  return {M, N, m_size, n_size, ceil_div(M, m_size), ceil_div(N, n_size)};
}

namespace {
// A few rows take a plain B as it is
constexpr int64_t thin_rows = 8;
bool is_thin(const wnn_gemm_call *g) { return g->b_layout == WNN_PLAIN && g->b_col == 1 && g->M <= thin_rows && !g->a_rows && !g->c_rows; }

void thin(wnn_ctx *ctx, int threads, const wnn_gemm_call *g) {
  constexpr int64_t part = 512;
  for_tasks(ctx, g->M * g->N * g->K < 1 << 17 ? 1 : threads, ceil_div(g->N, part), [&](int64_t i) {
    const int64_t n0 = i * part, n1 = min_of(g->N, n0 + part);
    for (int64_t m = 0; m < g->M; m += 3) wnn_gemm_thin(g, m, min_of(3, g->M - m), n0, n1);
  });
}
}  // namespace

size_t gemm_scratch_bytes(const wnn_gemm_call *call, int) {
  const size_t zeros = call->a_rows ? size_t(ceil_div(call->K, 16)) * 64 : 0;
  return zeros + (call->b_layout == WNN_PLAIN && !is_thin(call) ? size_t(panel_floats(call->K, call->N)) * 4 : 0);
}

namespace {
constexpr int64_t max_call_rows = 512;
struct Call { const wnn_gemm_call *g; const float *b, *zeros; int64_t m0, m1, n0, n1; };

void run_block(const Call &call) {
  const wnn_gemm_call *const g = call.g;
  GemmBlock block{};
  block.a = g->A + call.m0 * g->lda, block.lda = g->lda, block.taps = 1, block.kc = g->K;
  block.b = call.b, block.panel = 16 * g->K;
  block.c = g->C, block.ldc = g->ldc, block.row0 = call.m0, block.M = call.m1 - call.m0;
  block.n0 = call.n0, block.n1 = call.n1, block.post = g->post, block.n_post = g->n_post;
  int64_t a[max_call_rows];
  int32_t rows[max_call_rows];
  if (g->a_rows || g->c_rows) {
    int64_t M = 0;
    for (int64_t m = call.m0; m < call.m1; m++) {
      const int64_t from = g->a_rows ? g->a_rows[m] : m, to = g->c_rows ? g->c_rows[m] : m;
      a[M] = from < 0 ? apart(call.zeros, g->A) : from * g->lda;
      rows[M] = int32_t(to);
      M += to >= 0;
    }
    block.a = g->A, block.a_rows = a, block.rows = rows, block.M = M;
  }
  gemm_block(block);
}
}  // namespace

int gemm(wnn_ctx *ctx, const wnn_gemm_call *g) {
  const int threads = g->threads == 1 ? 1 : ctx->num_threads;
  if (is_thin(g)) return thin(ctx, threads, g), 0;
  const float *b = g->B, *zeros = nullptr;
  float *scratch = (float *)g->scratch;
  if (g->a_rows) {
    memset(scratch, 0, size_t(g->K) * 4);
    zeros = scratch;
    scratch += ceil_div(g->K, 16) * 16;
  }
  if (g->b_layout == WNN_PLAIN) {
    const int64_t panels = ceil_div(g->N, 16), each = max_of(1, 16384 / max_of(1, 16 * g->K));
    for_tasks(ctx, threads, ceil_div(panels, each), [&](int64_t task) {
      for (int64_t j = task * each; j < min_of(panels, (task + 1) * each); j++)
        pack_panel(g->K, min_of(16, g->N - 16 * j), g->B + 16 * j * g->b_col, g->b_row, g->b_col, scratch + j * 16 * g->K);
    });
    b = scratch;
  }
  const GemmGrid grid = gemm_grid(g->M, g->N, g->K, max_call_rows, threads);
  for_tasks(ctx, threads, grid.tasks(), [&](int64_t i) {
    Call call{g, b, zeros, 0, 0, 0, 0};
    grid.at(i, &call.m0, &call.m1, &call.n0, &call.n1);
    run_block(call);
  });
  return 0;
}
