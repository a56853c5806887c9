// wnn: once
// trilu: x with the elements above or below a diagonal of each matrix set to zero.
//   x, y: any dtype, contiguous      k?: i64      attrs: struct { int64_t upper; }
#include "move.h"

KERNEL(trilu) {
  const wnn_tensor *x = in[0];
  const int64_t size = item_bytes(x->dtype), n = last_dim(x), m = x->shape[x->ndim - 2];
  const bool upper = attr<int64_t>(attrs, 0);
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
