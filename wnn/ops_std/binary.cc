// wnn: avx2 hot
// y = f(a, b), element by element with broadcasting: one kernel f_f32 (f_i32) for each row of the tables below.
//   a, b: f32 (i32), any strides    y: contiguous; may be the same memory as a contiguous a or b; of comparisons bool
#include "elementwise.h"
#include "vecmath.h"

namespace {
WNN_INLINE vf with_nan(vf y, vf b) { return b != b ? b : y; }

// a^b by libm, except for the one exponent of a whole block that is a product or a root
void power(const float *a, const float *b, float *y, int64_t n) {
  int64_t same = 1;
  while (same < n && b[same] == b[0]) same++;
  const float e = same == n ? b[0] : 0;
  if (e == 2) return map(y, n, [=](auto v, int64_t i) { const vf x = v(a + i); return x * x; });
  if (e == 3) return map(y, n, [=](auto v, int64_t i) { const vf x = v(a + i); return x * x * x; });
  if (e == -1) return map(y, n, [=](auto v, int64_t i) { return 1.0f / v(a + i); });
  for (int64_t i = 0; i < n; i++) y[i] = powf(a[i], b[i]);
}
}  // namespace

#define KERNEL_OF(name, ...) \
  static void name##_block(const void *, const void *const *in, void *out, int64_t n) { \
    const float *const a = (const float *)in[0], *const b = (const float *)in[1]; \
    float *const y = (float *)out; \
    __VA_ARGS__; \
  } \
  KERNEL(name##_f32) { return elementwise(ctx, in, 2, out[0], name##_block, nullptr); }
#define BINARY(name, formula) \
  KERNEL_OF(name, map(y, n, [=](auto v, int64_t i) -> vf { const vf x = v(a + i), z = v(b + i); return formula; }))

BINARY(add, x + z)
BINARY(sub, x - z)
BINARY(mul, x * z)
BINARY(div, x / z)
BINARY(min, with_nan(at_most(x, z), z))
BINARY(max, with_nan(at_least(x, z), z))
BINARY(prelu, x < 0.0f ? x * z : x)
KERNEL_OF(pow, power(a, b, y, n))

#define COMPARISON_OF(name, V, op) \
  static void name##_block(const void *, const void *const *in, void *out, int64_t n) { \
    const float *const a = (const float *)in[0], *const b = (const float *)in[1]; \
    decide((uint8_t *)out, n, [=](int64_t i, int64_t left) -> vi { return (V)load_some(a + i, left) op (V)load_some(b + i, left); }); \
  } \
  KERNEL(name) { return elementwise(ctx, in, 2, out[0], name##_block, nullptr); }
#define COMPARISON(name, op) COMPARISON_OF(name##_f32, vf, op) COMPARISON_OF(name##_i32, vi, op)
COMPARISON(equal, ==)
COMPARISON(less, <)
COMPARISON(less_equal, <=)
COMPARISON(greater, >)
COMPARISON(greater_equal, >=)
