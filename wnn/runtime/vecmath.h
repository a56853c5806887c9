// vecmath.h: elementary functions on vectors of f32 (vf, from simd.h).
//
// Errors are maxima against float64, with FMA, over the stated range; "ulp" of the f32 result. NaN gives NaN, and infinities and
// overflow give what IEEE and numpy give, unless said otherwise.
#pragma once
#include "simd.h"

namespace {

// Horner's scheme, highest power first
template <class... T> WNN_INLINE vf poly(vf x, float c0, T... c) {
  vf y = splat(c0);
  return ((y = y * x + c), ...);
}

// 1.5 * 2^23: adding it to a number below 2^22 rounds that to an integer, ties to even, left in the low bits
constexpr float round_magic = 12582912.0f;

// n in [-127, 128] -> 2^n, of which 2^-127 is 0 and 2^128 infinity. t = n + pow2_magic, exactly
constexpr float pow2_magic = round_magic + 127.0f;
WNN_INLINE vf pow2(vf t) { return (vf)((vi)t << 23); }

// 2^x on [-1/2, 1/2] by Remez, degree 5
WNN_INLINE vf exp2_fraction(vf x) {
  return poly(x, 1.3276471993e-3f, 9.6755413345e-3f, 5.5507132735e-2f, 2.4022119724e-1f, 6.9314696706e-1f, 1.0f);
}
// 2^x, 2.9 ulp; below 2^-126.5 gives 0 or what is subnormal, from 2^127.5 on infinity. vexp2_negative: x <= 0 or NaN, as softmax needs
#if WNN_ISA == 2
WNN_INLINE vf vexp2(vf x) {
  const vf r = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT);  // x less the nearest integer; 0 of an infinity
  return (vf)_mm512_scalef_ps((__m512)exp2_fraction(r), (__m512)(x - r));
}
WNN_INLINE vf vexp2_negative(vf x) { return vexp2(x); }
#else
WNN_INLINE vf exp2_within(vf x) {
  const vf t = x + pow2_magic;
  return exp2_fraction(x - (t - pow2_magic)) * pow2(t);
}
WNN_INLINE vf vexp2(vf x) { return exp2_within(clamp(x, -127.0f, 128.0f)); }
WNN_INLINE vf vexp2_negative(vf x) { return exp2_within(at_least(x, splat(-127.0f))); }
#endif

// e^r for r = x - n ln 2; Cody-Waite reduction and polynomial of Cephes expf
WNN_INLINE vf exp_fraction(vf x, vf n) {
  const vf r = x - n * 0.693359375f - n * -2.12194440e-4f;
  return poly(r, 1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f) * (r * r) +
         (r + 1.0f);
}
constexpr float log2e = 1.44269504088896341f;

// e^x, 1.3 ulp; subnormal results included
WNN_INLINE vf vexp(vf x) {
  x = clamp(x, -104.0f, 89.0f);
  const vf n = (x * log2e + round_magic) - round_magic;
#if WNN_ISA == 2
  return (vf)_mm512_scalef_ps((__m512)exp_fraction(x, n), (__m512)n);
#else
  const vf half = (n * 0.5f + round_magic) - round_magic;
  return exp_fraction(x, n) * pow2(half + pow2_magic) * pow2(n - half + pow2_magic);
#endif
}
// e^x where only 1 + e^x or the like is wanted: 0 below -87.7, infinity above 88.4. Log2 e in two parts, then as vexp2
WNN_INLINE vf vexp_coarse(vf x) {
  x = clamp(x, -88.1f, 88.8f);
  const vf t = x * log2e + pow2_magic, r = x * 1.925963033e-8f + (x * log2e - (t - pow2_magic));
  return exp2_fraction(r) * pow2(t);
}

// ln x, Cephes logf, 0.8 ulp; -inf at 0, NaN below
WNN_INLINE vf vlog(vf x) {
  const vi tiny = x < 1.17549435e-38f;
  const vi bits = (vi)(tiny ? x * 8388608.0f : x);
  const vi sqrt_half = bits - 0x3f3504f3;                   // mantissas from [sqrt(1/2), sqrt(2)) keep exponent 0
  const vi exponent = sqrt_half >> 23;
  const vf m = (vf)(bits - (exponent << 23)) - 1.0f;
  const vf n = __builtin_convertvector(exponent, vf) - (tiny ? splat(23.0f) : splat(0.0f));
  const vf z = m * m;
  vf y = poly(m, 7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
              2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f) * m * z;
  y = y + n * -2.12194440e-4f - 0.5f * z;
  y = m + y + n * 0.693359375f;
  y = x < INFINITY ? y : x;                                 // inf, NaN
  y = x == 0.0f ? splat(-INFINITY) : y;
  return x < 0.0f ? splat(NAN) : y;
}

// tanh, rational 13/6 as in Eigen and XLA. 4.7 ulp
WNN_INLINE vf vtanh(vf x) {
  const vf c = clamp(x, -7.90531110763549805f, 7.90531110763549805f), s = c * c;
  const vf p = poly(s, -2.76076847742355e-16f, 2.00018790482477e-13f, -8.60467152213735e-11f, 5.12229709037114e-08f, 1.48572235717979e-05f,
                    6.37261928875436e-04f, 4.89352455891786e-03f);
  const vf q = poly(s, 1.19825839466702e-06f, 1.18534705686654e-04f, 2.26843463243900e-03f, 4.89352518554385e-03f);
  return clamp(c * p / q, -1.0f, 1.0f);
}
// erf, rational 13/8 as in XLA. 7.5 ulp
WNN_INLINE vf verf(vf x) {
  const vf c = clamp(x, -4.0f, 4.0f), s = c * c;
  const vf p = poly(s, -2.72614225801306e-10f, 2.77068142495902e-08f, -2.10102402082508e-06f, -5.69250639462346e-05f, -7.34990630326855e-04f,
                    -2.95459980854025e-03f, -1.60960333262415e-02f);
  const vf q = poly(s, -1.45660718464996e-05f, -2.13374055278905e-04f, -1.68282697438203e-03f, -7.37332916720468e-03f, -1.42647390514189e-02f);
  return clamp(c * p / q, -1.0f, 1.0f);
}

