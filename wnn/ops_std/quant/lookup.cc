// y = table[x].    x: u8, contiguous    table: (256,) u8    y may be x
#include "../elementwise.h"

namespace {

struct Lookup { const uint8_t *table; bool permutes; };

#if WNN_ISA == 2
__attribute__((target("avx512vbmi"))) int64_t permute(const uint8_t *table, const uint8_t *x, uint8_t *y, int64_t n) {
  const __m512i *const t = (const __m512i *)table;
  const __m512i t0 = _mm512_loadu_si512(t), t1 = _mm512_loadu_si512(t + 1), t2 = _mm512_loadu_si512(t + 2), t3 = _mm512_loadu_si512(t + 3);
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const __m512i v = _mm512_loadu_si512(x + i), low = _mm512_permutex2var_epi8(t0, v, t1), high = _mm512_permutex2var_epi8(t2, v, t3);
    _mm512_storeu_si512(y + i, _mm512_mask_blend_epi8(_mm512_movepi8_mask(v), low, high));
  }
  return i;
}
#endif

void lookup_block(const void *arg, const void *const *in, void *out, int64_t n) {
  const Lookup l = *(const Lookup *)arg;
  const uint8_t *const x = (const uint8_t *)in[0];
  uint8_t *const y = (uint8_t *)out;
  int64_t i = 0;
#if WNN_ISA == 2
  if (l.permutes) i = permute(l.table, x, y, n);
#endif
  for (; i < n; i++) y[i] = l.table[x[i]];
}

}  // namespace

KERNEL(lookup) {
  const Lookup l = {(const uint8_t *)in[1]->data, (ctx->api->cpu_features & WNN_CPU_VBMI) != 0};
  return elementwise(ctx, in, 1, out[0], lookup_block, &l);
}
