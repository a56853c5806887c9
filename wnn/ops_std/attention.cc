// wnn: once
// Attention by row blocks: Br query rows against all keys with the exact row maximum, so that scores live in L1/L2 only.
//
//   for each head:       K -> panels [Tk/16][D][16], V -> panels [Dv/16][Tk][16]
//   for each Br rows:    S = product(Q K^T), s = scale*S + mask, hook; P = exp2((s - max) * log2e); out = P V / sum
//
// A row that sees no key (-inf throughout), and any row with a NaN, is NaN, as softmax gives; where there are no keys at all, 0.
#include "../runtime/gemm.h"
#include "attention.h"

namespace {

constexpr int32_t HIDDEN = 1 << 16;  // a flag of the core's own: rows that see no key are 0

const AttentionRows &in_rows() { return *((const AttentionRows *(*)(void))wnn_attention_rows)(); }

// C[rows, N] = post(A[rows, K] B), where B is in panels of `panel` floats
void multiply(const float *a, int64_t lda, const float *b, int64_t panel, int64_t K, float *c, int64_t ldc, int64_t rows, int64_t N,
              const wnn_post *post = nullptr, int n_post = 0) {
  GemmBlock g{};
  g.a = a, g.lda = lda, g.taps = 1, g.kc = K;
  g.b = b, g.panel = panel;
  g.c = c, g.ldc = ldc, g.M = rows, g.n1 = N;
  g.post = post, g.n_post = n_post;
  gemm_block(g);
}

// k[j*stride + d] -> panels [Tk/16][D][16]
void pack_keys(const float *k, int64_t stride, int64_t Tk, int64_t D, float *panels) {
  for (int64_t j = 0; j < Tk; j += 16) pack_panel(D, min_of(16, Tk - j), k + j * stride, 1, stride, panels + j * D);
}

// v[j*stride + d] -> panels [Dv/16][Tk][16]
void pack_values(const float *v, int64_t stride, int64_t Tk, int64_t Dv, float *panels) {
  for (int64_t d = 0; d < Dv; d += 16) pack_panel(Tk, min_of(16, Dv - d), v + d, stride, 1, panels + d * Tk);
}

// What a package was built for may be an older call, that ends before `product`
decltype(wnn_attention_call::product) product_of(const wnn_attention_call *c) {
  return c->struct_size >= sizeof *c ? c->product : nullptr;
}

// Where things are in scratch, in floats. Each worker has its own query block and scores; packed heads are the worker's too when
// there are enough heads to share out, or else all stay there for the row blocks to share.
struct Plan {
  int64_t heads, Br, blocks, keys, packed, ld, worker;
  bool whole_heads;
  Plan(const wnn_attention_call *c, int threads) {
    heads = c->B * c->H;
    constexpr int64_t most = WNN_ATTENTION_ROWS;
    // blocks of even size, or for a package, which has products of 16 rows to make, whole ones
    const int64_t even = product_of(c) ? most : ceil_div(c->Tq, max_of(1, ceil_div(c->Tq, most)));
    Br = ceil_div(min_of(c->Tq, even), 4) * 4;
    blocks = ceil_div(c->Tq, max_of(1, Br));
    keys = panel_floats(c->D, c->Tk);
    packed = keys + panel_floats(c->Tk, c->Dv);
    ld = ceil_div(c->Tk, 16) * 16 | 16;  // an odd number of cache lines: at a stride of 4096 bytes rows would share one set of L1
    worker = Br * ld;
    whole_heads = threads == 1 || heads >= 4 * threads;
  }
};

const float *head(const float *p, const int64_t strides[3], const wnn_attention_call *c, int64_t h) {
  return p + h / c->H * strides[0] + h % c->H * strides[2];
}

void pack_head(const wnn_attention_call *c, const Plan &plan, int64_t h, float *packed) {
  pack_keys(head(c->k, c->k_strides, c, h), c->k_strides[1], c->Tk, c->D, packed);
  pack_values(head(c->v, c->v_strides, c, h), c->v_strides[1], c->Tk, c->Dv, packed + plan.keys);
}

void row_block(const wnn_attention_call *c, const Plan &plan, int64_t h, int64_t block, const float *packed, float *scores, int worker) {
  const int64_t q0 = block * plan.Br, rows = min_of(plan.Br, c->Tq - q0), ld = plan.ld;
  float *const out = (float *)head(c->out, c->out_strides, c, h) + q0 * c->out_strides[1];
  const bool causal = c->flags & WNN_ATTENTION_CAUSAL;
  // keys that some row of the block sees; the hook is shown all of them
  const int64_t ahead = causal ? c->Tk - c->Tq + 1 : c->Tk;
  const int64_t last = causal ? q0 + rows - 1 + ahead : c->Tk;
  const int64_t seen = c->hook || last > c->Tk ? c->Tk : last < 0 ? 0 : last;

  wnn_post post[4];
  const auto product = product_of(c);
  const int n_post = product ? product(c->hook_arg, post, h / c->H, h % c->H, q0, rows, c->Tk, worker) : 0;
  multiply(head(c->q, c->q_strides, c, h) + q0 * c->q_strides[1], c->q_strides[1], packed, 16 * c->D, c->D, scores, ld, rows, ceil_div(seen, 16) * 16, post, n_post);

  const bool scaled = c->mask || c->hook || !(c->scale > 0);
  if (scaled) {
    const float *const mask = c->mask ? c->mask + h / c->H * c->mask_strides[0] + h % c->H * c->mask_strides[1] + q0 * c->mask_strides[2] : nullptr;
    in_rows().scale_and_mask(scores, ld, rows, seen, c->scale, mask, c->mask ? c->mask_strides[2] : 0, c->mask_strides[3]);
  }
  if (causal)
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = q0 + i + ahead < 0 ? 0 : q0 + i + ahead; j < seen; j++) scores[i * ld + j] = -INFINITY;
  if (c->hook) c->hook(c->hook_arg, scores, ld, h / c->H, h % c->H, q0, rows, c->Tk, worker);

