// y[r] = post(attention(x[rows[w]] w_qkv + b_qkv) w_proj + b_proj)[i], r = rows[w, i]: attention within windows of rows.
//   x : (B, ..., C), the axes before the last are rows   w_qkv : (C, M), w_proj : (heads*dim, E), panels of 16   b_qkv : (M,)
//   b_proj : (E,)   rows : (windows, n) int32, -1 is a row of zeros   bias : (heads, n, n) or null, indexed (key, query)
//   mask : (kinds, 1 or heads, n, n) or null, likewise   kind : (windows,) int32, -1 is no mask   logit : (heads,) or null
//   attrs: struct { int64 heads, dim, step, at[3]; float scale, eps; int32 cosine, zero; } and the posts
// Windows are gathered by the projection into q, k and v and scattered by the last one, through the same table of rows. A task
// takes a few windows through all three steps; where there are too few tasks for the threads, the steps are shared out instead.
#include "vecmath.h"

namespace {

constexpr int ROWS_OF_A_TASK = 96, MOST_POSTS = 16;

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// ---- attention of one head in one window ----
// Scores are kept transposed, a row for each key with the queries in the lanes: maxima and sums then need no folding across
// lanes, keys and values are read in place, and only the queries are packed.
constexpr int PAIR = 2;  // vectors of a tile
// rows of a tile: of two sizes the one that fits n better, so that 49 = 7 * 7 and 64 = 8 * 8 come out even
constexpr int LOW = WNN_ISA == 2 ? 7 : 5, HIGH = LOW + 1;

struct Head {
  const float *q, *k, *v, *bias, *mask;  // rows of q, k and v lie `stride` apart; bias and mask are (key, query) or null
  float *y;
  int64_t q_stride, k_stride, v_stride, y_stride, n, dim;
  float scale, eps;
  bool cosine;
};

struct Room {     // a worker's memory
  int64_t lanes;  // queries whose scores are in memory at once
  float *scores, *queries, *query_scale, *inverse, *top, *key_scale, *row, *keys, *values;

