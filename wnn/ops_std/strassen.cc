// y = post(x w + bias), rows of x times a matrix, by one level of Strassen's algorithm in Winograd's form (Douglas, Heroux, Slishman and
// Smith 1994, "GEMMW"), 7 products of halves and 15 sums where 8 products would do:
//   S1 = A21 + A22, S2 = S1 - A11, S3 = A11 - A21, S4 = A12 - S2      T1 = B12 - B11, T2 = B22 - T1, T3 = B22 - B12, T4 = B21 - T2
//   X = A11 B11, C11 = X + A12 B21, X += S2 T2, Y = X + S3 T3, C21 = Y + A22 T4, P = S1 T1, X += P, C22 = Y + P, C12 = X + S4 B22
//   x: (samples, ..., C) f32, rows; K = C, or longer, then rows of x overlap      w: (..., K, N) f32, panels of 16      bias?: (N,)      y: (samples, ..., N) f32, rows
//   kept?: T1 to T4 (wnn/strassen.py), else made in each call
//   attrs: int32 half a block's columns, whether kept, rows of x from one row to the next; posts
// Rows are paired within a sample, i with ceil(M/2) + i, and the last with zeros where M is odd; columns within blocks, of which the
// tasks are made. Where a product could overflow, or a value is not finite, the block is computed plainly.
#include "gemm.h"

#if WNN_ISA == 2
namespace {
using namespace WNN_ISA_SPACE(WNN_ISA);

WNN_INLINE vi larger(vi top, vf x) {
  const vi bits = (vi)x & 0x7fffffff;
  return bits > top ? bits : top;
}
WNN_INLINE vi largest(vi top, vf a, vf b, vf c, vf d) { return larger(larger(larger(larger(top, a), b), c), d); }
int32_t most_of(vi top) {
  int32_t most = 0;
  for (int i = 0; i < L; i++) most = top[i] > most ? top[i] : most;
  return most;
}

// One sample, or the shapes alone. Sums of rows are made in chunks of pairs, sums of panels by each task for its blocks
struct Strassen {
  static constexpr int64_t most_slices = 64;
  GemmBlock g{};
  int64_t M, K, N, k, pairs, chunk, near, half, blocks, row, s_step, t_step, x_floats;

  const float *kept = nullptr;  // sums of panels and their magnitudes, or null

  Strassen(const void *attrs, const wnn_tensor *x, const wnn_tensor *w, const wnn_tensor *y) : K(w->shape[w->ndim - 2]), N(last_dim(y)), k(K / 2), half(attr<int32_t>(attrs, 0)) {
    constexpr int64_t s_floats = 1 << 20, near_floats = 1 << 14;
    M = count(y) / N / x->shape[0], pairs = ceil_div(M, 2), blocks = N / (2 * half);
    chunk = ceil_div(pairs, ceil_div(M * K, s_floats)), near = ceil_div(chunk, ceil_div(chunk, near_floats / half));
    // no step is a multiple of 4096 bytes
    row = ceil_div(k, 16) * 16 + 16, s_step = chunk * row + 48, t_step = half * k + 320, x_floats = near * half + 16;
  }
  int64_t shared() const { return 4 * s_step; }
  int64_t own() const { return 4 * t_step + 2 * x_floats; }  // of which T is not used where it is kept

  // S1 to S4 of pairs [from, to) -> s; the bits of the largest magnitude, NaN above infinity
  int32_t sum_rows(int64_t from, int64_t to, float *s) const {
    vi top{};
    for (int64_t i = from; i < to; i++, s += row) {
      const float *const a = g.a + i * g.lda, *const b = a + pairs * g.lda;
      const bool both = i + pairs < M;
      const auto sums = [&](auto v, int64_t j) {
        const vf a11 = v(a + j), a12 = v(a + k + j), a21 = both ? v(b + j) : vf{}, a22 = both ? v(b + k + j) : vf{}, s1 = a21 + a22, s2 = s1 - a11;
        store(s + j, s1), store(s + s_step + j, s2), store(s + 2 * s_step + j, a11 - a21), store(s + 3 * s_step + j, a12 - s2);
        top = largest(top, a11, a12, a21, a22);
      };
      int64_t j = 0;
      for (; j + L <= k; j += L) sums(Full{}, j);
      if (j < k) sums(Tail{k - j}, j);
    }
    return most_of(top);
  }
  // T1 to T4 of the block of columns from n on -> t; the same
  int32_t sum_panels(int64_t n, float *t) const {
    vi top{};
    for (int64_t j = 0; j < half; j += 16, t += 16 * k) {
      const float *const l = g.b + (n + j) * K, *const r = l + half * K;
      for (int64_t i = 0; i < 16 * k; i += L) {
        const vf b11 = load(l + i), b21 = load(l + 16 * k + i), b12 = load(r + i), b22 = load(r + 16 * k + i), t1 = b12 - b11, t2 = b22 - t1;
        store(t + i, t1), store(t + t_step + i, t2), store(t + 2 * t_step + i, b22 - b12), store(t + 3 * t_step + i, b21 - t2);
        top = largest(top, b11, b12, b21, b22);
      }
    }
    return most_of(top);
  }

