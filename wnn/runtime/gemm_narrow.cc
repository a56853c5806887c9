// wnn: hot
// GEMM with few columns or a short K, where calls of tiles and half-empty vectors would take longer than the sums: one function for
// many rows of some columns, on vectors of 8 where these fit better. On AVX-512 all products of up to 16 columns are made here.
#include "gemm.h"

#if WNN_ISA
namespace {
typedef float v8 __attribute__((vector_size(32)));
constexpr int64_t rows_near = 216;  // at a time: a multiple of every tile's rows

struct Columns {
  const GemmBlock &g;
  const Posts posts;
  const float *a, *b[3];        // where each vector of B starts
  const int64_t *a_rows;        // as GemmBlock's, from the first row on
  const int32_t *c_rows;
  int64_t row, rows, n, width;  // rows of C, columns; the last vector may not be full
};

// a vector, or the first n elements of one
template <class T> struct Unaligned { typedef T __attribute__((aligned(4), may_alias)) type; };
template <class T> WNN_INLINE T get(const float *p) { return *(const typename Unaligned<T>::type *)p; }
template <class T> WNN_INLINE void put(float *p, T v) { *(typename Unaligned<T>::type *)p = v; }
template <class T, bool Part> WNN_INLINE T get(const float *p, int64_t n) {
  if constexpr (Part) return load_n(p, n);
  else return get<T>(p);
}
template <class T, bool Part> WNN_INLINE void put(float *p, T v, int64_t n) {
  if constexpr (Part) store_n(p, v, n);
  else put(p, v);
}

// R rows from m on by V vectors, the last of which may be cut
template <class T, int R, int V, bool Cut> WNN_INLINE void tile(const Columns &t, int64_t m) {
  constexpr int64_t W = sizeof(T) / 4;
  const GemmBlock &g = t.g;
  const int64_t tail = t.width - (V - 1) * W;
  int64_t rows[R];
  for (int r = 0; r < R; r++) rows[r] = t.c_rows ? t.c_rows[m + r] : t.row + m + r;
  T acc[R][V];
#pragma GCC unroll 4
  for (int v = 0; v < V; v++) {
    const T start = t.posts.bias ? (v < V - 1 ? get<T>(t.posts.bias + t.n + v * W) : get<T, Cut>(t.posts.bias + t.n + v * W, tail)) : T{};
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) acc[r][v] = start;
  }
  if (t.posts.add)
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
      const float *const add = t.posts.add + rows[r] * t.posts.add_ld + t.n;
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) acc[r][v] += v < V - 1 ? get<T>(add + v * W) : get<T, Cut>(add + v * W, tail);
    }
  const float *b = t.b[0];
  const int64_t second = t.b[1] - b, third = t.b[2] - b;
  for (int64_t tap = 0; tap < g.taps; tap++) {
    if (g.b_rows) b = t.b[0] + 16 * g.b_rows[tap];
    const float *a[R];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
      a[r] = t.a + t.a_rows[tap * g.a_step + m + r];
      asm("" : "+r"(a[r]));  // as in gemm.cc
    }
#pragma GCC unroll 2
    for (int64_t k = 0; k < g.kc; k++, b += 16) {
      T bv[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) bv[v] = get<T>(b + (v == 0 ? 0 : v == 1 ? second : third));
#pragma GCC unroll 12
      for (int r = 0; r < R; r++) {
        const float x = a[r][k];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) acc[r][v] += (x - T{}) * bv[v];
      }
    }
  }
  const T lo = t.posts.lo - T{}, hi = t.posts.hi - T{};
  // locals: what is in memory could change by stores, for all the compiler knows
  float *const to = g.c + t.n;
  const int64_t ldc = g.ldc;
  const bool clip = t.posts.clip;
#pragma GCC unroll 12
  for (int r = 0; r < R; r++) {
    float *const c = to + rows[r] * ldc;
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      T y = acc[r][v];
      if (clip) {
        y = lo > y ? lo : y;
        y = hi < y ? hi : y;
      }
      if (v < V - 1) put(c + v * W, y);
      else put<T, Cut>(c + v * W, y, tail);
    }
  }
}

// Rows from m on, by four and one by one
template <class T, int V, bool Cut> __attribute__((noinline)) void few_rows(const Columns &t, int64_t m) {
  for (; m + 4 <= t.rows; m += 4) tile<T, 4, V, Cut>(t, m);
  for (; m < t.rows; m++) tile<T, 1, V, Cut>(t, m);
}
template <class T, int R, int V> __attribute__((noinline)) void columns(const Columns &t, int64_t m = 0) {
  for (; m + R <= t.rows; m += R) tile<T, R, V, true>(t, m);
  few_rows<T, V, true>(t, m);
}

#if WNN_ISA == 2
// ---- Up to half a vector more than F whole ones: the halves of two rows share one, in which each has its own number from A ----
WNN_INLINE vf halves(vf low, vf high) { return (vf)_mm512_insertf32x8((__m512)low, _mm512_castps512_ps256((__m512)high), 1); }

