// y[:, :, h*dim:][:dim] = softmax(scale * q k^T + mask) v, with q, k, v at at[0..2] + h*step in the rows of qkv.
//   qkv : (B, T, N) f32, last axis contiguous     mask : broadcasts to (B, heads, T, T)     y : (B, T, heads*dim)
//   attrs: struct { int64 heads, dim, step, at[3]; float scale; int32 guarded; }
#include "simd.h"

namespace {

wnn_attention_call describe(const void *attrs, const wnn_tensor *const *in, int nin, const wnn_tensor *out) {
  const wnn_tensor *const qkv = in[0], *const mask = nin > 1 ? in[1] : nullptr;
  const int64_t step = attr<int64_t>(attrs, 16);
  wnn_attention_call call{};
  call.struct_size = sizeof call;
  call.B = qkv->shape[0], call.Tq = call.Tk = qkv->shape[1];
  call.H = attr<int64_t>(attrs, 0), call.D = call.Dv = attr<int64_t>(attrs, 8);
  call.scale = attr<float>(attrs, 48);
  call.flags = attr<int32_t>(attrs, 52) ? WNN_ATTENTION_GUARDED : 0;
  const float **const at[3] = {&call.q, &call.k, &call.v};
  int64_t *const strides[3] = {call.q_strides, call.k_strides, call.v_strides};
  for (int i = 0; i < 3; i++) {
    if (qkv->data) *at[i] = f32(qkv) + attr<int64_t>(attrs, 24 + 8 * i);
    strides[i][0] = qkv->strides[0], strides[i][1] = qkv->strides[1], strides[i][2] = step;
  }
  call.out = f32(out);
  call.out_strides[0] = out->strides[0], call.out_strides[1] = out->strides[1], call.out_strides[2] = call.D;
  if (mask) {
    call.mask = f32(mask);
    for (int i = 0, j = mask->ndim - 4; i < 4; i++, j++) call.mask_strides[i] = j < 0 || mask->shape[j] == 1 ? 0 : mask->strides[j];
  }
  return call;
}

}  // namespace

SCRATCH(packed_attention_f32) {
  const wnn_attention_call call = describe(attrs, in, nin, out[0]);
  return wnn_host->attention_scratch_bytes(&call, num_threads);
}

KERNEL_S(packed_attention_f32) {
  wnn_attention_call call = describe(attrs, in, nin, out[0]);
  call.scratch = ctx->scratch;
  return ctx->api->attention(ctx, &call);
}
