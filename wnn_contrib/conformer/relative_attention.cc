// y = softmax(scale * ((q + a) k^T + shift((q + b) p)) + mask) v, with shift(M)[i, j] = M[i, Tq-1-i+j].
//   q : (B, Tq, H, D)   k : (B, Tk, H, D)   v : (B, Tk, H, Dv)   y : (B, Tq, H, Dv)   last axes contiguous
//   p : (1 or B, H, D, P), plain with any strides or panels of 16    a, b : (H, D)    mask : broadcasts to (B, H, Tq, Tk)
//   attrs: struct { float scale; }
// Of M a block of n rows needs Tk + n - 1 columns: they are computed for the block alone, and row i is read from column
// n - 1 - i of them on. (q + a) k^T is q k^T with a number a k_j added to column j.
#include "simd.h"

namespace {

constexpr int64_t ROWS = 24;  // of a block of M

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Sizes {
  int64_t B, H, Tq, Tk, D, P, panels, row, keys, packed, worker;  // the last four in floats
  size_t gemm, attention;                                       // bytes

  Sizes(const wnn_tensor *const *in, const wnn_attention_call &call, int threads) {
    B = call.B, H = call.H, Tq = call.Tq, Tk = call.Tk, D = call.D, P = in[3]->shape[3];
    panels = up(P, 16) * D;
    row = up(Tk + ROWS - 1 + 15, 16);
    wnn_gemm_call g = product(nullptr, nullptr, nullptr);
    gemm = up(wnn_host->gemm_scratch_bytes(&g, 1), 64);
    attention = up(wnn_host->attention_scratch_bytes(&call, threads), 64);
    packed = in[3]->layout == WNN_PANEL16 ? 0 : in[3]->shape[0] * H * panels;
    keys = up(B * H * Tk, 16);
    worker = up(ROWS * D, 16) + ROWS * row;
  }
  wnn_gemm_call product(const float *a, const float *b, float *c) const {
    wnn_gemm_call g{};
    g.struct_size = sizeof g, g.b_layout = WNN_PANEL16, g.threads = 1;
    g.M = ROWS, g.N = row, g.K = D;
    g.A = a, g.lda = D, g.B = b, g.C = c, g.ldc = row;
    return g;
  }
  size_t bytes(int threads) const { return attention + threads * (gemm + worker * 4) + (packed + keys) * 4; }
};

struct Positions {
  wnn_ctx *ctx;
  const Sizes *sizes;
  const wnn_attention_call *call;
  const float *bias, *packed, *keys;
  int64_t batch;  // step of packed from one sample to the next
  float *rows;
  char *gemm;
};

// q + b of some rows, scaled
void biased(const Positions &s, int64_t b, int64_t h, int64_t q0, int64_t n, float *out) {
  const float *q = s.call->q + b * s.call->q_strides[0] + q0 * s.call->q_strides[1] + h * s.call->q_strides[2];
  const float *bias = s.bias + h * s.sizes->D, scale = s.call->scale;
  for (int64_t i = 0; i < n; i++, q += s.call->q_strides[1], out += s.sizes->D)
    map(out, s.sizes->D, [=](auto v, int64_t d) { return (v(q + d) + v(bias + d)) * scale; });
}

void add_positions(void *arg, float *scores, int64_t ld, int64_t b, int64_t h, int64_t q0, int64_t rows, int64_t Tk, int worker) {
  const Positions &s = *(const Positions *)arg;
  const Sizes &z = *s.sizes;
  float *const q = s.rows + worker * z.worker, *const M = q + up(ROWS * z.D, 16);
  const float *const panels = s.packed + b * s.batch + h * z.panels, *const keys = s.keys + (b * z.H + h) * Tk;
  for (int64_t i0 = 0; i0 < rows; i0 += ROWS) {
    const int64_t n = rows - i0 < ROWS ? rows - i0 : ROWS;
    const int64_t first = z.Tq - q0 - i0 - n, lead = first % 16;  // first column of M that the last row reads
    biased(s, b, h, q0 + i0, n, q);
    wnn_gemm_call g = z.product(q, panels + (first - lead) * z.D, M);
    g.M = n, g.N = lead + Tk + n - 1, g.scratch = s.gemm + worker * z.gemm;
    s.ctx->api->gemm(s.ctx, &g);
    for (int64_t i = 0; i < n; i++) {
      const float *const m = M + i * z.row + lead + n - 1 - i;
      float *const y = scores + (i0 + i) * ld;
      map(y, Tk, [=](auto v, int64_t j) { return v(y + j) + (v(m + j) + v(keys + j)); });
    }
  }
}

wnn_attention_call describe(const void *attrs, const wnn_tensor *const *in, int nin, const wnn_tensor *out) {
  const wnn_tensor *const q = in[0], *const k = in[1], *const v = in[2], *const mask = nin > 6 ? in[6] : nullptr;
  wnn_attention_call call{};
  call.struct_size = sizeof call;
  call.B = q->shape[0], call.Tq = q->shape[1], call.H = q->shape[2], call.D = q->shape[3];
  call.Tk = k->shape[1], call.Dv = v->shape[3];
  call.scale = attr<float>(attrs, 0);
  call.q = f32(q), call.k = f32(k), call.v = f32(v), call.out = f32(out);
  for (int i = 0; i < 3; i++) {
    call.q_strides[i] = q->strides[i], call.k_strides[i] = k->strides[i];
    call.v_strides[i] = v->strides[i], call.out_strides[i] = out->strides[i];
  }
  if (mask) {
    call.mask = f32(mask);
    for (int i = 0, j = mask->ndim - 4; i < 4; i++, j++) call.mask_strides[i] = j < 0 || mask->shape[j] == 1 ? 0 : mask->strides[j];
  }
  call.hook = add_positions;
  return call;
}

}  // namespace