// 2P rows from m on
template <int F, int P> WNN_INLINE void pair_tile(const Columns &t, int64_t m) {
  const GemmBlock &g = t.g;
  const int64_t tail = t.width - 16 * F;
  const float *const bias = t.posts.bias ? t.posts.bias + t.n : nullptr;
  int64_t rows[2 * P];
  for (int r = 0; r < 2 * P; r++) rows[r] = t.c_rows ? t.c_rows[m + r] : t.row + m + r;
  vf acc[P][2 * F + 1];  // of a pair: the first row's whole vectors, the second's, then the halves
  const vf last = bias ? load_n(bias + 16 * F, tail) : vf{};
#pragma GCC unroll 6
  for (int p = 0; p < P; p++) {
    acc[p][2 * F] = halves(last, last);
#pragma GCC unroll 4
    for (int v = 0; v < 2 * F; v++) acc[p][v] = bias ? load(bias + v % F * 16) : vf{};
  }
  if (t.posts.add)
#pragma GCC unroll 6
    for (int p = 0; p < P; p++) {
      const float *const one = t.posts.add + rows[2 * p] * t.posts.add_ld + t.n, *const two = t.posts.add + rows[2 * p + 1] * t.posts.add_ld + t.n;
#pragma GCC unroll 2
      for (int v = 0; v < F; v++) acc[p][v] += load(one + 16 * v), acc[p][F + v] += load(two + 16 * v);
      acc[p][2 * F] += halves(load_n(one + 16 * F, tail), load_n(two + 16 * F, tail));
    }
  const float *b = t.b[0];
  for (int64_t tap = 0; tap < g.taps; tap++) {
    if (g.b_rows) b = t.b[0] + 16 * g.b_rows[tap];
    const float *a[2 * P];
#pragma GCC unroll 12
    for (int r = 0; r < 2 * P; r++) {
      a[r] = t.a + t.a_rows[tap * g.a_step + m + r];
      asm("" : "+r"(a[r]));  // as in gemm.cc
    }
    for (int64_t k = 0; k < g.kc; k++, b += 16) {
      vf bv[F + 1];
#pragma GCC unroll 2
      for (int v = 0; v < F; v++) bv[v] = load(b + v * g.panel);
      bv[F] = (vf)_mm512_broadcast_f32x8(_mm256_loadu_ps(b + F * g.panel));
#pragma GCC unroll 6
      for (int p = 0; p < P; p++) {
        const vf one = splat(a[2 * p][k]), two = splat(a[2 * p + 1][k]);
#pragma GCC unroll 2
        for (int v = 0; v < F; v++) acc[p][v] += one * bv[v], acc[p][F + v] += two * bv[v];
        acc[p][2 * F] += (vf)_mm512_mask_mov_ps((__m512)one, 0xff00, (__m512)two) * bv[F];
      }
    }
  }
  float *const to = g.c + t.n;
  const int64_t ldc = g.ldc;
  const bool clip = t.posts.clip;
  const float lo = t.posts.lo, hi = t.posts.hi;
#pragma GCC unroll 6
  for (int p = 0; p < P; p++) {
    float *const one = to + rows[2 * p] * ldc, *const two = to + rows[2 * p + 1] * ldc;
#pragma GCC unroll 5
    for (int v = 0; v < 2 * F + 1; v++)
      if (clip) acc[p][v] = clamp(acc[p][v], lo, hi);
#pragma GCC unroll 2
    for (int v = 0; v < F; v++) store(one + 16 * v, acc[p][v]), store(two + 16 * v, acc[p][F + v]);
    store_n(one + 16 * F, acc[p][2 * F], tail);
    store_n(two + 16 * F, (vf)_mm512_shuffle_f32x4((__m512)acc[p][2 * F], (__m512)acc[p][2 * F], 0xee), tail);
  }
}

// All rows that make whole tiles; returns how many
template <int F, int P> __attribute__((noinline)) int64_t pairs(const Columns &t) {
  int64_t m = 0;
  for (; m + 2 * P <= t.rows; m += 2 * P) pair_tile<F, P>(t, m);
  return m;
}

// ---- K is so short that a panel of B stays in registers: each row is a chain of multiply-adds by numbers from memory ----
constexpr int most_k = 16, some_rows = 4;
bool is_short(const GemmBlock &g) { return g.taps == 1 && g.kc <= most_k && !g.rows && !g.b_rows; }