  static int64_t lanes_of(int64_t n) { return n <= 64 ? up(n, L) : 32; }
  static int64_t floats(int64_t n, int64_t dim) { return up(lanes_of(n) * (n + HIGH + dim + 3) + 2 * n + 2 * n * dim, 16); }
  Room(int64_t n, int64_t dim, float *at) : lanes(lanes_of(n)) {
    queries = at, at += lanes * dim;
    query_scale = at, at += lanes;
    inverse = at, at += lanes;
    top = at, at += lanes;
    scores = at, at += lanes * (n + HIGH);
    key_scale = at, at += n;
    row = at, at += n;
    keys = at, at += n * dim;
    values = at;
  }
};

// Scores of V vectors of queries, from lane i on, with R keys, from j on; those past the last repeat it. The last vector has `last`
// lanes of bias and mask.
template <int R, int V> void products(const Head &h, const Room &w, int64_t j, int64_t i0, int64_t i, int64_t last) {
  const int64_t lanes = w.lanes, dim = h.dim, n = h.n;
  const float *k[R], *q = w.queries + i;
  vf a[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    k[r] = h.k + least(j + r, n - 1) * h.k_stride;
#pragma GCC unroll 3
    for (int v = 0; v < V; v++) a[r][v] = vf{};
  }
  for (int64_t d = 0; d < dim; d++, q += lanes) {
    vf b[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; v++) b[v] = load(q + v * L);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 3
      for (int v = 0; v < V; v++) a[r][v] += k[r][d] * b[v];
  }
  vf scale[V], top[V];
#pragma GCC unroll 3
  for (int v = 0; v < V; v++) scale[v] = load(w.query_scale + i + v * L), top[v] = load(w.top + i + v * L);
  float *s = w.scores + j * lanes + i;
#pragma GCC unroll 8
  for (int r = 0; r < R; r++, s += lanes) {
    const int64_t key = least(j + r, n - 1), at = key * n + i0 + i;
#pragma GCC unroll 3
    for (int v = 0; v < V; v++) {
      const auto given = [=](const float *p) { return v == V - 1 ? load_n(p + at + v * L, last) : load(p + at + v * L); };
      vf x = a[r][v] * scale[v];
      if (h.cosine) x *= w.key_scale[key];
      if (h.bias) x += given(h.bias);
      if (h.mask) x += given(h.mask);
      store(s + v * L, x);
      top[v] = x > top[v] ? x : top[v];
    }
  }
#pragma GCC unroll 3
  for (int v = 0; v < V; v++) store(w.top + i + v * L, top[v]);
}

// Scores s in V vectors of lanes to p[j, i] = exp(s[j, i] - max), and inverse[i] = 1 / sum
template <int V> void softmax(const Head &h, const Room &w, int64_t i) {
  vf top[V], sum[V];
#pragma GCC unroll 3
  for (int v = 0; v < V; v++) top[v] = load(w.top + i + v * L) * log2e, sum[v] = vf{};
  float *p = w.scores + i;
  for (int64_t j = 0; j < h.n; j++, p += w.lanes)
#pragma GCC unroll 3
    for (int v = 0; v < V; v++) {
      const vf x = vexp2_negative(load(p + v * L) * log2e - top[v]);
      store(p + v * L, x);
      sum[v] += x;
    }
#pragma GCC unroll 3
  for (int v = 0; v < V; v++) store(w.inverse + i + v * L, 1.0f / sum[v]);
}

template <int R, int V> void weights(const Head &h, const Room &w, int64_t i0, int64_t i, int64_t last) {
  for (int64_t j = 0; j < h.n; j += R) products<R, V>(h, w, j, i0, i, last);
  softmax<V>(h, w, i);
}

float dot(const float *x, const float *y, int64_t n) {
  vf sum{};
  int64_t d = 0;
  for (; d + L <= n; d += L) sum += load(x + d) * load(y + d);
  if (d < n) sum += load_n(x + d, n - d) * load_n(y + d, n - d);
  return fold(sum, [](auto x, auto y) { return x + y; });
}

// The same for the one query that is left of 49 or 81: a vector of its own would be all but empty
void weights_of_one(const Head &h, const Room &w, int64_t i0, int64_t i) {
  const float *const q = h.q + (i0 + i) * h.q_stride;
  const float length = h.cosine ? sqrtf(dot(q, q, h.dim)) : 1.0f, scale = h.scale / (h.cosine && h.eps > length ? h.eps : length);
  float *const s = w.row;
  for (int64_t j = 0, at = i0 + i; j < h.n; j++, at += h.n) {
    float x = dot(q, h.k + j * h.k_stride, h.dim) * scale;
    if (h.cosine) x *= w.key_scale[j];
    if (h.bias) x += h.bias[at];
    if (h.mask) x += h.mask[at];
    s[j] = x;
  }
  const float top = reduce_max(h.n, [=](auto v, int64_t j) { return v(s + j); }) * log2e;
  map(s, h.n, [=](auto v, int64_t j) { return vexp2_negative(v(s + j) * log2e - top); });
  store(w.inverse + i, splat(1.0f / reduce_sum(h.n, [=](auto v, int64_t j) { return v(s + j); })));
  for (int64_t j = 0; j < h.n; j++) store(w.scores + j * w.lanes + i, splat(s[j]));
}

// y[i0 + i + r, d] = inverse[i + r] * sum over j of p[j, i + r] * v[j, d], in V vectors of d, of which the last has `tail` columns
template <int R, int V, bool PARTIAL> void values(const Head &h, const Room &w, int64_t i0, int64_t i, int64_t d, int64_t tail) {
  const int64_t lanes = w.lanes, n = h.n, stride = h.v_stride;
  vf a[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 3
    for (int v = 0; v < V; v++) a[r][v] = vf{};
  const float *p = w.scores + i, *x = h.v + d;
  for (int64_t j = 0; j < n; j++, p += lanes, x += stride) {
    vf b[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; v++) b[v] = PARTIAL && v == V - 1 ? load_n(x + v * L, tail) : load(x + v * L);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 3
      for (int v = 0; v < V; v++) a[r][v] += p[r] * b[v];
  }
  const int64_t rows = least(R, least(lanes, n - i0) - i), step = h.y_stride;
  const float *const inverse = w.inverse + i;
  float *y = h.y + (i0 + i) * step + d;
#pragma GCC unroll 8
  for (int r = 0; r < R; r++, y += step) {
    if (r >= rows) break;
#pragma GCC unroll 3
    for (int v = 0; v < V; v++) {
      const vf s = a[r][v] * inverse[r];
      if (PARTIAL && v == V - 1) store_n(y + v * L, s, tail);
      else store(y + v * L, s);
    }
  }
}

// Queries from i0 on to `count` lanes of [dim][lanes]; those past the last repeat it
void pack_queries(const Head &h, const Room &w, int64_t i0, int64_t count) {
  for (int64_t i = 0; i < count; i += L) {
    const float *row[L];
    for (int r = 0; r < L; r++) row[r] = h.q + least(i0 + i + r, h.n - 1) * h.q_stride;
    float *q = w.queries + i;
    int64_t d = 0;
    for (; d + 4 <= h.dim; d += 4) {
      vf column[4];
      transpose_four(row, d, column);
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++, q += w.lanes) store(q, column[j]);
    }
    for (; d < h.dim; d++, q += w.lanes)
      for (int r = 0; r < L; r++) q[r] = row[r][d];
  }
}

// Cosine attention divides by the lengths of queries and keys, but by no less than eps
void query_lengths(const Head &h, const Room &w, int64_t count) {
  for (int64_t i = 0; i < count; i += L) {
    vf sum{};
    for (int64_t d = 0; d < h.dim; d++) sum += load(w.queries + d * w.lanes + i) * load(w.queries + d * w.lanes + i);
    store(w.query_scale + i, h.scale / at_least(vsqrt(sum), splat(h.eps)));
  }
}
void key_lengths(const Head &h, const Room &w) {
  for (int64_t j = 0; j < h.n; j++) {
    const float *const k = h.k + j * h.k_stride;
    const float length = sqrtf(reduce_sum(h.dim, [=](auto v, int64_t d) { return v(k + d) * v(k + d); }));
    w.key_scale[j] = 1.0f / (h.eps > length ? h.eps : length);
  }
}

template <int R> void attend(Head &h, const Room &w) {
  if (h.n > 64) {
    for (int64_t j = 0; j < h.n; j++) {
      memcpy(w.keys + j * h.dim, h.k + j * h.k_stride, size_t(h.dim) * 4);
      memcpy(w.values + j * h.dim, h.v + j * h.v_stride, size_t(h.dim) * 4);
    }
    h.k = w.keys, h.v = w.values;
    h.k_stride = h.v_stride = h.dim;
  }
  map(w.query_scale, w.lanes, [&](auto, int64_t) { return splat(h.scale); });
  if (h.cosine) key_lengths(h, w);
  for (int64_t i0 = 0; i0 < h.n; i0 += w.lanes) {
    const int64_t count = least(w.lanes, h.n - i0), one = count % L == 1, in_lanes = count - one;
    pack_queries(h, w, i0, up(in_lanes, L));
    if (h.cosine) query_lengths(h, w, in_lanes);
    map(w.top, w.lanes, [](auto, int64_t) { return splat(-INFINITY); });
    int64_t i = 0;
    if constexpr (L == 16)  // 48 of 49 queries are one tile: of two, the second would wait for loads
      if (up(in_lanes, L) == 3 * L) weights<R, 3>(h, w, i0, i, in_lanes - 2 * L), i = 3 * L;
    for (; i + L < in_lanes; i += PAIR * L) weights<R, PAIR>(h, w, i0, i, least(L, in_lanes - i - L));
    if (i < in_lanes) weights<R, 1>(h, w, i0, i, least(L, in_lanes - i));
    if (one) weights_of_one(h, w, i0, in_lanes);
    for (i = 0; i < count; i += R) {
      int64_t d = 0;
      for (; d + PAIR * L <= h.dim; d += PAIR * L) values<R, PAIR, false>(h, w, i0, i, d, L);
      if (d + L < h.dim) values<R, PAIR, true>(h, w, i0, i, d, h.dim - d - L);
      else if (d < h.dim) values<R, 1, true>(h, w, i0, i, d, h.dim - d);
    }
  }
}

// ---- the whole block ----
int64_t row_stride(const wnn_tensor *t) {
  for (int i = t->ndim - 2; i >= 0; i--)
    if (t->shape[i] != 1) return t->strides[i];
  return last_dim(t);
}

struct Block {
  const void *attrs;
  const wnn_tensor *const *in, *y;
  const wnn_tensor *x, *w_qkv, *w_proj, *rows, *bias, *mask, *kind, *logit;
  int64_t B, R, C, M, E, windows, n, heads, dim, group, groups;
  bool steps;                                    // all windows step by step, rather than groups of them in tasks
  size_t qkv, heads_out, gemm, room, attention;  // bytes that one task, or all windows of a sample, need

