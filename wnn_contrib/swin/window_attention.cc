// y[r] = post(attention(x[rows[w]] w_qkv + b_qkv) w_proj + b_proj)[i], r = rows[w, i]: attention within windows of rows.
//   x : (B, ..., C), the axes before the last are rows   w_qkv : (C, M), w_proj : (heads*dim, E), panels of 16   b_qkv : (M,)
//   b_proj : (E,)   rows : (windows, n) int32, -1 is a row of zeros   bias : (heads, n, n) or null   mask : (windows, n, n) or null
//   attrs: struct { int64 heads, dim, step, at[3]; float scale; int32 zero; } and the posts
// Windows are gathered by the projection into q, k and v and scattered by the last one, through the same table of rows. A task
// takes a few windows through all three steps; where there are too few tasks for the threads, the steps are shared out instead.
#include "simd.h"

namespace {

constexpr int ROWS_OF_A_TASK = 96, MOST_POSTS = 16;

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
int64_t row_stride(const wnn_tensor *t) {
  for (int i = t->ndim - 2; i >= 0; i--)
    if (t->shape[i] != 1) return t->strides[i];
  return last_dim(t);
}

struct Block {
  const void *attrs;
  const wnn_tensor *const *in, *y;
  const wnn_tensor *x, *w_qkv, *w_proj, *rows, *bias, *mask;
  int64_t B, R, C, M, E, windows, n, heads, dim, group, groups;
  bool steps;  // all windows step by step, rather than groups of them in tasks
  size_t qkv, heads_out, gemm, attention;  // bytes that one task, or all windows of a sample, need

  Block(const void *attrs, const wnn_tensor *const *in, int nin, const wnn_tensor *y, int threads) : attrs(attrs), in(in), y(y) {
    x = in[0], w_qkv = in[1], w_proj = in[3], rows = in[5];
    bias = nin > 6 ? in[6] : nullptr, mask = nin > 7 ? in[7] : nullptr;
    B = x->shape[0], C = last_dim(x), M = w_qkv->shape[1], E = w_proj->shape[1];
    R = B && C ? count(x) / B / C : 0;
    windows = rows->shape[0], n = rows->shape[1];
    heads = attr<int64_t>(attrs, 0), dim = attr<int64_t>(attrs, 8);
    group = (ROWS_OF_A_TASK + n / 2) / (n ? n : 1);
    group = group < 1 ? 1 : group > windows ? windows : group;
    groups = group ? (windows + group - 1) / group : 0;
    steps = B * groups < 4 * threads && threads > 1;
    if (steps) group = windows, groups = 1;
    qkv = up(group * n * M * 4, 64), heads_out = up(group * n * heads * dim * 4, 64);
    const int each = steps ? threads : 1;
    const wnn_gemm_call a = first(0, 0, group, nullptr), b = second(0, 0, group, nullptr);
    const size_t sa = wnn_host->gemm_scratch_bytes(&a, each), sb = wnn_host->gemm_scratch_bytes(&b, each);
    gemm = up(sa > sb ? sa : sb, 64);
    const wnn_attention_call c = middle(0, group, nullptr, nullptr);
    attention = up(wnn_host->attention_scratch_bytes(&c, each), 64);
  }
  size_t bytes() const { return qkv + heads_out + gemm + attention; }

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
  wnn_attention_call middle(int64_t, int64_t count, const float *from, float *to) const {
    wnn_attention_call c{};
    c.struct_size = sizeof c, c.threads = steps ? 0 : 1;
    c.B = count, c.H = heads, c.Tq = c.Tk = n, c.D = c.Dv = dim;
    c.scale = attr<float>(attrs, 48);
    const float **const at[3] = {&c.q, &c.k, &c.v};
    int64_t *const strides[3] = {c.q_strides, c.k_strides, c.v_strides};
    for (int i = 0; i < 3; i++) {
      if (from) *at[i] = from + attr<int64_t>(attrs, 24 + 8 * i);
      strides[i][0] = n * M, strides[i][1] = M, strides[i][2] = attr<int64_t>(attrs, 16);
    }
    c.out = to, c.out_strides[0] = n * heads * dim, c.out_strides[1] = heads * dim, c.out_strides[2] = dim;
    if (bias) c.mask = f32(bias), c.mask_strides[1] = n * n, c.mask_strides[2] = n, c.mask_strides[3] = 1;
    return c;
  }
  static const int32_t none;
};
const int32_t Block::none = 0;

struct Masks { const float *mask; int64_t n, first; };

void add_mask(void *arg, float *scores, int64_t ld, int64_t b, int64_t, int64_t q0, int64_t rows, int64_t n, int) {
  const Masks &s = *(const Masks *)arg;
  const float *m = s.mask + ((s.first + b) * n + q0) * n;
  for (int64_t i = 0; i < rows; i++, scores += ld, m += n)
    map(scores, n, [=](auto v, int64_t j) { return v(scores + j) + v(m + j); });
}

// whether the masks of some windows hold anything but zeros
bool masked(const float *mask, int64_t count) {
  return mask && reduce_sum(count, [=](auto v, int64_t i) { return vabs(v(mask + i)); }) != 0;
}

// the bias, then the posts, for sample b
int posts_of(const Block &s, int64_t b, wnn_post *post) {
  struct Packed { int32_t kind, input; float a, b; };
  int n = 0;
  post[n++] = {WNN_POST_BIAS, 0, 0, 0, f32(s.in[4]), 0};
  const int32_t count = attr<int32_t>(s.attrs, 56);
  for (int32_t i = 0; i < count && n < MOST_POSTS; i++) {
    const Packed p = attr<Packed>(s.attrs, 64 + 16 * i);
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

  wnn_attention_call c = s.middle(w, count, qkv, y);
  Masks masks{s.mask ? f32(s.mask) : nullptr, s.n, w};
  if (masked(masks.mask ? masks.mask + w * s.n * s.n : nullptr, count * s.n * s.n)) c.hook = add_mask, c.hook_arg = &masks;
  c.scratch = rest + s.gemm;
  ctx->api->attention(ctx, &c);

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
  char *const scratch = (char *)ctx->scratch;
  if (s.steps) {
    for (int64_t b = 0; b < s.B; b++) run(ctx, s, b, 0, s.windows, scratch);
    return 0;
  }
  parallel_for(ctx, s.B * s.groups, [&](int64_t task, int worker) {
    const int64_t w = task % s.groups * s.group, left = s.windows - w;
    run(ctx, s, task / s.groups, w, left < s.group ? left : s.group, scratch + worker * s.bytes());
  });
  return 0;
}
