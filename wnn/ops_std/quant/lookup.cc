// wnn: base
// y = table[x].    x: u8, contiguous    table: (256,) u8    y may be x
#include "../elementwise.h"

namespace {
void lookup_block(const void *arg, const void *const *in, void *out, int64_t n) {
  const uint8_t *const table = (const uint8_t *)arg, *const x = (const uint8_t *)in[0];
  uint8_t *const y = (uint8_t *)out;
  for (int64_t i = 0; i < n; i++) y[i] = table[x[i]];
}
}  // namespace

KERNEL(lookup) { return elementwise(ctx, in, 1, out[0], lookup_block, in[1]->data); }
