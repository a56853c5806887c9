// wnn: hot
// GEMM: B in panels of 16 columns, A read in place, a tile of C in registers.
#include "gemm.h"

namespace {
constexpr int most_rows = 14;

struct Tile {
  const float *a;
  const int64_t *a_rows;
  int64_t a_step, taps, kc;
  const float *b;
  int64_t panel;
  const int64_t *b_rows;
  int64_t ahead;          // from B to what is to be prefetched
  float *c;
  const int64_t *c_rows;  // where each row of C starts
  const float *bias;      // where sums start
  const float *from;      // and where each row of a matrix that is added starts, or null
  const int64_t *from_rows;
  int64_t tail;           // columns in the last vector
  float lo, hi;
  bool clip;
  bool far;               // C is out of the near caches
};

constexpr float zeros[64] = {};

// R rows by V vectors
template <int R, int V> void tile(const Tile &shared) {
  const Tile t = shared;  // else what is stored could change it, for all the compiler knows
  vf acc[R][V];
#pragma GCC unroll 4
  for (int v = 0; v < V; v++) {
    const vf start = v < V - 1 ? load(t.bias + v * L) : load_n(t.bias + v * L, t.tail);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) acc[r][v] = start;
  }
  if (t.from) {
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) {
        const float *const from = t.from + t.from_rows[r] + v * L;
        acc[r][v] += v < V - 1 ? load(from) : load_n(from, t.tail);
      }
  }

  if (t.far && t.kc >= 96)  // its lines come while the products are made
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < V; v += 16 / L) __builtin_prefetch(t.c + t.c_rows[r] + v * L, 1, 3);
  const bool deep = t.taps * t.kc > 512;  // what is fetched would fill L1: to L2
  const float *b = t.b;
  for (int64_t tap = 0; tap < t.taps; tap++) {
    if (t.b_rows) b = t.b + 16 * t.b_rows[tap];
    const float *a[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      a[r] = t.a + t.a_rows[tap * t.a_step + r];
      asm("" : "+r"(a[r]));  // else GCC walks one row and addresses the others by their distance from it
    }
    for (int64_t k = 0; k < t.kc; k++, b += 16) {
      if (deep) __builtin_prefetch(b + t.ahead, 0, 2);
      else __builtin_prefetch(b + t.ahead, 0, 3);
      vf bv[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) bv[v] = load(b + v * L / 16 * t.panel + v * L % 16);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const vf x = splat(a[r][k]);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) acc[r][v] += x * bv[v];
      }
    }
  }

  if (t.clip) {
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) acc[r][v] = clamp(acc[r][v], t.lo, t.hi);
  }
  const bool whole = WNN_ISA == 1 && t.tail == L;  // a masked store takes twelve cycles on AMD
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
    float *const c = t.c + t.c_rows[r];
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      if (v < V - 1 || whole) store(c + v * L, acc[r][v]);
      else store_n(c + v * L, acc[r][v], t.tail);
    }
  }
}

// max_rows[V]: the rows that fit in registers beside V vectors of B; tiles[V][R - 1]
#define TILES2(V) tile<1, V>, tile<2, V>
#define TILES4(V) TILES2(V), tile<3, V>, tile<4, V>
#define TILES6(V) TILES4(V), tile<5, V>, tile<6, V>
#define TILES9(V) TILES6(V), tile<7, V>, tile<8, V>, tile<9, V>
#define TILES14(V) TILES9(V), tile<10, V>, tile<11, V>, tile<12, V>, tile<13, V>, tile<14, V>
using TileFn = void (*)(const Tile &);
#if WNN_ISA == 2  // one vector: gemm_narrow
constexpr int max_rows[5] = {0, 0, 14, 9, 0};
const TileFn tiles[5][most_rows] = {{}, {}, {TILES14(2)}, {TILES9(3)}, {}};
#elif WNN_ISA == 1  // V divides a panel or is whole panels
constexpr int max_rows[5] = {0, 9, 6, 0, 2};
const TileFn tiles[5][9] = {{}, {TILES9(1)}, {TILES6(2)}, {}, {TILES2(4)}};
#else
constexpr int max_rows[5] = {0, 4, 4, 0, 0};
const TileFn tiles[5][4] = {{}, {TILES4(1)}, {TILES4(2)}, {}, {}};
#endif

