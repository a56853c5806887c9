// y = saturate(round(x / scale) + zero), and back: y = (x - zero) * scale.
//   x: f32, any strides      scale: f32, zero?: y's dtype, both broadcast to x      y: contiguous, u8, i8, u16 or i16
//   back: x, zero?: u8, i8, u16, i16 or i32      scale, y: f32
#include "../elementwise.h"
#include "bytes.h"

namespace {

template <class T> void quantize_block(const void *has_zero, const void *const *in, void *out, int64_t n) {
  constexpr float low = T(-1) < 0 ? float(-(1 << (8 * sizeof(T) - 1))) : 0.0f, high = low + float((1 << (8 * sizeof(T))) - 1);
  const float *const x = (const float *)in[0], *const scale = (const float *)in[1];
  const T *const zeros = has_zero ? (const T *)in[2] : nullptr;
  for (int64_t i = 0; i < n; i += L) {
    const int64_t m = n - i < L ? n - i : L;
    const vi zero = zeros ? load_int(zeros + i, m) : vi{};
    const vf shift = __builtin_convertvector(zero, vf);
    const vf y = m == L ? load(x + i) / load(scale + i) : load_n(x + i, m) / load_n(scale + i, m);
    store_int((T *)out + i, nearest(at_most(at_least(y, low - shift), high - shift)) + zero, m);
  }
}

template <class T> void dequantize_block(const void *has_zero, const void *const *in, void *out, int64_t n) {
  const T *const x = (const T *)in[0], *const zeros = has_zero ? (const T *)in[2] : nullptr;
  const float *const scale = (const float *)in[1];
  float *const y = (float *)out;
  for (int64_t i = 0; i < n; i += L) {
    const int64_t m = n - i < L ? n - i : L;
    vi q = load_int(x + i, m);
    if (zeros) q -= load_int(zeros + i, m);
    const vf value = __builtin_convertvector(q, vf);
    if (m == L) store(y + i, value * load(scale + i));
    else store_n(y + i, value * load_n(scale + i, m), m);
  }
}

int each(wnn_ctx *ctx, const wnn_tensor *const *in, int nin, wnn_tensor *out, wnn_block_fn fn) {
  return elementwise(ctx, in, nin, out, fn, nin > 2 ? out : nullptr);
}

}  // namespace

#define QUANTIZE(T, dtype) KERNEL(quantize_##dtype) { return each(ctx, in, nin, out[0], quantize_block<T>); }
#define DEQUANTIZE(T, dtype) KERNEL(dequantize_##dtype) { return each(ctx, in, nin, out[0], dequantize_block<T>); }
#define BOTH(T, dtype) QUANTIZE(T, dtype) DEQUANTIZE(T, dtype)

BOTH(uint8_t, u8)
BOTH(int8_t, i8)
BOTH(uint16_t, u16)
BOTH(int16_t, i16)
DEQUANTIZE(int32_t, i32)

// y, scale, zero: x as u8 by its range, which is made to hold 0.    x: f32, contiguous
KERNEL(dynamic_quantize) {
  const float *const x = f32(in[0]);
  const int64_t n = count(in[0]);
  const float high = fmaxf(0, reduce_max(n, [=](auto v, int64_t i) { return v(x + i); }));
  const float low = -fmaxf(0, reduce_max(n, [=](auto v, int64_t i) { return -v(x + i); }));
  float scale = (high - low) / 255;
  if (scale == 0) scale = 1;
  const uint8_t zero = uint8_t(fminf(255, rintf(-low / scale)));
  *f32(out[1]) = scale;
  *(uint8_t *)out[2]->data = zero;
  const wnn_tensor *const args[] = {in[0], out[1], out[2]};
  return elementwise(ctx, args, 3, out[0], quantize_block<uint8_t>, x);
}
