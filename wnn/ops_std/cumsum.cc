// wnn: once
// cumsum, cumprod: y_i = x_0 + ... + x_i, or the product, along an axis; f32 is summed in double.
//   x, y: contiguous      attrs: struct { int64_t axis, exclusive, reverse; }
#include "move.h"

namespace {

template <class T, class S, bool PRODUCT>
int run_along(wnn_ctx *ctx, const void *attrs, const wnn_tensor *x, wnn_tensor *y) {
  const int axis = int(attr<int64_t>(attrs, 0));
  const bool exclusive = attr<int64_t>(attrs, 8), reverse = attr<int64_t>(attrs, 16);
  const int64_t n = x->shape[axis], inner = product(x, axis + 1, x->ndim), outer = product(x, 0, axis);
  for_rows(ctx, outer * inner, n * int64_t(sizeof(T)), [&](int64_t i) {
    const int64_t base = i / inner * n * inner + i % inner;
    S total = PRODUCT;
    for (int64_t k = 0; k < n; k++) {
      const int64_t at = base + (reverse ? n - 1 - k : k) * inner;
      const S before = total, v = S(((const T *)x->data)[at]);
      total = PRODUCT ? total * v : total + v;
      ((T *)y->data)[at] = T(exclusive ? before : total);
    }
  });
  return 0;
}

template <bool PRODUCT> int run(wnn_ctx *ctx, const void *attrs, const wnn_tensor *x, wnn_tensor *y) {
  switch (x->dtype) {
    case WNN_F32: return run_along<float, double, PRODUCT>(ctx, attrs, x, y);
    case WNN_F64: return run_along<double, double, PRODUCT>(ctx, attrs, x, y);
    case WNN_I64: return run_along<int64_t, uint64_t, PRODUCT>(ctx, attrs, x, y);
    default: return run_along<int32_t, uint32_t, PRODUCT>(ctx, attrs, x, y);
  }
}

}  // namespace

KERNEL(cumsum) { return run<false>(ctx, attrs, in[0], out[0]); }
KERNEL(cumprod) { return run<true>(ctx, attrs, in[0], out[0]); }