  Block(const void *attrs, const wnn_tensor *const *in, int nin, const wnn_tensor *y, int threads) : attrs(attrs), in(in), y(y) {
    const auto given = [&](int i) { return nin > i ? in[i] : nullptr; };
    x = in[0], w_qkv = in[1], w_proj = in[3], rows = in[5], bias = given(6), mask = given(7), kind = given(8), logit = given(9);
    B = x->shape[0], C = last_dim(x), M = w_qkv->shape[1], E = w_proj->shape[1];
    R = 1;
    for (int i = 1; i < x->ndim - 1; i++) R *= x->shape[i];
    windows = rows->shape[0], n = rows->shape[1];
    heads = attr<int64_t>(attrs, 0), dim = attr<int64_t>(attrs, 8);
    group = (ROWS_OF_A_TASK + n / 2) / (n ? n : 1);
    group = group < 1 ? 1 : least(group, windows);
    groups = group ? (windows + group - 1) / group : 0;
    steps = B * groups < 4 * threads && threads > 1;
    if (steps) group = windows, groups = 1;
    qkv = up(group * n * M * 4, 64), heads_out = up(group * n * heads * dim * 4, 64);
    const int each = steps ? threads : 1;
    const wnn_gemm_call a = first(0, 0, group, nullptr), b = second(0, 0, group, nullptr);
    const size_t sa = wnn_host->gemm_scratch_bytes(&a, each), sb = wnn_host->gemm_scratch_bytes(&b, each);
    gemm = up(sa > sb ? sa : sb, 64);
    room = Room::floats(n, dim) * 4, attention = each * room;
  }
  size_t bytes() const { return qkv + heads_out + (gemm > attention ? gemm : attention); }