// Cycles of one k step of the tiles of V vectors that cover M rows: two FMAs and two loads a cycle, latency 4
float step_cost(int V, int64_t M, int64_t rows) {
  const int64_t count = ceil_div(M, min_of(rows, max_rows[V]));
  const float fma = M * V * 0.5f, loads = (M + count * V) * 0.5f + (V == 1 ? M * 0.25f : 0), least = count * 4;
  const float most = fma > loads ? fma : loads;
  return (most > least ? most : least) + count * 0.4f;
}

// How many tiles of each width cover `vectors` vectors: `wide` ones, then one of each narrower in turn
struct Widths {
  int64_t count[5] = {};
  Widths(int64_t vectors, int wide) {
    for (int v = wide; v; v--)
      if (max_rows[v]) count[v] = vectors / v, vectors %= v;
    if (!vectors) return;
    // one is left over that has no tile: 3 + 1 = 2 + 2, 2 + 1 = 3
    count[wide]--;
    if (wide == 3) count[2] += 2;
    else count[3]++;
  }
};

// The `wide` that costs least
int best_width(int64_t vectors, int64_t M, int64_t rows) {
  int best = 0;
  float least = INFINITY;
  for (int wide = 1; wide <= 4; wide++) {
    if (!max_rows[wide]) continue;
    const Widths widths(vectors, wide);
    if (!widths.count[wide]) continue;
    float cost = 0;
    for (int v = 1; v <= 4; v++)
      if (widths.count[v]) cost += widths.count[v] * step_cost(v, M, min_of(rows, max_rows[wide]));
    if (cost < least) least = cost, best = wide;
  }
  return best;
}

struct Job {
  const GemmBlock &g;
  const Posts posts;
  Tile t{};
  const float *a, *b;     // A and B from the k on that the tiles now start with
  const int64_t *a_rows;
  const float *ahead = nullptr;  // what the next tile prefetches, a line for each k; or null
  bool first = true, last = false;
  int turn = 0;
  int64_t a_dense[most_rows], c_dense[most_rows], add_dense[most_rows];  // the first rows of dense matrices

  explicit Job(const GemmBlock &block) : g(block), posts(split(block.post, block.n_post)) {
    for (int r = 0; r < most_rows; r++) a_dense[r] = r * g.lda, c_dense[r] = r * g.ldc, add_dense[r] = r * posts.add_ld;
    t.a_rows = a_dense, t.c_rows = c_dense;
    t.a_step = g.a_step, t.panel = g.panel, t.b_rows = g.b_rows, t.far = g.M * (g.n1 - g.n0) > 1 << 17, t.lo = posts.lo, t.hi = posts.hi;
  }

  // The rows from m on of V vectors of columns from n on, the last of `tail` columns
  void run(int V, int64_t m, int64_t rows, int64_t n, int64_t tail) {
    int64_t scattered[most_rows], add_scattered[most_rows];
    t.a = g.a_rows ? a : a + m * g.lda;
    if (g.a_rows) t.a_rows = a_rows + m;
    t.c = g.c + n;
    t.from = first ? posts.add ? posts.add + n : nullptr : t.c;
    if (g.rows) {
      for (int64_t r = 0; r < rows; r++) scattered[r] = g.rows[m + r] * g.ldc, add_scattered[r] = g.rows[m + r] * posts.add_ld;
      t.c_rows = scattered, t.from_rows = first ? add_scattered : scattered;
    } else {
      t.c += (g.row0 + m) * g.ldc;
      t.from_rows = first ? add_dense : c_dense;
      if (t.from) t.from += (g.row0 + m) * (first ? posts.add_ld : g.ldc);
    }
    t.b = b + n / 16 * g.panel + n % 16;
    t.ahead = ahead ? apart(ahead, t.b) : 0;
    if (g.later && g.later->at < g.later->end && ++turn % 2) {
      t.ahead = apart(g.later->at, t.b);
      g.later->at += 16 * t.taps * t.kc;
    }
    t.bias = first && posts.bias ? posts.bias + n : zeros;
    t.tail = tail;
    if (first && posts.add && !g.rows)  // what the rows below begin with
      for (int64_t r = m + rows; r < min_of(g.M, m + 2 * rows); r++)
        for (int64_t j = 0; j < V * L; j += 16) __builtin_prefetch(posts.add + (g.row0 + r) * posts.add_ld + n + j, 0, 3);
    tiles[V][rows - 1](t);
    if (last && posts.n_rest) finish(m, rows, n, (V - 1) * L + tail);
  }
  void finish(int64_t m, int64_t rows, int64_t n, int64_t columns) const {
    if (!g.rows) return post_tile(posts.rest, posts.n_rest, g.c + (g.row0 + m) * g.ldc + n, g.ldc, g.row0 + m, nullptr, rows, n, columns);
    for (int64_t r = m; r < m + rows; r++)
      post_tile(posts.rest, posts.n_rest, g.c + g.rows[r] * g.ldc + n, g.ldc, g.rows[r], nullptr, 1, n, columns);
  }
};

