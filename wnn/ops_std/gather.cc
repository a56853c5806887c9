// wnn: base
// y = elements of x picked by indices. Every index is checked before anything is copied.
//   x, y: any dtype, contiguous      indices: i64 or i32, contiguous
#include "move.h"

namespace {

// Whether all indices that address an axis of that length lie in it; stride and first select a column of the last axis
int check(wnn_ctx *ctx, const char *who, const wnn_tensor *indices, int64_t first, int64_t stride, int64_t length) {
  const int64_t n = count(indices);
  for (int64_t i = first; i < n; i += stride) {
    const int64_t at = index_at(indices, i);
    if (at < -length || at >= length) return bad_index(ctx, who, at, i, length);
  }
  return 0;
}

}  // namespace

// attrs: struct { int64_t axis; }
KERNEL(gather) {
  const wnn_tensor *x = in[0], *indices = in[1];
  const int axis = int(attr<int64_t>(attrs, 0));
  const int64_t outer = product(x, 0, axis), length = x->shape[axis], n = count(indices);
  const int64_t bytes = product(x, axis + 1, x->ndim) * item_bytes(x->dtype);
  if (const int bad = check(ctx, "gather", indices, 0, 1, length)) return bad;
  if (outer * n * bytes == 0) return 0;
  for_rows(ctx, outer * n, bytes, [&](int64_t i) {
    const int64_t at = index_at(indices, i % n);
    const char *from = (const char *)x->data + (i / n * length + (at < 0 ? at + length : at)) * bytes;
    copy_item((char *)out[0]->data + i * bytes, from, bytes);
  });
  return 0;
}

// attrs: struct { int64_t axis; }
KERNEL(gather_elements) {
  const wnn_tensor *x = in[0], *indices = in[1];
  const int axis = int(attr<int64_t>(attrs, 0)), last = x->ndim - 1;
  const int64_t length = x->shape[axis], size = item_bytes(x->dtype), n = last_dim(indices);
  if (const int bad = check(ctx, "gather_elements", indices, 0, 1, length)) return bad;
  if (count(indices) == 0) return 0;
  const int64_t step = product(x, axis + 1, x->ndim);
  for_rows(ctx, count(indices) / n, n * size, [&](int64_t row) {
    int64_t base = 0, rest = row;  // of the row in x, its own axis aside
    for (int d = last - 1; d >= 0; rest /= indices->shape[d--])
      if (d != axis) base += rest % indices->shape[d] * product(x, d + 1, x->ndim);
    for (int64_t j = 0; j < n; j++) {
      const int64_t at = index_at(indices, row * n + j);
      const int64_t from = base + (axis == last ? 0 : j) + (at < 0 ? at + length : at) * step;
      copy_item((char *)out[0]->data + (row * n + j) * size, (const char *)x->data + from * size, size);
    }
  });
  return 0;
}

// attrs: struct { int64_t batch_dims; }
KERNEL(gather_nd) {
  const wnn_tensor *x = in[0], *indices = in[1];
  const int batch = int(attr<int64_t>(attrs, 0)), n = int(last_dim(indices));
  for (int k = 0; k < n; k++)
    if (const int bad = check(ctx, "gather_nd", indices, k, n, x->shape[batch + k])) return bad;
  const int64_t bytes = product(x, batch + n, x->ndim) * item_bytes(x->dtype), rows = product(indices, 0, indices->ndim - 1);
  if (rows * bytes == 0) return 0;
  const int64_t each = product(indices, batch, indices->ndim - 1), slab = product(x, batch, batch + n);
  for_rows(ctx, rows, bytes, [&](int64_t i) {
    int64_t from = 0;
    for (int k = 0; k < n; k++) {
      const int64_t at = index_at(indices, i * n + k), length = x->shape[batch + k];
      from = from * length + (at < 0 ? at + length : at);
    }
    copy_item((char *)out[0]->data + i * bytes, (const char *)x->data + (i / each * slab + from) * bytes, bytes);
  });
  return 0;
}
