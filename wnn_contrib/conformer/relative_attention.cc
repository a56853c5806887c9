// y = softmax(scale * ((q + a) k^T + shift((q + b) p)) + mask) v, shift(M)[i, j] = M[i, Tq-1-i+j] or M.
//   q : (B, Tq, H, D)   k : (B, Tk, H, D)   v : (B, Tk, H, Dv)   y : (B, Tq, H, Dv)   last axes contiguous
//   p : (1 or B, 1 or H, D, P), plain with any strides or panels of 16    a?, b? : (H, D)
//   mask? : broadcasts to (B, H, Tq, Tk)    attrs: struct { float scale; int32 shifted, guarded; }
// Of a shifted M a block of n rows needs Tk + n - 1 columns: they are computed for the block alone, and row i is read
// from column n - 1 - i of them on, as the product q k^T is made. Without the shift there is one product: (q + a) k^T + (q + b) p = q (k^T + p) + a k^T
// + b p. What does not depend on the query is a number added to column j, as a k_j is.
#include "simd.h"

namespace {

constexpr int64_t ROWS = 16;  // of a block of M: with as many, blocks begin at the same place within a panel

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

struct Attrs { float scale; int32_t shifted, guarded; };

// p, head by head
struct Vectors {
  const wnn_tensor *p;
  int64_t D, panels;  // floats of a packed head

  const float *head(int64_t b, int64_t h) const {
    b = p->shape[0] == 1 ? 0 : b, h = p->shape[1] == 1 ? 0 : h;
    if (p->layout == WNN_PANEL16) return f32(p) + (b * p->shape[1] + h) * panels;
    return f32(p) + b * p->strides[0] + h * p->strides[1];
  }
  // out[d] = p[.., d, j] of a head
  void row(const float *head, int64_t j, float *out) const {
    const bool packed = p->layout == WNN_PANEL16;
    const float *const from = packed ? head + j / 16 * 16 * D + j % 16 : head + j * p->strides[3];
    const int64_t step = packed ? 16 : p->strides[2];
    if (step == 1) return map(out, D, [=](auto v, int64_t d) { return v(from + d); });
    for (int64_t d = 0; d < D; d++) out[d] = from[d * step];
  }
};

struct Sizes {
  int64_t B, H, Tq, Tk, D, P, columns, panels, row, keys, packed, sums, worker;  // columns: Tk, padded; the last six in floats
  size_t gemm, attention;                                             // bytes