SCRATCH(relative_attention_f32) {
  const wnn_attention_call call = describe(attrs, in, nin, out[0]);
  return Sizes(in, call, num_threads).bytes(num_threads);
}

KERNEL_S(relative_attention_f32) {
  wnn_attention_call call = describe(attrs, in, nin, out[0]);
  const Sizes z(in, call, ctx->num_threads);
  if (!z.B || !z.H || !z.Tq) return 0;
  const wnn_tensor *const p = in[3];
  Positions s{ctx, &z, &call, f32(in[5]), nullptr, nullptr, 0, nullptr, nullptr};
  char *at = (char *)ctx->scratch;
  call.scratch = at, at += z.attention;
  s.gemm = at, at += ctx->num_threads * z.gemm;
  s.rows = (float *)at, at += ctx->num_threads * z.worker * 4;
  float *const keys = (float *)at, *const packed = keys + z.keys;
  s.keys = keys, s.packed = p->layout == WNN_PANEL16 ? f32(p) : packed;
  s.batch = p->shape[0] == 1 ? 0 : z.H * z.panels;
  call.hook_arg = &s;

  if (z.packed)
    parallel_for(ctx, p->shape[0] * z.H, [&](int64_t i, int) {
      const float *from = f32(p) + i / z.H * p->strides[0] + i % z.H * p->strides[1];
      ctx->api->pack(WNN_PANEL16, WNN_F32, z.D, z.P, from, p->strides[2], p->strides[3], packed + i * z.panels);
    });
  const float *const a = f32(in[4]);
  parallel_for(ctx, z.B * z.H, [&](int64_t i, int) {
    const float *k = call.k + i / z.H * call.k_strides[0] + i % z.H * call.k_strides[2], *const u = a + i % z.H * z.D;
    for (int64_t j = 0; j < z.Tk; j++, k += call.k_strides[1])
      keys[i * z.Tk + j] = call.scale * reduce_sum(z.D, [=](auto v, int64_t d) { return v(k + d) * v(u + d); });
  });
  return ctx->api->attention(ctx, &call);
}
