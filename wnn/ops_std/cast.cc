// wnn: once hot
// y = x in the dtype of y.
//   attrs: struct { int32_t from, to, saturate, round; }: ONNX's numbers of dtypes that travel as their bits, else 0;
//   whether what is too large for a small float becomes its largest number; e8m0's rounding: 0 down, 1 to nearest, 2 up
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
  const uint32_t sign = uint32_t(h & 0x8000) << 16, bits = uint32_t(h & 0x7fff) << 13;
  if ((h & 0x7c00) == 0x7c00) return f32_of(sign | 0x7f800000 | bits);
  return f32_of(sign | bits) * 0x1p112f;
}
uint16_t to_f16(double x) {
  uint64_t bits;
  memcpy(&bits, &x, 8);
  const uint16_t sign = uint16_t(bits >> 48 & 0x8000);
  const double a = fabs(x);
  if (a != a) return sign | 0x7e00;
  if (a >= 65520) return sign | 0x7c00;
  if (a < 0x1p-14) {  // 2^28 leaves no digit below 2^-24
    const double shifted = a + 0x1p28;
    memcpy(&bits, &shifted, 8);
    return uint16_t(sign + (bits & 2047));
  }
  bits = (bits & ~(1ull << 63)) + (1ull << 41) - 1 + (bits >> 42 & 1);
  return uint16_t(sign + (bits >> 42) - (1008 << 10));
}

// Floats of 8 bits or fewer. Codes above `max` are infinity, if that is one, or NaN; fnuz types have neither
// infinities nor -0, and one NaN in the place of -0.
// Source: Micikevicius et al. 2022 (arXiv:2209.05433); OCP Microscaling Formats 1.0; ONNX's notes on float8.
enum { E8M0 = 24 };
struct Small { int dtype, e, m, bias, max, inf, nan; };
constexpr Small SMALL[] = {
  {17, 4, 3, 7, 126, -1, 127}, {18, 4, 3, 8, 127, -1, 128}, {19, 5, 2, 15, 123, 124, 126}, {20, 5, 2, 16, 127, -1, 128},
  {23, 2, 1, 1, 7, -1, -1},    {27, 2, 3, 1, 31, -1, -1},   {28, 3, 2, 3, 31, -1, -1},
};
const Small *small_of(int dtype) {
  for (const Small &f : SMALL)
    if (f.dtype == dtype) return &f;
  return nullptr;
}

double from_small(const Small &f, uint8_t bits) {
  const int half = 1 << (f.e + f.m), code = bits & (half - 1), exponent = code >> f.m, rest = code & ((1 << f.m) - 1);
  if (bits == f.nan || (code > f.max && code != f.inf)) return NAN;
  const double x = code == f.inf ? HUGE_VAL : exponent ? ldexp((1 << f.m) + rest, exponent - f.bias - f.m) : ldexp(rest, 1 - f.bias - f.m);
  return bits & half ? -x : x;
}
uint8_t to_small(const Small &f, double x, bool saturate) {
  const int half = 1 << (f.e + f.m), sign = signbit(x) ? half : 0;
  const bool nuz = f.nan == 128;
  if (x != x) return uint8_t(nuz ? 128 : f.nan < 0 ? half - sign : sign | f.nan);
  const double a = fabs(x);
  int code = 0, e = 0;
  if (a > 0x1p20) {
    code = f.max + 1;
  } else if (a != 0) {
    frexp(a, &e);
    e = e - 1 > 1 - f.bias ? e - 1 : 1 - f.bias;
    code = ((e + f.bias - 1) << f.m) + int(rint(ldexp(a, f.m - e)));
  }
  if (code > f.max) {
    if (!saturate && nuz) return 128;
    code = saturate || f.nan < 0 ? f.max : f.inf >= 0 ? f.inf : f.nan;
  }
  return uint8_t(nuz && code == 0 ? 0 : sign | code);
}
uint8_t to_e8m0(float x, bool saturate, int round) {
  const uint32_t bits = bits_of(x), exponent = bits >> 23 & 255, rest = bits & 0x7fffff;
  const bool up = round == 2 ? rest > 0 : round == 1 && (rest > 0x400000 || (rest == 0x400000 && exponent > 0));
  return uint8_t(exponent + (exponent < (saturate ? 254u : 255u) && up));
}