WNN_INLINE vf vsigmoid(vf x) { return 1.0f / (1.0f + vexp_coarse(-x)); }             // 4 ulp above -87; 45 without FMA
WNN_INLINE vf vsilu(vf x) { return x / (1.0f + vexp_coarse(-x)); }                   // 4 ulp above -87; 45 without FMA
#if WNN_ISA == 2
// x Phi(x), with Phi - 1/2 in 16 pieces that a permutation selects. At a = 15/5.5 |x| <= 15, i the nearest integer to a: the
// Chebyshev interpolation of degree 4 over [i - 1/2, i + 1/2], in powers of a - i. 5e-7 absolute
alignas(64) constexpr float gelu_pieces[5][16] = {
    {0.0f, 2.928129e-4f, 4.1181262e-4f, 3.21737e-4f, 1.280724e-4f, -3.5796602e-5f, -1.0716791e-4f, -1.0231332e-4f,
     -6.693076e-5f, -3.3955475e-5f, -1.3988709e-5f, -4.7878875e-6f, -1.3796102e-6f, -3.3751502e-7f, -7.0513664e-8f, -1.26331186e-8f},
    {-3.2571594e-3f, -2.6384254e-3f, -1.1574846e-3f, 3.6542374e-4f, 1.274656e-3f, 1.4340397e-3f, 1.1175915e-3f, 6.8140234e-4f,
     3.3981056e-4f, 1.4164239e-4f, 4.996152e-5f, 1.5029369e-5f, 3.876029e-6f, 8.601847e-7f, 1.6472077e-7f, 2.7275021e-8f},
    {0.0f, -9.193687e-3f, -1.5029337e-2f, -1.6108835e-2f, -1.3416769e-2f, -9.158281e-3f, -5.24639e-3f, -2.5543498e-3f,
     -1.0650029e-3f, -3.8210666e-4f, -1.18365024e-4f, -3.1731754e-5f, -7.374858e-6f, -1.4879067e-6f, -2.6085837e-7f, -3.9773326e-8f},
    {1.4627755e-1f, 1.3676798e-1f, 1.1179038e-1f, 7.987978e-2f, 4.9897682e-2f, 2.7247896e-2f, 1.3007453e-2f, 5.4281903e-3f,
     1.98024e-3f, 6.315041e-4f, 1.7604565e-4f, 4.2900232e-5f, 9.138458e-6f, 1.7016029e-6f, 2.769541e-7f, 3.940154e-8f},
    {0.0f, 1.4306615e-1f, 2.683224e-1f, 3.6433393e-1f, 4.2876664e-1f, 4.6662349e-1f, 4.8609656e-1f, 4.9486592e-1f,
     4.983233e-1f, 4.9951658e-1f, 4.9987713e-1f, 4.999725e-1f, 4.9999458e-1f, 4.9999908e-1f, 4.9999985e-1f, 0.5f}};
WNN_INLINE vf vgelu(vf x) {
  const vf a = at_most(vabs(x), splat(5.5f)), t = a * (15 / 5.5f) + round_magic, r = a * (15 / 5.5f) - (t - round_magic);
  vf y = (vf)_mm512_permutexvar_ps((__m512i)t, (__m512)load(gelu_pieces[0]));
#pragma GCC unroll 4
  for (int i = 1; i < 5; i++) y = y * r + (vf)_mm512_permutexvar_ps((__m512i)t, (__m512)load(gelu_pieces[i]));
  return x * (0.5f + (vf)((vi)y | ((vi)x & INT32_MIN)));
}
#else
WNN_INLINE vf vgelu(vf x) { return 0.5f * x * (1.0f + verf(x * 0.70710678118654752f)); }  // 1.3e-6 absolute up to |x| = 10
#endif
// x sigmoid(2u) with u = sqrt(2/pi) (x + 0.044715 x^3). 5.2e-7 absolute up to |x| = 10
WNN_INLINE vf vgelu_tanh(vf x) {
  return x / (1.0f + vexp2(x * (-2.0f * 0.79788456080286536f * log2e) * (1.0f + 0.044715f * (x * x))));
}
WNN_INLINE vf vhard_sigmoid(vf x, float a, float b) { return clamp(x * a + b, 0.0f, 1.0f); }
WNN_INLINE vf vhard_swish(vf x) { return x * vhard_sigmoid(x, 1.0f / 6, 0.5f); }
WNN_INLINE vf vrelu(vf x) { return at_least(x, splat(0.0f)); }

}  // namespace

// Applies the posts, in order, to a finished f32 tile: element (i, j) is c[i*ldc + j] and belongs to column col0 + j and to row
// c_rows[row0 + i] of the whole C, or row0 + i without c_rows; a row numbered negative is left alone.
namespace WNN_ISA_SPACE(WNN_ISA) {
void post_tile(const wnn_post *post, int n_post, float *c, int64_t ldc, int64_t row0, const int32_t *c_rows, int64_t rows, int64_t col0,
               int64_t cols);
}
using namespace WNN_ISA_SPACE(WNN_ISA);
