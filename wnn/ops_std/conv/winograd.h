// winograd.h: F(4, 3) along one axis, at the points 0, +-sqrt(1/2), +-sqrt(2) and infinity (Toom-Cook), whose rounding errors are
// a quarter of those of 0, +-1, +-2: four outputs of a kernel of three taps by six multiplications.
#pragma once
#include "conv.h"

namespace {

constexpr float a = 0.70710678118654752f, b = 1.41421356237309505f;

WNN_INLINE void input_1d(vf d0, vf d1, vf d2, vf d3, vf d4, vf d5, vf *t, int step) {
  const vf u = d4 - 2.0f * d2, v = a * d3 - b * d1, s = d4 - 0.5f * d2, w = b * d3 - a * d1;
  t[0] = d0 - 2.5f * d2 + d4;
  t[step] = u + v, t[2 * step] = u - v;
  t[3 * step] = s + w, t[4 * step] = s - w;
  t[5 * step] = d1 - 2.5f * d3 + d5;
}
constexpr float G[6][3] = {{1, 0, 0}, {-2.0f / 3, -2.0f / 3 * a, -1.0f / 3}, {-2.0f / 3, 2.0f / 3 * a, -1.0f / 3},
                           {1.0f / 6, b / 6, 1.0f / 3}, {1.0f / 6, -b / 6, 1.0f / 3}, {0, 0, 1}};
WNN_INLINE void weight_1d(vf g0, vf g1, vf g2, vf *t) {
  const vf e = (g0 + 0.5f * g2) * (-2.0f / 3), f = g1 * (-2.0f / 3 * a), h = (g0 + 2.0f * g2) * (1.0f / 6), k = g1 * (b / 6);
  t[0] = g0;
  t[1] = e + f, t[2] = e - f;
  t[3] = h + k, t[4] = h - k;
  t[5] = g2;
}
WNN_INLINE void output_1d(vf m0, vf m1, vf m2, vf m3, vf m4, vf m5, vf *y, int step) {
  const vf p = m1 + m2, q = m1 - m2, r = m3 + m4, s = m3 - m4;
  y[0] = m0 + p + r;
  y[step] = a * q + b * s;
  y[2 * step] = 0.5f * p + 2.0f * r;
  y[3 * step] = 0.5f * a * q + 2.0f * b * s + m5;
}

// f(i, n): vectors of n <= L elements
template <class F> WNN_INLINE void vectors(int64_t count, F f) {
  for (int64_t i = 0; i < count; i += L) f(i, min_of(L, count - i));
}
WNN_INLINE vf load_upto(const float *p, int64_t n) { return WNN_ISA < 2 && n == L ? load(p) : load_n(p, n); }
WNN_INLINE void store_upto(float *p, vf v, int64_t n) {
  if (WNN_ISA < 2 && n == L) store(p, v);
  else store_n(p, v, n);
}


// What happens to the sums in registers: see take_bias_and_clip
struct Finish { const float *bias = nullptr; float lo = -INFINITY, hi = INFINITY; };

}  // namespace
