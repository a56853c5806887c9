// wnn: once
// count_non_zero: how many elements of x are not zero (-0 is, NaN is not).
// non_zero: their positions in row-major order.
//   x: any dtype, contiguous      count, y (rank, n): i64, contiguous
#include "convert.h"
#include "elementwise.h"

namespace {

template <class T, class F> void each(const T *x, int64_t n, bool sign, const F &found) {
  for (int64_t i = 0; i < n; i++)
    if (T(x[i] << sign) != 0) found(i);
}
template <class F> void scan(const wnn_tensor *x, const F &found) {
  const bool sign = is_float(x->dtype);  // shifted out
  const int64_t n = count(x);
  switch (item_bytes(x->dtype)) {
    case 1: return each((const uint8_t *)x->data, n, sign, found);
    case 2: return each((const uint16_t *)x->data, n, sign, found);
    case 4: return each((const uint32_t *)x->data, n, sign, found);
    default: return each((const uint64_t *)x->data, n, sign, found);
  }
}

}  // namespace

KERNEL(count_non_zero) {
  int64_t n = 0;
  scan(in[0], [&](int64_t) { n++; });
  *(int64_t *)out[0]->data = n;
  return 0;
}

KERNEL(non_zero) {
  const wnn_tensor *const x = in[0];
  int64_t *const y = (int64_t *)out[0]->data, n = out[0]->shape[1], k = 0;
  scan(x, [&](int64_t i) {
    if (k < n) {
      for (int d = x->ndim - 1; d > 0; i /= x->shape[d--]) y[d * n + k] = i % x->shape[d];
      y[k] = i;
    }
    k++;
  });
  return k == n ? 0 : ctx->api->error(ctx, "[non_zero] found %lld elements that are not zero; expected %lld", (long long)k, (long long)n);
}
