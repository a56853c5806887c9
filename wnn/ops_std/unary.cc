// wnn: inline
// y = f(x), element by element: one kernel f_f32 for each row of the table below.
//   x: f32, any strides    y: contiguous; may be the same memory as a contiguous x
//   attrs: struct { float a, b; }
#include "elementwise.h"
#include "vecmath.h"

namespace {

template <class F> WNN_INLINE vf lanes(vf x, F f) {
  for (int i = 0; i < L; i++) x[i] = f(x[i]);
  return x;
}
WNN_INLINE vf vfloor(vf x) {
#if WNN_ISA == 2
  return (vf)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#elif WNN_ISA == 1
  return (vf)_mm256_floor_ps((__m256)x);
#else
  return lanes(x, floorf);
#endif
}
WNN_INLINE vf vround(vf x) {  // half to even
#if WNN_ISA == 2
  return (vf)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif WNN_ISA == 1
  return (vf)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  return lanes(x, rintf);
#endif
}

// sin(x + quarter * pi/2): Cephes sinf and cosf, reduction by pi/2 in three parts; libm where |x| is large
WNN_INLINE vf vsine(vf x, int quarter) {
  const vf t = x * 0.63661977236758134f + round_magic, n = t - round_magic;
  const vi q = (vi)t + quarter;
  const vf r = x - n * 1.5703125f - n * 4.837512969970703125e-4f - n * 7.54978995489188216e-8f;
  const vf z = r * r;
  const vf s = poly(z, -1.9515295891e-4f, 8.3321608736e-3f, -1.6666654611e-1f) * z * r + r;
  const vf c = poly(z, 2.443315711809948e-5f, -1.388731625493765e-3f, 4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
  const vf y = (vf)((vi)((q & 1) ? c : s) ^ ((q & 2) << 30));
  return y;
}
WNN_INLINE bool is_large(vf x) { return fold(vabs(x), [](auto a, auto b) { return a > b ? a : b; }) > 8192.0f; }
WNN_INLINE vf vsin(vf x) { return is_large(x) ? lanes(x, sinf) : vsine(x, 0); }
WNN_INLINE vf vcos(vf x) { return is_large(x) ? lanes(x, cosf) : vsine(x, 1); }

WNN_INLINE vf vsign(vf x) { return x > 0.0f ? splat(1.0f) : x < 0.0f ? splat(-1.0f) : x; }
// e^x - 1: by its power series near 0, where the difference would lose digits
WNN_INLINE vf vexpm1(vf x) {
  const vf series = x * poly(x, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f);
  return vabs(x) < 0.25f ? series : vexp(x) - 1.0f;
}
// ln(1 + x) for x >= 0, Goldberg 1991, theorem 4
WNN_INLINE vf vlog1p(vf x) {
  const vf u = 1.0f + x;
  const vf y = vlog(u) * (x / (u - 1.0f));
  return u == 1.0f ? x : u < INFINITY ? y : u;
}
WNN_INLINE vf vsoftplus(vf x) { return vrelu(x) + vlog1p(vexp(-vabs(x))); }

// x tanh(softplus(x)) = x (1 - 2 / (1 + (1 + e^x)^2))
WNN_INLINE vf vmish(vf x) {
  const vf e = vexp_coarse(at_most(x, splat(20.0f))), n = e * (e + 2.0f);
  return x * (n / (n + 2.0f));
}

}  // namespace

#define UNARY(name, formula) \
  static void name##_block(const void *attrs, const void *const *in, void *out, int64_t n) { \
    [[maybe_unused]] const float a = attr<float>(attrs, 0), b = attr<float>(attrs, 4); \
    apply((const float *)in[0], (float *)out, n, [=](vf x) -> vf { return formula; }); \
  } \
  KERNEL(name##_f32) { return elementwise(ctx, in, 1, out[0], name##_block, attrs); }

UNARY(relu, vrelu(x))
UNARY(leaky_relu, x < 0.0f ? x * a : x)
UNARY(clip, clamp(x, a, b))
UNARY(sigmoid, vsigmoid(x))
UNARY(hard_sigmoid, vhard_sigmoid(x, a, b))
UNARY(silu, vsilu(x))
UNARY(hard_swish, vhard_swish(x))
UNARY(tanh, vtanh(x))
UNARY(gelu, vgelu(x))
UNARY(gelu_tanh, vgelu_tanh(x))
UNARY(erf, verf(x))
UNARY(exp, vexp(x))
UNARY(log, vlog(x))
UNARY(sqrt, vsqrt(x))
UNARY(reciprocal, 1.0f / x)
UNARY(abs, vabs(x))
UNARY(neg, -x)
UNARY(sign, vsign(x))
UNARY(floor, vfloor(x))
UNARY(ceil, -vfloor(-x))
UNARY(round, vround(x))
UNARY(sin, vsin(x))
UNARY(cos, vcos(x))
UNARY(elu, x < 0.0f ? a * vexpm1(x) : x)
UNARY(selu, b * (x < 0.0f ? a * vexpm1(x) : x))
UNARY(celu, x < 0.0f ? a * vexpm1(x / a) : x)
UNARY(softplus, vsoftplus(x))
UNARY(mish, vmish(x))
UNARY(softsign, x / (1.0f + vabs(x)))
UNARY(thresholded_relu, x > a ? x : splat(0.0f))

static void isnan_block(const void *, const void *const *in, void *out, int64_t n) {
  const float *const x = (const float *)in[0];
  decide((uint8_t *)out, n, [=](int64_t i, int64_t left) -> vi { const vf v = load_some(x + i, left); return v != v; });
}
KERNEL(isnan_f32) { return elementwise(ctx, in, 1, out[0], isnan_block, attrs); }
