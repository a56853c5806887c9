// wnn: once
// cumsum, cumprod: y_i = x_0 + ... + x_i, or the product, along an axis; f32 is summed in double.
//   x, y: contiguous      attrs: struct { int64_t axis, exclusive, reverse; }
// trilu: x with the elements above or below a diagonal of each matrix set to zero.
//   x, y: any dtype, contiguous      k?: i64      attrs: struct { int64_t upper; }
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

KERNEL(trilu) {
  const wnn_tensor *x = in[0];
  const int64_t size = item_bytes(x->dtype), n = last_dim(x), m = x->shape[x->ndim - 2];
  const bool upper = attr<int64_t>(attrs, 0);
  if (count(x) == 0) return 0;
  int64_t k = nin > 1 && in[1] ? *(const int64_t *)in[1]->data : 0;
  k = k < -m ? -m : k > n ? n : k;
  for_rows(ctx, count(x) / n, n * size, [&](int64_t row) {
    int64_t cut = row % m + k + !upper;  // the first element kept, or the first set to zero
    cut = cut < 0 ? 0 : cut > n ? n : cut;
    const int64_t begin = upper ? cut : 0, end = upper ? n : cut;
    char *to = (char *)out[0]->data + row * n * size;
    memset(to, 0, size_t(n * size));
    memcpy(to + begin * size, (const char *)x->data + (row * n + begin) * size, size_t((end - begin) * size));
  });
  return 0;
}
