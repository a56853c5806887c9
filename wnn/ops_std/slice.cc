// wnn: once
// y = x[start::step, ...], as long along each axis as y.
//   x: any dtype, any strides      y: contiguous      attrs: struct { int64_t start, step; } [ndim]
#include "move.h"

KERNEL(slice) {
  const wnn_tensor *x = in[0], *y = out[0];
  const int64_t size = item_bytes(x->dtype), n = last_dim(y);
  const char *first = (const char *)x->data;
  int64_t strides[WNN_MAX_DIMS];
  for (int d = 0; d < x->ndim; d++) {
    first += attr<int64_t>(attrs, 16 * d) * x->strides[d] * size;
    strides[d] = attr<int64_t>(attrs, 16 * d + 8) * x->strides[d] * size;
  }
  const int64_t step = x->ndim ? strides[x->ndim - 1] : size;
  for_rows(ctx, count(y) / n, n * size, [&](int64_t row) {
    const char *from = first;
    int64_t rest = row;
    for (int d = x->ndim - 2; d >= 0; rest /= y->shape[d--]) from += rest % y->shape[d] * strides[d];
    char *to = (char *)y->data + row * n * size;
    if (step == size) memcpy(to, from, size_t(n * size));
    else
      for (int64_t j = 0; j < n; j++) copy_item(to + j * size, from + j * step, size);
  });
  return 0;
}