  // Blocks [b0, b1) of the rows of pairs [from, to), whose sums start at s; top: of all the chunk's pairs
  void multiply(const float *s, int64_t from, int64_t to, float top, int64_t b0, int64_t b1, float *t) const {
    GemmBlock p = g;
    Stream later;
    p.later = &later;
    for (int64_t i = b0; i < b1; i++) {
      const int64_t n = 2 * half * i;
      const float *const next = g.b + (n + 2 * half) * K;
      later = {next, next + (i + 1 < min_of(b1, blocks) ? 2 * half * K : 0)};
      const float *const sums = kept ? kept + 4 * i * t_step : t;
      if (i < blocks && top * (kept ? sums[half * k] : magnitude(sum_panels(n, t))) * float(64 * K) < 3e38f) {
        for (int64_t at = from; at < to; at += near) seven(p, s + (at - from) * row, at, min_of(to, at + near), n, i + 1 < min_of(b1, blocks), sums, t + 4 * t_step);
        continue;
      }
      GemmBlock plain = g;
      plain.n0 = n, plain.n1 = min_of(N, n + 2 * half);
      plain.a += from * g.lda, plain.row0 += from, plain.M = to - from;
      gemm_block(plain);
      plain.a += pairs * g.lda, plain.row0 += pairs, plain.M = min_of(to, M - pairs) - from;
      gemm_block(plain);
    }
  }
  // The block of columns from n on; more: another one follows
  void seven(GemmBlock &p, const float *s, int64_t from, int64_t to, int64_t n, bool more, const float *t, float *x) const {
    float *const y = x + x_floats;
    const int64_t upper = to - from, lower = min_of(to, M - pairs) - from;
    const float *const a1 = g.a + from * g.lda, *const a2 = a1 + pairs * g.lda, *const l = g.b + n * K, *const r = l + half * K;
    const bool biased = g.n_post && g.post->kind == WNN_POST_BIAS;
    wnn_post post[PostList::most + 1];
    p.kc = k, p.post = post;
    // what is kept comes from afar: while one product is made, the panels of the next
    const auto ahead = [&](const float *at, int64_t count) {
      if (kept) *p.later = {at, at + count};
    };
    const auto product = [&](const float *a, const float *b, int64_t rows, int64_t at) {
      const bool plain = a >= g.a && a < g.a + (M - 1) * g.lda + K, panels = b >= t && b < t + 4 * t_step;
      p.a = a, p.lda = plain ? g.lda : row, p.M = rows;
      p.panel = panels ? 16 * k : g.panel, p.b = b - at / 16 * p.panel, p.n0 = at, p.n1 = at + half;
      gemm_block(p);
    };
    // c = a b, or x + a b
    const auto temporary = [&](const float *a, const float *b, int64_t rows, float *c, bool add) {
      p.c = c - n, p.ldc = half, p.row0 = 0, p.n_post = add;
      post[0] = {WNN_POST_ADD, 0, 0, 0, x - n, half};
      product(a, b, rows, n);
    };
    // a quadrant of C: its posts, with `add` behind the bias
    const auto final = [&](const float *a, const float *b, int64_t rows, int down, int right, bool bias, wnn_post add) {
      const int64_t at = n + right * half;
      p.c = g.c, p.ldc = g.ldc, p.row0 = g.row0 + from + down * pairs, p.n_post = 0;
      add.data -= p.row0 * half + at;
      int next = biased;
      if (bias) post[p.n_post++] = g.post[0];
      // a matrix from afar is read before the sums are made, X or Y when they are
      if (add.kind == WNN_POST_ADD && next < g.n_post && g.post[next].kind == WNN_POST_ADD) post[p.n_post++] = g.post[next++];
      post[p.n_post++] = add;
      while (next < g.n_post) post[p.n_post++] = g.post[next++];
      product(a, b, rows, at);
    };
    const wnn_post add_x{WNN_POST_ADD, 0, 0, 0, x, half}, add_y{WNN_POST_ADD, 0, 0, 0, y, half};
    ahead(t + t_step, half * k);
    temporary(a1, l, upper, x, false);
    ahead(t + 2 * t_step, half * k);
    final(a1 + k, l + 16 * k, upper, 0, 0, biased, add_x);
    ahead(t + 3 * t_step, half * k);
    temporary(s + s_step, t + t_step, upper, x, true);
    ahead(t, half * k);
    temporary(s + 2 * s_step, t + 2 * t_step, lower, y, true);
    ahead(r, half * K);
    final(a2 + k, t + 3 * t_step, lower, 1, 0, biased, add_y);
    if (more) ahead(r + half * K, half * K);
    // P with its bias, which C12 then has from X
    final(s, t, lower, 1, 1, biased, {post_both, int32_t(x_floats), 0, 0, x, half});
    if (biased && lower < upper)
      for (int64_t j = 0; j < half; j++) x[lower * half + j] += g.post->data[n + half + j];
    final(s + 3 * s_step, r + 16 * k, upper, 0, 1, false, add_x);
  }
  static float magnitude(int32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
  }

