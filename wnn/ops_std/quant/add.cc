// y = saturate(round(max((a - a_zero) a_scale op (b - b_zero) b_scale, low) / y_scale) + y_zero)
//   a, b: u8, any strides, broadcast to y      y: u8, contiguous      attrs: Pair
#include "../elementwise.h"
#include "../bytes.h"

namespace {

struct Pair { int32_t product; float a_scale, a_zero, b_scale, b_zero, y_scale, y_zero, low; };

void pair_block(const void *arg, const void *const *in, void *out, int64_t n) {
  const Pair p = *(const Pair *)arg;
  const uint8_t *const a = (const uint8_t *)in[0], *const b = (const uint8_t *)in[1];
  for (int64_t i = 0; i < n; i += L) {
    const int64_t m = n - i < L ? n - i : L;
    const vf x = (load_float(a + i, m) - p.a_zero) * p.a_scale, z = (load_float(b + i, m) - p.b_zero) * p.b_scale;
    const vf y = at_least(p.product ? x * z : x + z, splat(p.low)) / p.y_scale;
    store_int((uint8_t *)out + i, nearest(clamp(y, -p.y_zero, 255 - p.y_zero)) + int32_t(p.y_zero), m);
  }
}

}  // namespace

KERNEL(add_quantized) { return elementwise(ctx, in, 2, out[0], pair_block, attrs); }