template <class S, class T> void each(const void *from, int64_t n, T *to) {
  for (int64_t i = 0; i < n; i++) to[i] = T(((const S *)from)[i]);
}
template <class S, class T> void each_to(const S *from, int64_t n, void *to) {
  for (int64_t i = 0; i < n; i++) ((T *)to)[i] = T(from[i]);
}

struct Plan { int32_t from, to, saturate, round, spare; };  // spare: bits of a byte that an integer does not have

bool is_small(int32_t dtype) { return small_of(dtype) || dtype == E8M0; }

void load(int32_t dtype, const void *from, int64_t n, double *to) {
  const uint8_t *const bits = (const uint8_t *)from;
  if (const Small *f = small_of(dtype)) {
    for (int64_t i = 0; i < n; i++) to[i] = from_small(*f, bits[i]);
  } else if (dtype == E8M0) {
    for (int64_t i = 0; i < n; i++) to[i] = bits[i] == 255 ? double(NAN) : ldexp(1, bits[i] - 127);
  } else {
    to_f64(dtype, from, n, to);
  }
}
bool store(const Plan &p, const double *from, int64_t n, void *to) {
  uint8_t *const bits = (uint8_t *)to;
  if (const Small *f = small_of(p.to)) {
    for (int64_t i = 0; i < n; i++) bits[i] = to_small(*f, from[i], p.saturate);
  } else if (p.to == E8M0) {
    for (int64_t i = 0; i < n; i++) bits[i] = to_e8m0(float(from[i]), p.saturate, p.round);
  } else {
    return false;
  }
  return true;
}

void cast_block(const void *attrs, const void *const *in, void *out, int64_t n) {
  const Plan p = *(const Plan *)attrs;
  union { double f[256]; int64_t i[256]; } block;
  const bool small = is_small(p.from) || is_small(p.to);
  const int64_t in_size = is_small(p.from) ? 1 : item_bytes(p.from), out_size = is_small(p.to) ? 1 : item_bytes(p.to);
  const bool through_f64 = is_float(p.from) ? is_float(p.to) || p.to == WNN_BOOL || p.to == WNN_I32 : is_float(p.to) && p.from == WNN_U64;
  for (int64_t at = 0; at < n; at += 256) {
    const int64_t m = n - at < 256 ? n - at : 256;
    const char *const from = (const char *)in[0] + at * in_size;
    char *const to = (char *)out + at * out_size;
    if (small) {
      load(p.from, from, m, block.f);
      if (store(p, block.f, m, to)) continue;
      if (is_float(p.to) || p.to == WNN_BOOL) {
        from_f64(p.to, block.f, m, to);
        continue;
      }
      for (int64_t i = 0; i < m; i++) block.i[i] = int64_t(block.f[i]);
      from_i64(p.to, block.i, m, to);
    } else if (through_f64) {
      to_f64(p.from, from, m, block.f);
      from_f64(p.to, block.f, m, to);
    } else {
      to_i64(p.from, from, m, block.i);
      for (int64_t i = 0; p.spare && i < m; i++) {
        const uint64_t left = uint64_t(block.i[i]) << (56 + p.spare);
        block.i[i] = p.to == WNN_I8 ? int64_t(left) >> (56 + p.spare) : int64_t(left >> (56 + p.spare));
      }
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
  Plan plan = {};
  memcpy(&plan, attrs, 16);
  if (plan.to >= 21 && !is_small(plan.to)) plan.spare = plan.to <= 22 ? 4 : 6;
  if (!is_small(plan.from) && plan.from != WNN_BF16) plan.from = in[0]->dtype;
  if (!is_small(plan.to)) plan.to = out[0]->dtype;
  return elementwise(ctx, in, 1, out[0], cast_block, &plan);
}