  float sums[WNN_ATTENTION_ROWS];
  in_rows().softmax(scores, ld, rows, seen, scaled ? log2e : c->scale * log2e, sums);
  multiply(scores, ld, packed + plan.keys, 16 * c->Tk, seen, out, c->out_strides[1], rows, c->Dv);
  in_rows().divide(out, c->out_strides[1], rows, c->Dv, sums, c->flags & WNN_ATTENTION_GUARDED, c->flags & HIDDEN || c->Tk == 0);
}

template <class F> void run(wnn_ctx *ctx, int threads, int64_t n, F body) {
  if (threads != 1) return parallel_for(ctx, n, body);
  for (int64_t i = 0; i < n; i++) body(i, 0);
}

size_t attention_scratch_bytes(const wnn_attention_call *c, int num_threads) {
  const int threads = c->threads == 1 ? 1 : num_threads;
  const Plan plan(c, threads);
  return size_t(threads * plan.worker + (plan.whole_heads ? threads : plan.heads) * plan.packed) * sizeof(float);
}

int attention(wnn_ctx *ctx, const wnn_attention_call *c) {
  const int threads = c->threads == 1 ? 1 : ctx->num_threads;
  const Plan plan(c, threads);
  float *const packed = (float *)c->scratch + threads * plan.worker;
  const auto own = [&](int worker) { return (float *)c->scratch + worker * plan.worker; };
  const auto slot = [&](int64_t i) { return packed + i * plan.packed; };
  if (plan.whole_heads) {
    run(ctx, threads, plan.heads, [&](int64_t h, int worker) {
      pack_head(c, plan, h, slot(worker));
      for (int64_t block = 0; block < plan.blocks; block++) row_block(c, plan, h, block, slot(worker), own(worker), worker);
    });
    return 0;
  }
  run(ctx, threads, plan.heads, [&](int64_t h, int) { pack_head(c, plan, h, slot(h)); });
  run(ctx, threads, plan.heads * plan.blocks, [&](int64_t task, int worker) {
    const int64_t h = task / plan.blocks;
    row_block(c, plan, h, task % plan.blocks, slot(h), own(worker), worker);
  });
  return 0;
}
HOST_FUNCTION(attention_scratch_bytes)
HOST_FUNCTION(attention)

// ---- the operator: q (B,Tq,H,D), k (B,Tk,G,D), v (B,Tk,G,Dv), mask that broadcasts to (B,H,Tq,Tk) or null -> (B,Tq,H,Dv) ----
// Heads of queries share those of keys in groups of H / G: one call for each of the latter.
wnn_attention_call make_call(const void *attrs, const wnn_tensor *const *in, int nin, const wnn_tensor *out) {
  const wnn_tensor *q = in[0], *k = in[1], *v = in[2], *mask = nin > 3 ? in[3] : nullptr;
  wnn_attention_call c = {};
  c.struct_size = sizeof c;
  c.scale = attr<float>(attrs, 0);
  c.flags = attr<int32_t>(attrs, 4) ? WNN_ATTENTION_CAUSAL : 0;
  if (const int32_t guarded = attr<int32_t>(attrs, 8)) c.flags |= guarded == 2 ? HIDDEN : WNN_ATTENTION_GUARDED;
  c.B = q->shape[0], c.Tq = q->shape[1], c.H = q->shape[2], c.D = q->shape[3], c.Tk = k->shape[1], c.Dv = v->shape[3];
  c.q = f32(q), c.k = f32(k), c.v = f32(v), c.out = f32(out);
  for (int i = 0; i < 3; i++)
    c.q_strides[i] = q->strides[i], c.k_strides[i] = k->strides[i], c.v_strides[i] = v->strides[i], c.out_strides[i] = out->strides[i];
  if (mask) {
    c.mask = f32(mask);
    for (int i = 0; i < mask->ndim; i++) c.mask_strides[4 - mask->ndim + i] = mask->shape[i] == 1 ? 0 : mask->strides[i];
  }
  if (k->shape[2] != c.H) c.H /= k->shape[2] ? k->shape[2] : 1, c.k_strides[2] = c.v_strides[2] = 0;
  return c;
}

}  // namespace

// attrs: struct { float scale; int32_t causal, guarded; }. All f32; strides are free but for the last axis of q, k, v and out.
SCRATCH(attention_f32) {
  const wnn_attention_call c = make_call(attrs, in, nin, out[0]);
  return attention_scratch_bytes(&c, num_threads);
}
KERNEL_S(attention_f32) {
  wnn_attention_call c = make_call(attrs, in, nin, out[0]);
  c.scratch = ctx->scratch;
  const int64_t groups = c.H ? in[0]->shape[2] / c.H : 0;
  for (int64_t g = 0; g < groups; g++) {
    attention(ctx, &c);
    c.q += c.H * c.q_strides[2], c.out += c.H * c.out_strides[2];
    c.k += in[1]->strides[2], c.v += in[2]->strides[2];
    if (c.mask) c.mask += c.H * c.mask_strides[1];
  }
  return 0;
}