  Sizes(const wnn_tensor *const *in, const wnn_attention_call &call, bool shifted, bool with_keys, int threads) {
    B = call.B, H = call.H, Tq = call.Tq, Tk = call.Tk, D = call.D, P = in[3]->shape[3];
    panels = up(P, 16) * D;
    columns = up(Tk, 16);
    row = shifted ? up(Tk + ROWS + 15, 16) | 16 : 0;
    wnn_gemm_call g = product(nullptr, nullptr, nullptr);
    gemm = shifted ? up(wnn_host->gemm_scratch_bytes(&g, 1), 64) : 0;
    attention = up(wnn_host->attention_scratch_bytes(&call, threads), 64);
    packed = shifted && in[3]->layout != WNN_PANEL16 ? in[3]->shape[0] * in[3]->shape[1] * panels : 0;
    sums = shifted ? 0 : up(B * H * Tk * D, 16);
    keys = with_keys ? B * H * columns : 0;
    worker = shifted ? up(ROWS * D, 16) + least(up(Tq, ROWS), WNN_ATTENTION_ROWS) * row + 32 : 0;
  }
  wnn_gemm_call product(const float *a, const float *b, float *c) const {
    wnn_gemm_call g{};
    g.struct_size = sizeof g, g.b_layout = WNN_PANEL16, g.threads = 1;
    g.M = ROWS, g.N = row, g.K = D;
    g.A = a, g.lda = D, g.B = b, g.C = c, g.ldc = row;
    return g;
  }
  size_t bytes(int threads) const { return attention + threads * (gemm + worker * 4) + (packed + keys + sums) * 4; }
};

struct Positions {
  wnn_ctx *ctx;
  const Sizes *sizes;
  const wnn_attention_call *call;
  Vectors vectors;        // in panels
  const float *bias, *keys;  // either may be null
  float *rows;
  char *gemm;
};

// keys[j] to column j of the scores, by their product's bias
int add_columns(void *arg, wnn_post *post, int64_t b, int64_t h, int64_t, int64_t, int64_t, int) {
  const Positions &s = *(const Positions *)arg;
  if (!s.keys) return 0;
  post[0] = {WNN_POST_BIAS, 0, 0, 0, s.keys + (b * s.sizes->H + h) * s.sizes->columns, 0};
  return 1;
}

// and M, shifted by being read with a row stride that is one less than the one it is written with
int add_shifted(void *arg, wnn_post *post, int64_t b, int64_t h, int64_t q0, int64_t rows, int64_t Tk, int worker) {
  const Positions &s = *(const Positions *)arg;
  const Sizes &z = *s.sizes;
  float *const biased = s.rows + worker * z.worker, *read = nullptr;
  const float *const panels = s.vectors.head(b, h), *const bias = s.bias ? s.bias + h * z.D : nullptr;
  const float *q = s.call->q + b * s.call->q_strides[0] + q0 * s.call->q_strides[1] + h * s.call->q_strides[2];
  for (int64_t i = 0; i < rows; i += ROWS) {
    const int64_t n = least(ROWS, rows - i);
    const int64_t first = z.Tq - q0 - i - n, lead = first % 16;  // first column of M that the last row reads
    if (!read) read = biased + up(ROWS * z.D, 16) + lead + n - 1;
    wnn_gemm_call g = z.product(q + i * s.call->q_strides[1], panels + (first - lead) * z.D, read + i * (z.row - 1) - lead - n + 1);
    g.lda = s.call->q_strides[1];
    if (bias) {
      for (int64_t r = 0; r < n; r++) map(biased + r * z.D, z.D, [=](auto v, int64_t d) { return v(g.A + r * g.lda + d) + v(bias + d); });
      g.A = biased, g.lda = z.D;
    }
    g.M = n, g.N = lead + Tk + n - 1, g.scratch = s.gemm + worker * z.gemm;
    s.ctx->api->gemm(s.ctx, &g);
  }
  const int count = add_columns(arg, post, b, h, q0, rows, Tk, worker);
  post[count] = {WNN_POST_ADD, 0, 0, 0, read, z.row - 1};
  return count + 1;
}

wnn_attention_call describe(const Attrs &a, const wnn_tensor *const *in, int nin, const wnn_tensor *out) {
  const wnn_tensor *const q = in[0], *const k = in[1], *const v = in[2], *const mask = nin > 6 ? in[6] : nullptr;
  wnn_attention_call call{};
  call.struct_size = sizeof call;
  call.flags = a.guarded ? WNN_ATTENTION_GUARDED : 0;
  call.B = q->shape[0], call.Tq = q->shape[1], call.H = q->shape[2], call.D = q->shape[3];
  call.Tk = k->shape[1], call.Dv = v->shape[3];
  call.scale = a.scale;
  call.product = a.shifted ? add_shifted : add_columns;
  call.q = f32(q), call.k = f32(k), call.v = f32(v), call.out = f32(out);
  for (int i = 0; i < 3; i++) {
    call.q_strides[i] = q->strides[i], call.k_strides[i] = k->strides[i];
    call.v_strides[i] = v->strides[i], call.out_strides[i] = out->strides[i];
  }
  if (mask) {
    call.mask = f32(mask);
    for (int i = 0, j = mask->ndim - 4; i < 4; i++, j++) call.mask_strides[i] = j < 0 || mask->shape[j] == 1 ? 0 : mask->strides[j];
  }
  return call;
}

const wnn_tensor *optional(const wnn_tensor *const *in, int nin, int i) { return i < nin ? in[i] : nullptr; }

// keys[j] = a k_j + b p_j, and sums[j] = k_j + p_j where there is one product, of head i
void columns(const wnn_attention_call &call, const Vectors &p, const float *a, const float *b, int64_t i, float *keys, float *sums) {
  const int64_t h = i % call.H, D = call.D;
  const float *k = call.k + i / call.H * call.k_strides[0] + h * call.k_strides[2], *const position = p.head(i / call.H, h);
  if (a) a += h * D;
  if (b) b += h * D;
  for (int64_t j = 0; j < call.Tk; j++, k += call.k_strides[1]) {
    float total = a ? reduce_sum(D, [=](auto v, int64_t d) { return v(k + d) * v(a + d); }) : 0;
    if (sums) {
      p.row(position, j, sums);
      if (b) total += reduce_sum(D, [=](auto v, int64_t d) { return v(sums + d) * v(b + d); });
      map(sums, D, [=](auto v, int64_t d) { return v(sums + d) + v(k + d); });
      sums += D;
    }
    if (keys) keys[j] = total;
  }
}

}  // namespace

