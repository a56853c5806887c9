// wnn: avx2 wide
// cast between f32 and f16, by the instructions that AVX2's CPUs have for it.
#include "elementwise.h"

namespace {

void block(const void *to, const void *const *in, void *out, int64_t n) {
  const bool narrow = *(const int32_t *)to == WNN_F16;
  const float *const floats = (const float *)(narrow ? in[0] : out);
  const __m128i *const halves = (const __m128i *)(narrow ? out : in[0]);  // eight each
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    if (narrow) _mm_storeu_si128((__m128i *)halves + i / 8, _mm256_cvtps_ph((__m256)load(floats + i), _MM_FROUND_TO_NEAREST_INT));
    else store((float *)floats + i, (vf)_mm256_cvtph_ps(_mm_loadu_si128(halves + i / 8)));
  }
  if (i == n) return;
  char from[32] = {}, made[32];
  const void *const rest = from;
  const int64_t size = narrow ? 4 : 2, left = n - i;
  memcpy(from, (const char *)in[0] + i * size, size_t(left * size));
  block(to, &rest, made, 8);
  memcpy((char *)out + i * (6 - size), made, size_t(left * (6 - size)));
}

}  // namespace

KERNEL(cast_half) { return elementwise(ctx, in, 1, out[0], block, &out[0]->dtype); }