// f(V, n, tail) for the tiles' columns from left to right
template <class F> void each_column(const GemmBlock &g, int wide, F f) {
  Widths widths(ceil_div(g.n1 - g.n0, L), wide);
  int64_t n = g.n0;
  for (int V = 4; V; V--)
    for (; widths.count[V]; widths.count[V]--, n += V * L) f(V, n, min_of(L, g.n1 - n - (V - 1) * L));
}
// f(m, rows) for even parts of M rows of at most `most`
template <class F> void each_rows(int64_t M, int64_t most, F f) {
  const int64_t count = ceil_div(M, most), small = M / count, larger = M % count;
  for (int64_t i = 0, m = 0; i < count; i++) {
    const int64_t rows = small + (i < larger);
    f(m, rows);
    m += rows;
  }
}

// onward: from B's block to the next one along K, or 0
void all_tiles(Job &job, int64_t onward) {
  constexpr int64_t l1_floats = 16384, l2_floats = 65536, many_rows = 256, page = 1024;
  const GemmBlock &g = job.g;
  // rows that lie whole pages apart share one set of the eight ways of L1
  const int64_t step = !g.a_rows ? g.lda : g.M > 1 ? g.a_rows[1] - g.a_rows[0] : 1;
  const int64_t most = step % page && (g.ldc % page || !job.posts.n_rest) ? most_rows : 7;
  const int wide = best_width(ceil_div(g.n1 - g.n0, L), g.M, most);
  const int64_t steps = job.t.taps * job.t.kc, b_floats = steps * (g.n1 - g.n0);
  if (b_floats <= (g.M < many_rows ? l1_floats : l2_floats)) {
    // B stays near: walk C along its rows, with the next rows of A, then of C, ahead
    each_rows(g.M, min_of(most, max_rows[wide]), [&](int64_t m, int64_t rows) {
      const bool more = m + rows < g.M;
      const float *a = more && !g.a_rows ? job.a + (m + rows) * g.lda : nullptr;
      const float *c = more && !g.rows ? g.c + (g.row0 + m + rows) * g.ldc : nullptr, *const c_end = c ? c + rows * g.ldc : nullptr;
      each_column(g, wide, [&](int V, int64_t n, int64_t tail) {  // a narrower tile may have fewer rows
        const bool final = n + V * L >= g.n1;
        job.ahead = a ? a : final && more && !g.a_rows ? job.a + (m + rows) * g.lda : c < c_end ? c : nullptr;
        if (!a && c) c += 16 * steps;
        a = nullptr;
        each_rows(rows, max_rows[V], [&](int64_t at, int64_t part) { job.run(V, m + at, part, n, tail); });
      });
    });
    return;
  }
  each_column(g, wide, [&](int V, int64_t n, int64_t tail) {
    // with the panels of the next columns ahead, one for each tile; and in the first columns the next rows of A
    int64_t next = (n + V * L) / 16, end = min_of(ceil_div(g.n1, 16), next + ceil_div(V * L, 16));
    const float *b = job.b;
    if (next >= end && onward) next = g.n0 / 16, end = min_of(ceil_div(g.n1, 16), next + 4), b += onward;
    each_rows(g.M, min_of(most, max_rows[V]), [&](int64_t m, int64_t rows) {
      job.ahead = next < end ? b + next++ * g.panel : n == g.n0 && !g.a_rows && m + rows < g.M ? job.a + (m + rows) * g.lda : nullptr;
      job.run(V, m, rows, n, tail);
    });
  });
}
}  // namespace