SCRATCH(relative_attention_f32) {
  const Attrs a = attr<Attrs>(attrs, 0);
  const wnn_attention_call call = describe(a, in, nin, out[0]);
  const bool add = optional(in, nin, 4) || (!a.shifted && optional(in, nin, 5));
  return Sizes(in, call, a.shifted, add, num_threads).bytes(num_threads);
}

KERNEL_S(relative_attention_f32) {
  const Attrs of = attr<Attrs>(attrs, 0);
  wnn_attention_call call = describe(of, in, nin, out[0]);
  const wnn_tensor *const p = in[3], *const ta = optional(in, nin, 4), *const tb = optional(in, nin, 5);
  const float *const a = ta ? f32(ta) : nullptr, *const b = tb ? f32(tb) : nullptr;
  const bool add = a || (!of.shifted && b);
  const Sizes z(in, call, of.shifted, add, ctx->num_threads);
  if (!z.B || !z.H || !z.Tq) return 0;
  const Vectors plain{p, z.D, z.panels};
  wnn_tensor panels = *p;
  Positions s{ctx, &z, &call, plain, b, nullptr, nullptr, nullptr};
  char *at = (char *)ctx->scratch;
  call.scratch = at, at += z.attention;
  s.gemm = at, at += ctx->num_threads * z.gemm;
  s.rows = (float *)at, at += ctx->num_threads * z.worker * 4;
  float *const packed = (float *)at, *const keys = packed + z.packed, *const sums = keys + z.keys;
  s.keys = add ? keys : nullptr;

  if (z.packed) {
    parallel_for(ctx, p->shape[0] * p->shape[1], [&](int64_t i, int) {
      const float *from = f32(p) + i / p->shape[1] * p->strides[0] + i % p->shape[1] * p->strides[1];
      ctx->api->pack(WNN_PANEL16, WNN_F32, z.D, z.P, from, p->strides[2], p->strides[3], packed + i * z.panels);
    });
    panels.layout = WNN_PANEL16, panels.data = packed;
    s.vectors.p = &panels;
  }
  if (add || !of.shifted)
    parallel_for(ctx, z.B * z.H, [&](int64_t i, int) {
      columns(call, plain, a, b, i, add ? keys + i * z.columns : nullptr, of.shifted ? nullptr : sums + i * z.Tk * z.D);
    });
  if (!of.shifted) {
    call.k = sums;
    call.k_strides[0] = z.H * z.Tk * z.D, call.k_strides[1] = z.D, call.k_strides[2] = z.Tk * z.D;
  }
  call.hook_arg = &s;
  return ctx->api->attention(ctx, &call);
}
