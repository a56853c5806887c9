// wnn: avx2 inline
// y = saturate(round(x / scale) + zero), and back: y = (x - zero) * scale.
//   x: f32, any strides      scale: f32, zero?: y's dtype, both broadcast to x      y: contiguous, u8, i8, u16 or i16
//   back: x, zero?: u8, i8, u16, i16 or i32      scale, y: f32
#include "../elementwise.h"
#include "../bytes.h"

namespace {

// Scales and zero points of a block: arrays beside x, or one of each
struct Each {
  const float *scale;
  const void *zero;
  template <class T> WNN_MEMBER vi zero_at(int64_t i, int64_t m) const { return zero ? load_int((const T *)zero + i, m) : vi{}; }
  WNN_MEMBER vf scale_at(int64_t i, int64_t m) const { return m == L ? load(scale + i) : load_n(scale + i, m); }
};
struct One {
  float scale;
  int32_t zero;
  template <class T> WNN_MEMBER vi zero_at(int64_t, int64_t) const { return zero - vi{}; }
  WNN_MEMBER vf scale_at(int64_t, int64_t) const { return splat(scale); }
};

template <class T, class P> WNN_INLINE void quantize(P p, const void *from, void *to, int64_t n) {
  constexpr float low = T(-1) < 0 ? float(-(1 << (8 * sizeof(T) - 1))) : 0.0f, high = low + float((1 << (8 * sizeof(T))) - 1);
  const float *const x = (const float *)from;
  for (int64_t i = 0; i < n; i += L) {
    const int64_t m = n - i < L ? n - i : L;
    const vi zero = p.template zero_at<T>(i, m);
    const vf shift = __builtin_convertvector(zero, vf), y = (m == L ? load(x + i) : load_n(x + i, m)) / p.scale_at(i, m);
    store_int((T *)to + i, nearest(at_most(at_least(y, low - shift), high - shift)) + zero, m);
  }
}
template <class T, class P> WNN_INLINE void dequantize(P p, const void *from, void *to, int64_t n) {
  float *const y = (float *)to;
  for (int64_t i = 0; i < n; i += L) {
    const int64_t m = n - i < L ? n - i : L;
    const vf x = __builtin_convertvector(load_int((const T *)from + i, m) - p.template zero_at<T>(i, m), vf) * p.scale_at(i, m);
    if (m == L) store(y + i, x);
    else store_n(y + i, x, m);
  }
}

template <class T> struct Blocks {
  static void to(const void *has_zero, const void *const *in, void *out, int64_t n) { quantize<T>(Each{(const float *)in[1], has_zero ? in[2] : nullptr}, in[0], out, n); }
  static void to_one(const void *arg, const void *const *in, void *out, int64_t n) { quantize<T>(*(const One *)arg, in[0], out, n); }
  static void from(const void *has_zero, const void *const *in, void *out, int64_t n) { dequantize<T>(Each{(const float *)in[1], has_zero ? in[2] : nullptr}, in[0], out, n); }
  static void from_one(const void *arg, const void *const *in, void *out, int64_t n) { dequantize<T>(*(const One *)arg, in[0], out, n); }
};

template <class T> int run(wnn_ctx *ctx, const wnn_tensor *const *in, int nin, const wnn_tensor *out, wnn_block_fn each, wnn_block_fn one) {
  const wnn_tensor *const zero = nin > 2 ? in[2] : nullptr;
  if (count(in[1]) > 1 || (zero && count(zero) > 1)) return elementwise(ctx, in, nin, out, each, zero);
  const One p = {*f32(in[1]), zero ? int32_t(*(const T *)zero->data) : 0};
  return elementwise(ctx, in, 1, out, one, &p);
}

}  // namespace

#define QUANTIZE(T, dtype) KERNEL(quantize_##dtype) { return run<T>(ctx, in, nin, out[0], Blocks<T>::to, Blocks<T>::to_one); }
#define DEQUANTIZE(T, dtype) KERNEL(dequantize_##dtype) { return run<T>(ctx, in, nin, out[0], Blocks<T>::from, Blocks<T>::from_one); }
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
  const One p = {scale, zero};
  return elementwise(ctx, in, 1, out[0], Blocks<uint8_t>::to_one, &p);
}
