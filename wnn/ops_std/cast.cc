// wnn: base
// y = x in the dtype of y.
//   attrs: struct { int64_t bf16; }: whether x, of dtype u16, holds bf16 numbers
#include "convert.h"
#include "elementwise.h"

namespace {

float f32_of(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
uint32_t bits_of(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

double from_bf16(uint16_t h) { return f32_of(uint32_t(h) << 16); }
uint16_t to_bf16(double x) {
  const uint32_t bits = bits_of(float(x));
  return x != x ? uint16_t(bits >> 16 | 0x40) : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
double from_f16(uint16_t h) {
  const uint32_t exponent = h >> 10 & 31, mantissa = h & 1023, sign = uint32_t(h & 0x8000) << 16;
  if (exponent == 31) return f32_of(sign | 0x7f800000 | mantissa << 13);
  const double x = exponent ? f32_of((exponent + 112) << 23 | mantissa << 13) : mantissa * 0x1p-24;
  return sign ? -x : x;
}
uint16_t to_f16(double x) {
  const uint16_t sign = uint16_t(bits_of(float(x)) >> 16 & 0x8000);
  const double a = fabs(x);
  if (a != a) return sign | 0x7e00;
  if (a >= 65520) return sign | 0x7c00;
  if (a < 0x1p-14) return uint16_t(sign + uint16_t(rint(a * 0x1p24)));
  int e;
  frexp(a, &e);  // a in [2^(e-1), 2^e)
  return uint16_t(sign + ((e + 14) << 10) + int(rint(ldexp(a, 11 - e))) - 1024);
}

template <class S, class T> void each(const void *from, int64_t n, T *to) {
  for (int64_t i = 0; i < n; i++) to[i] = T(((const S *)from)[i]);
}
template <class S, class T> void each_to(const S *from, int64_t n, void *to) {
  for (int64_t i = 0; i < n; i++) ((T *)to)[i] = T(from[i]);
}

void cast_block(const void *attrs, const void *const *in, void *out, int64_t n) {
  struct Plan { int32_t from, to; };
  const Plan p = *(const Plan *)attrs;
  union { double f[256]; int64_t i[256]; } block;
  const int64_t in_size = item_bytes(p.from), out_size = item_bytes(p.to);
  const bool through_f64 = is_float(p.from) ? is_float(p.to) || p.to == WNN_BOOL || p.to == WNN_I32 : is_float(p.to) && p.from == WNN_U64;
  for (int64_t at = 0; at < n; at += 256) {
    const int64_t m = n - at < 256 ? n - at : 256;
    const char *const from = (const char *)in[0] + at * in_size;
    char *const to = (char *)out + at * out_size;
    if (through_f64) {
      to_f64(p.from, from, m, block.f);
      from_f64(p.to, block.f, m, to);
    } else {
      to_i64(p.from, from, m, block.i);
      from_i64(p.to, block.i, m, to);
    }
  }
}

}  // namespace

void to_f64(int32_t dtype, const void *from, int64_t n, double *to) {
  switch (dtype) {
    case WNN_F32: return each<float>(from, n, to);
    case WNN_F64: return each<double>(from, n, to);
    case WNN_U64: return each<uint64_t>(from, n, to);
    case WNN_F16: for (int64_t i = 0; i < n; i++) to[i] = from_f16(((const uint16_t *)from)[i]); return;
    case WNN_BF16: for (int64_t i = 0; i < n; i++) to[i] = from_bf16(((const uint16_t *)from)[i]); return;
  }
  int64_t *const whole = (int64_t *)to;
  to_i64(dtype, from, n, whole);
  for (int64_t i = 0; i < n; i++) to[i] = double(whole[i]);
}

void to_i64(int32_t dtype, const void *from, int64_t n, int64_t *to) {
  switch (dtype) {
    case WNN_BOOL: for (int64_t i = 0; i < n; i++) to[i] = ((const uint8_t *)from)[i] != 0; return;
    case WNN_U8: return each<uint8_t>(from, n, to);
    case WNN_I8: return each<int8_t>(from, n, to);
    case WNN_U16: return each<uint16_t>(from, n, to);
    case WNN_I16: return each<int16_t>(from, n, to);
    case WNN_U32: return each<uint32_t>(from, n, to);
    case WNN_I32: return each<int32_t>(from, n, to);
    case WNN_I64: case WNN_U64: return each<int64_t>(from, n, to);
    case WNN_F32: return each<float>(from, n, to);
  }
  double *const x = (double *)to;
  to_f64(dtype, from, n, x);
  for (int64_t i = 0; i < n; i++) to[i] = int64_t(x[i]);
}

void from_f64(int32_t dtype, const double *from, int64_t n, void *to) {
  switch (dtype) {
    case WNN_F32: return each_to<double, float>(from, n, to);
    case WNN_F64: return each_to<double, double>(from, n, to);
    case WNN_F16: for (int64_t i = 0; i < n; i++) ((uint16_t *)to)[i] = to_f16(from[i]); return;
    case WNN_BF16: for (int64_t i = 0; i < n; i++) ((uint16_t *)to)[i] = to_bf16(from[i]); return;
    case WNN_I32: return each_to<double, int32_t>(from, n, to);
    case WNN_BOOL: for (int64_t i = 0; i < n; i++) ((uint8_t *)to)[i] = from[i] != 0; return;
  }
}

void from_i64(int32_t dtype, const int64_t *from, int64_t n, void *to) {
  switch (dtype) {
    case WNN_BOOL: for (int64_t i = 0; i < n; i++) ((uint8_t *)to)[i] = from[i] != 0; return;
    case WNN_U8: case WNN_I8: return each_to<int64_t, uint8_t>(from, n, to);
    case WNN_U16: case WNN_I16: return each_to<int64_t, uint16_t>(from, n, to);
    case WNN_U32: case WNN_I32: return each_to<int64_t, uint32_t>(from, n, to);
    case WNN_I64: case WNN_U64: return each_to<int64_t, int64_t>(from, n, to);
    case WNN_F32: return each_to<int64_t, float>(from, n, to);
    case WNN_F64: return each_to<int64_t, double>(from, n, to);
    case WNN_F16: for (int64_t i = 0; i < n; i++) ((uint16_t *)to)[i] = to_f16(double(from[i])); return;
    case WNN_BF16: for (int64_t i = 0; i < n; i++) ((uint16_t *)to)[i] = to_bf16(double(from[i])); return;
  }
}

KERNEL(cast) {
  const struct { int32_t from, to; } plan = {attr<int64_t>(attrs, 0) ? WNN_BF16 : in[0]->dtype, out[0]->dtype};
  return elementwise(ctx, in, 1, out[0], cast_block, &plan);
}
