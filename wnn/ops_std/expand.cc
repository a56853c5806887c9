// wnn: once
// tile: y = x repeated along each axis.
//   x, y: any dtype, contiguous; y's lengths are multiples of x's
// Trailing axes that are not repeated are one block of bytes.
#include "move.h"

KERNEL(tile) {
  const wnn_tensor *x = in[0], *y = out[0];
  const int64_t size = item_bytes(x->dtype), total = count(y);
  if (total == 0) return 0;
  int axis = x->ndim - 1;
  while (axis > 0 && x->shape[axis] == y->shape[axis]) axis--;
  if (axis < 0) return memcpy(y->data, x->data, size_t(size)), 0;
  const int64_t block = product(x, axis, x->ndim) * size, times = y->shape[axis] / x->shape[axis];
  for_rows(ctx, product(y, 0, axis), block * times, [&](int64_t row) {
    int64_t from = 0, rest = row, step = 1;
    for (int d = axis - 1; d >= 0; rest /= y->shape[d--]) {
      from += rest % y->shape[d] % x->shape[d] * step;
      step *= x->shape[d];
    }
    fill((char *)y->data + row * times * block, times, (const char *)x->data + from * block, block);
  });
  return 0;
}