  wnn_gemm_call product(const float *a, int64_t lda, const wnn_tensor *w, float *c, int64_t ldc) const {
    wnn_gemm_call g{};
    g.struct_size = sizeof g, g.b_layout = WNN_PANEL16, g.threads = steps ? 0 : 1;
    g.M = group * n, g.K = w->shape[0], g.N = w->shape[1];
    g.A = a, g.lda = lda, g.B = f32(w), g.C = c, g.ldc = ldc;
    return g;
  }
  const int32_t *table(int64_t w) const { return rows->data ? (const int32_t *)rows->data + w * n : nullptr; }
  const float *sample(const wnn_tensor *t, int64_t b) const { return t->data ? f32(t) + b * R * row_stride(t) : nullptr; }

  wnn_gemm_call first(int64_t b, int64_t w, int64_t count, float *to) const {
    wnn_gemm_call g = product(sample(x, b), row_stride(x), w_qkv, to, M);
    g.M = count * n, g.a_rows = rows->data ? table(w) : &none;
    return g;
  }
  wnn_gemm_call second(int64_t b, int64_t w, int64_t count, const float *from) const {
    wnn_gemm_call g = product(from, heads * dim, w_proj, (float *)sample(y, b), row_stride(y));
    g.M = count * n, g.c_rows = rows->data ? table(w) : &none;
    return g;
  }
  // head i % heads of window w + i / heads, qkv and y beginning with window w
  void middle(int64_t w, int64_t i, const float *from, float *to, char *memory) const {
    const int64_t own = i / heads, head = i % heads, table = n * n;
    const float *const row = from + own * n * M + head * attr<int64_t>(attrs, 16);
    Head h;
    h.q = row + attr<int64_t>(attrs, 24), h.k = row + attr<int64_t>(attrs, 32), h.v = row + attr<int64_t>(attrs, 40);
    h.y = to + (own * n * heads + head) * dim;
    h.q_stride = h.k_stride = h.v_stride = M, h.y_stride = heads * dim, h.n = n, h.dim = dim;
    h.scale = attr<float>(attrs, 48) * (logit ? f32(logit)[head] : 1.0f), h.eps = attr<float>(attrs, 52);
    h.cosine = attr<int32_t>(attrs, 56);
    const int32_t which = mask ? ((const int32_t *)kind->data)[w + own] : -1;
    h.bias = bias ? f32(bias) + head * table : nullptr;
    h.mask = which < 0 ? nullptr : f32(mask) + (which * mask->shape[1] + head % mask->shape[1]) * table;
    const Room r(n, dim, (float *)memory);
    if (up(n, LOW) < up(n, HIGH)) attend<LOW>(h, r);
    else attend<HIGH>(h, r);
  }
  static const int32_t none;
};
const int32_t Block::none = 0;

// the bias, then the posts, for sample b
int posts_of(const Block &s, int64_t b, wnn_post *post) {
  struct Packed { int32_t kind, input; float a, b; };
  int n = 0;
  post[n++] = {WNN_POST_BIAS, 0, 0, 0, f32(s.in[4]), 0};
  const int32_t count = attr<int32_t>(s.attrs, 64);
  for (int32_t i = 0; i < count && n < MOST_POSTS; i++) {
    const Packed p = attr<Packed>(s.attrs, 72 + 16 * i);
    const wnn_tensor *t = p.input < 0 ? nullptr : s.in[p.input];
    const bool matrix = p.kind == WNN_POST_ADD || p.kind == WNN_POST_MUL;
    post[n++] = {p.kind, 0, p.a, p.b, !t ? nullptr : matrix ? s.sample(t, b) : f32(t), matrix ? row_stride(t) : 0};
  }
  return n;
}

void run(wnn_ctx *ctx, const Block &s, int64_t b, int64_t w, int64_t count, char *scratch) {
  float *const qkv = (float *)scratch, *const y = (float *)(scratch + s.qkv);
  char *const rest = scratch + s.qkv + s.heads_out;
  wnn_post post[MOST_POSTS] = {{WNN_POST_BIAS, 0, 0, 0, f32(s.in[2]), 0}};
  wnn_gemm_call g = s.first(b, w, count, qkv);
  g.post = post, g.n_post = 1, g.scratch = rest;
  ctx->api->gemm(ctx, &g);

  if (s.steps) parallel_for(ctx, count * s.heads, [&](int64_t i, int worker) { s.middle(w, i, qkv, y, rest + worker * s.room); });
  else
    for (int64_t i = 0; i < count * s.heads; i++) s.middle(w, i, qkv, y, rest);

  g = s.second(b, w, count, y);
  g.post = post, g.n_post = posts_of(s, b, post), g.scratch = rest;
  ctx->api->gemm(ctx, &g);
}

// Each row of x is in one window: as many as there are, none outside.
int check(wnn_ctx *ctx, const Block &s) {
  int64_t found = 0;
  for (int64_t i = 0; i < s.windows * s.n; i++) {
    const int32_t r = s.table(0)[i];
    if (r < -1 || r >= s.R) return ctx->api->error(ctx, "found row %d in the windows; expected rows below %lld, or -1", int(r), (long long)s.R);
    found += r >= 0;
  }
  if (found != s.R) return ctx->api->error(ctx, "found %lld rows in the windows; expected %lld, each row of x once", (long long)found, (long long)s.R);
  for (int64_t i = 0; s.mask && i < s.windows; i++) {
    const int32_t k = ((const int32_t *)s.kind->data)[i];
    if (k < -1 || k >= s.mask->shape[0])
      return ctx->api->error(ctx, "found mask %d for window %lld; expected one below %lld, or -1", int(k), (long long)i, (long long)s.mask->shape[0]);
  }
  return 0;
}

}  // namespace

SCRATCH(window_attention_f32) {
  const Block s(attrs, in, nin, out[0], num_threads);
  return s.bytes() * (s.steps ? 1 : num_threads);
}

KERNEL_S(window_attention_f32) {
  const Block s(attrs, in, nin, out[0], ctx->num_threads);
  if (const int code = check(ctx, s)) return code;
  if (!s.B || !s.R) return 0;
  char *const scratch = (char *)ctx->scratch;
  if (s.steps) {
    for (int64_t b = 0; b < s.B; b++) run(ctx, s, b, 0, s.windows, scratch);
    return 0;
  }
  parallel_for(ctx, s.B * s.groups, [&](int64_t task, int worker) {
    const int64_t w = task % s.groups * s.group;
    run(ctx, s, task / s.groups, w, least(s.group, s.windows - w), scratch + worker * s.bytes());
  });
  return 0;
}
