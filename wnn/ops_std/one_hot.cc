// wnn: once
// y[..., j, ...] = on where j is the index, else off.
//   indices: i64, i32 or f32, contiguous      values: (2,), off and on, y's dtype      attrs: struct { int64_t axis; }
// An index out of range has no place to go: off everywhere.
#include "move.h"

KERNEL(one_hot) {
  const wnn_tensor *indices = in[0], *y = out[0];
  const int axis = int(attr<int64_t>(attrs, 0));
  const int64_t size = item_bytes(y->dtype), depth = y->shape[axis], inner = product(y, axis + 1, y->ndim),
                n = count(indices);
  const char *values = (const char *)in[2]->data;
  fill(y->data, count(y), values, size);
  for (int64_t i = 0; i < n; i++) {
    int64_t at;
    if (indices->dtype == WNN_F32) {
      const float x = ((const float *)indices->data)[i];
      if (!(x > -1e18f && x < 1e18f)) continue;
      at = int64_t(x);
    } else {
      at = index_at(indices, i);
    }
    if (at < 0) at += depth;
    if (at < 0 || at >= depth) continue;
    memcpy((char *)y->data + ((i / inner * depth + at) * inner + i % inner) * size, values + size, size_t(size));
  }
  return 0;
}