// Rows by four, of up to 16 columns; returns how many there were
__attribute__((noinline)) int64_t short_rows(const Columns &t) {
  // locals: what is in memory could change by stores, for all the compiler knows
  const int64_t count = t.rows / some_rows * some_rows, ldc = t.g.ldc, add_ld = t.posts.add_ld, width = t.width;
  const int64_t skip = most_k - t.g.kc, *const a_rows = t.a_rows;
  const bool clip = t.posts.clip;
  const float lo = t.posts.lo, hi = t.posts.hi;
  const float *const bias = t.posts.bias ? t.posts.bias + t.n : nullptr, *add = t.posts.add ? t.posts.add + t.row * add_ld + t.n : nullptr;
  const float *const A = t.a - skip;
  float *c = t.g.c + t.row * ldc + t.n;
  vf b[most_k];
#pragma GCC unroll 16
  for (int k = 0; k < most_k; k++) b[k] = k < skip ? vf{} : load(t.b[0] + 16 * (k - skip));
  for (int64_t m = 0; m < count; m += some_rows) {
    const vf start = bias ? load_n(bias, width) : vf{};
    vf acc[some_rows];
#pragma GCC unroll 4
    for (int r = 0; r < some_rows; r++) {
      acc[r] = start;
      if (add) acc[r] += load_n(add, width), add += add_ld;
    }
    const float *const p = A + a_rows[m], *const q = A + a_rows[m + 1], *const r = A + a_rows[m + 2], *const s = A + a_rows[m + 3];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wimplicit-fallthrough"
#define STEP(k) \
  case k: acc[0] += splat(p[k]) * b[k], acc[1] += splat(q[k]) * b[k], acc[2] += splat(r[k]) * b[k], acc[3] += splat(s[k]) * b[k];
#define STEPS(k) STEP(k) STEP(k + 1) STEP(k + 2) STEP(k + 3)
    switch (skip) { STEPS(0) STEPS(4) STEPS(8) STEPS(12) }
#pragma GCC diagnostic pop
#pragma GCC unroll 4
    for (int i = 0; i < some_rows; i++, c += ldc) store_n(c, clip ? clamp(acc[i], lo, hi) : acc[i], width);
  }
  return count;
}
#endif

// How many columns at a time; 0: tiles are better
int64_t width(const GemmBlock &g) {
  constexpr int64_t short_k = 32, some_k = 48, long_k = 1024;
  const int64_t K = g.taps * g.kc, N = g.n1 - g.n0;
  const bool eights = L == 16 && N == 24 && !wnn_fma512;  // three vectors of 8 take less time than two of 16
#if WNN_ISA == 2
  if (N <= 16 || (is_short(g) && !eights)) return 16;
#endif
  if (g.rows || g.b_rows || K > long_k) return 0;
  if (L == 16) return g.M < 48 ? 0 : N > 40 ? (K <= some_k ? 48 : 0) : N > 32 ? 40 : eights ? 24 : 32;
  const int64_t each = N % 24 ? 16 : 24;
  return g.M < 4 || (N > 24 && K > short_k) || (N % each && N % each <= 8) ? 0 : each;
}
}  // namespace

bool WNN_ISA_SPACE(WNN_ISA)::gemm_narrow(const GemmBlock &g) {
  const int64_t each = width(g);
#if WNN_ISA == 2
  const int64_t over = (g.n1 - g.n0) % 16;
  if (!each && over && over <= 8) {  // the last columns here, where half a vector is saved
    GemmBlock last = g, before = g;
    last.n0 = before.n1 = g.n1 - 32 - over;
    if (!width(last)) return false;
    gemm_block(before);
    return gemm_narrow(last);
  }
#endif
  if (!each) return false;
  int64_t dense[rows_near];
  for (int64_t m = 0; m < rows_near; m++) dense[m] = m * g.lda;
  Columns t{g, split(g.post, g.n_post), g.a, {}, dense, nullptr, g.row0, 0, 0, 0};
  for (int64_t m = 0; m < g.M; m += rows_near, t.row += rows_near) {
    t.rows = min_of(rows_near, g.M - m);
    if (g.a_rows) t.a_rows = g.a_rows + m;
    else t.a = g.a + m * g.lda;
    if (g.rows) t.c_rows = g.rows + m;
    for (t.n = g.n0; t.n < g.n1; t.n += t.width) {
      const int64_t left = g.n1 - t.n;
      t.width = each == 48 && left > 48 && left <= 64 ? 32 : min_of(each, left);  // 48 would leave a vector by itself
      const int64_t step = each > 24 ? 16 : 8;
      for (int v = 0; v < 3; v++) t.b[v] = g.b + (t.n + v * step) / 16 * g.panel + (t.n + v * step) % 16;
      if (each == 24) few_rows<v8, 3, false>(t, 0);
#if WNN_ISA == 2
      else if (t.width > 40) columns<vf, 9, 3>(t);
      else if (t.width > 32) few_rows<vf, 3, true>(t, pairs<2, 4>(t));
      else if (t.width > 16) columns<vf, 12, 2>(t, t.width <= 24 ? pairs<1, 6>(t) : 0);
      else columns<vf, 12, 1>(t, is_short(g) ? short_rows(t) : 0);
#else
      else if (t.width < 16) few_rows<vf, 2, true>(t, 0);
      else few_rows<vf, 2, false>(t, 0);
#endif
    }
    for (int64_t r = 0; r < (t.posts.n_rest ? t.rows : 0); r += t.c_rows ? 1 : t.rows) {
      const int64_t row = t.c_rows ? t.c_rows[r] : t.row;
      post_tile(t.posts.rest, t.posts.n_rest, g.c + row * g.ldc + g.n0, g.ldc, row, nullptr, t.c_rows ? 1 : t.rows, g.n0, g.n1 - g.n0);
    }
  }
  return true;
}
#else
bool WNN_ISA_SPACE(WNN_ISA)::gemm_narrow(const GemmBlock &) { return false; }
#endif
