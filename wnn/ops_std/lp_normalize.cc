// wnn: avx2
// y = x / |x|_p along an axis, 0 where the norm is 0.
//   x, y  : any shape, contiguous; y may be x
//   attrs : struct { int64 axis, p; }
// x is seen as (outer, n, inner). A vector covers neighbours along inner or, where inner is 1, along n.
#include "simd.h"

KERNEL(lp_normalize_f32) {
  const int64_t axis = attr<int64_t>(attrs, 0), n = in[0]->shape[axis];
  const bool square = attr<int64_t>(attrs, 8) == 2;
  int64_t inner = 1;
  for (int i = axis + 1; i < in[0]->ndim; i++) inner *= in[0]->shape[i];
  const auto term = [=](vf x) { return square ? x * x : vabs(x); };
  parallel_for(ctx, count(in[0]) / (n * inner), [=](int64_t task, int) {
    const float *x = f32(in[0]) + task * n * inner;
    float *y = f32(out[0]) + task * n * inner;
    if (inner == 1) {
      const float sum = reduce_sum(n, [=](auto v, int64_t i) { return term(v(x + i)); });
      const float norm = sum == 0 ? INFINITY : square ? sqrtf(sum) : sum;
      return map(y, n, [=](auto v, int64_t i) { return v(x + i) / norm; });
    }
    for (int64_t i = 0; i < inner; i += L) {
      const int64_t lanes = inner - i < L ? inner - i : L;
      vf sum = {};
      for (int64_t k = 0; k < n; k++) sum += term(load_n(x + k * inner + i, lanes));
      const vf norm = sum == 0 ? splat(INFINITY) : square ? vsqrt(sum) : sum;
      for (int64_t k = 0; k < n; k++)
        store_n(y + k * inner + i, load_n(x + k * inner + i, lanes) / norm, lanes);
    }
  });
  return 0;
}