namespace WNN_ISA_SPACE(WNN_ISA) {

void gemm_block(const GemmBlock &g) {
  if (g.M <= 0 || g.n1 <= g.n0 || gemm_narrow(g)) return;
  Job job(g);
  Tile &t = job.t;
  // K is walked in blocks, so that B's block and A's stay in cache: whole segments, or parts of the only one
  constexpr int64_t whole = 1536, part = 768;
  const int64_t K = g.taps * g.kc, blocks = K <= whole ? 1 : ceil_div(K, part);
  const bool cut = g.taps == 1;
  const int64_t end = cut ? g.kc : g.taps, size = max_of(1, ceil_div(end, blocks));
  for (int64_t i = 0; i < end || i == 0; i += size) {
    const int64_t now = min_of(size, end - i);
    t.taps = cut ? 1 : now, t.kc = cut ? now : g.kc;
    job.a = g.a, job.a_rows = g.a_rows, job.b = g.b;
    if (cut) job.a += i;
    else if (g.a_rows) job.a_rows += i * g.a_step;
    if (g.b_rows && !cut) t.b_rows = g.b_rows + i;
    if (cut || !g.b_rows) job.b += 16 * i * (cut ? 1 : g.kc);
    job.first = i == 0, job.last = i + now >= end, t.clip = job.last && job.posts.clip;
    all_tiles(job, job.last ? 0 : 16 * size * (cut ? 1 : g.kc));
  }
}

}  // namespace

// ---- a plain B ----
namespace {
template <int R, int V> void thin_tile(const wnn_gemm_call *g, const float *bias, int64_t m, int64_t n, int64_t tail) {
  const float *const a = g->A + m * g->lda, *b = g->B + n;
  float *const c = g->C + m * g->ldc + n;
  vf acc[R][V];
#pragma GCC unroll 4
  for (int v = 0; v < V; v++) {
    const vf start = !bias ? vf{} : V > 1 ? load(bias + n + v * L) : load_n(bias + n, tail);
#pragma GCC unroll 3
    for (int r = 0; r < R; r++) acc[r][v] = start;
  }
  for (int64_t k = 0; k < g->K; k++, b += g->b_row)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      const vf bv = V > 1 ? load(b + v * L) : load_n(b, tail);
#pragma GCC unroll 3
      for (int r = 0; r < R; r++) acc[r][v] += splat(a[r * g->lda + k]) * bv;
    }
#pragma GCC unroll 3
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      if (V > 1) store(c + r * g->ldc + v * L, acc[r][v]);
      else store_n(c + r * g->ldc, acc[r][v], tail);
    }
}

template <int R> void thin_block(const wnn_gemm_call *g, int64_t m, int64_t n0, int64_t n1) {
  const bool biased = g->n_post && g->post->kind == WNN_POST_BIAS;
  const float *const bias = biased ? g->post->data : nullptr;
  int64_t n = n0;
  for (; n + 4 * L <= n1; n += 4 * L) thin_tile<R, 4>(g, bias, m, n, L);
  for (; n < n1; n += L) thin_tile<R, 1>(g, bias, m, n, min_of(L, n1 - n));
  if (g->n_post > biased) post_tile(g->post + biased, g->n_post - biased, g->C + m * g->ldc + n0, g->ldc, m, nullptr, R, n0, n1 - n0);
}
}  // namespace

void WNN_ISA_SPACE(WNN_ISA)::gemm_thin(const wnn_gemm_call *g, int64_t m, int64_t R, int64_t n0, int64_t n1) {
  (R == 3 ? thin_block<3> : R == 2 ? thin_block<2> : thin_block<1>)(g, m, n0, n1);
}

using WNN_ISA_SPACE(WNN_ISA)::gemm_block;
using WNN_ISA_SPACE(WNN_ISA)::gemm_thin;
HOST_FUNCTION(gemm_block)
HOST_FUNCTION(gemm_thin)