  void run(wnn_ctx *ctx, float *s) const {
    const int64_t slots = ctx->num_threads == 1 ? 1 : min_of(most_slices, 4 * ctx->num_threads), all = blocks + (2 * half * blocks < N), runs = min_of(all, slots);
    for (int64_t first = 0; first < pairs; first += chunk) {
      const int64_t count = min_of(chunk, pairs - first);
      int64_t rows = 1;  // slices of a run, until all threads have as many
      while (rows * runs % ctx->num_threads && (rows + 1) * runs <= slots && count / (rows + 1) >= 24) rows++;
      int32_t tops[most_slices] = {};
      parallel_for(ctx, min_of(slots, count), [&](int64_t i, int) {
        const int64_t slices = min_of(slots, count), from = count * i / slices;
        tops[i] = sum_rows(first + from, first + count * (i + 1) / slices, s + from * row);
      });
      int32_t top = 0;
      for (int32_t bits : tops) top = bits > top ? bits : top;
      parallel_for(ctx, rows * runs, [&](int64_t task, int worker) {
        const int64_t i = task / runs, j = task % runs, from = count * i / rows;
        multiply(s + from * row, first + from, first + count * (i + 1) / rows, magnitude(top), all * j / runs, all * (j + 1) / runs, s + shared() + worker * own());
      });
    }
  }
};

}  // namespace

SCRATCH(strassen_f32) {
  const Strassen p(attrs, in[0], in[1], out[0]);
  return size_t(p.shared() + p.own() * num_threads) * 4;
}
KERNEL_S(strassen_f32) {
  Strassen p(attrs, in[0], in[1], out[0]);
  const bool kept = attr<int32_t>(attrs, 4);
  const PostList posts((const char *)attrs + 12, nin - kept > 2 ? in[2] : nullptr, in);
  if (kept) p.kept = f32(in[nin - 1]);
  GemmBlock &g = p.g;
  g.lda = row_stride(in[0]) * attr<int32_t>(attrs, 8), g.taps = 1, g.kc = p.K, g.b = f32(in[1]), g.panel = 16 * p.K;
  g.c = f32(out[0]), g.ldc = row_stride(out[0]), g.post = posts.post, g.n_post = posts.n;
  for (int64_t i = 0; i < in[0]->shape[0]; i++) {
    g.a = f32(in[0]) + i * in[0]->strides[0], g.row0 = i * p.M;
    p.run(ctx, (float *)ctx->scratch);
  }
  return 0;
}
#endif
