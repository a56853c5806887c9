// wnn: hot
// The planes of a picture -> pixels, for conv.cc, which is compiled once.
#include "conv.h"

#if WNN_ISA != 1  // vectors of 8 would gain nothing
namespace {

#if WNN_ISA == 2
// Part number i of 16 pixels
template <int i> WNN_INLINE vf part(vf r, vf g, vf b) {
  vi two, three;  // which of r and g, then which of these and b
  for (int l = 0; l < L; l++) {
    const int at = i * L + l, pixel = at / 3;
    two[l] = at % 3 ? L + pixel : pixel, three[l] = at % 3 == 2 ? L + pixel : l;
  }
  const __m512 rg = _mm512_permutex2var_ps((__m512)r, (__m512i)two, (__m512)g);
  return (vf)_mm512_permutex2var_ps(rg, (__m512i)three, (__m512)b);
}
WNN_INLINE void pixels(vf r, vf g, vf b, float *to) { store(to, part<0>(r, g, b)), store(to + L, part<1>(r, g, b)), store(to + 2 * L, part<2>(r, g, b)); }
#else
WNN_INLINE void pixels(vf r, vf g, vf b, float *to) {
  const vf low = __builtin_shufflevector(r, g, 0, 4, 1, 5), high = __builtin_shufflevector(r, g, 2, 6, 3, 7);
  store(to, __builtin_shufflevector(low, b, 0, 1, 4, 2));
  store(to + 4, __builtin_shufflevector(__builtin_shufflevector(low, b, 3, 5, 3, 5), high, 0, 1, 4, 5));
  store(to + 8, __builtin_shufflevector(high, b, 6, 2, 3, 7));
}
#endif

void interleave(const float *r, const float *g, const float *b, int64_t n, float *to) {
  int64_t i = 0;
  for (; i + L <= n; i += L, to += 3 * L) pixels(load(r + i), load(g + i), load(b + i), to);
  for (; i < n; i++, to += 3) to[0] = r[i], to[1] = g[i], to[2] = b[i];
}
HOST_FUNCTION(interleave)

}  // namespace
#endif
