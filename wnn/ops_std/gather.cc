// wnn: once
// y = elements of x picked by indices. Every index is checked before anything is copied.
//   x, y: any dtype, contiguous      indices: i64 or i32, contiguous
#include "move.h"

namespace {

// Whether the indices first, first + stride, ... lie in an axis of that length
template <class I>
int check(wnn_ctx *ctx, const char *who, const wnn_tensor *indices, int64_t first, int64_t stride, int64_t length) {
  const I *p = (const I *)indices->data;
  const int64_t n = count(indices);
  for (int64_t i = first; i < n; i += stride)
    if (p[i] < -length || p[i] >= length) return bad_index(ctx, who, p[i], i, length);
  return 0;
}
WNN_INLINE int64_t wrapped(int64_t at, int64_t length) { return at < 0 ? at + length : at; }

template <class I, class T>
void gather_row(const I *p, const T *x, int64_t step, int64_t across, int64_t length, T *y, int64_t n) {
  for (int64_t j = 0; j < n; j++) y[j] = x[wrapped(p[j], length) * step + j * across];
}
template <class I>
void gather_items(const I *p, const char *x, int64_t step, int64_t across, int64_t length, char *y, int64_t n, int64_t bytes) {
  switch (bytes) {
    case 1: return gather_row(p, (const uint8_t *)x, step, across, length, (uint8_t *)y, n);
    case 2: return gather_row(p, (const uint16_t *)x, step, across, length, (uint16_t *)y, n);
    case 4: return gather_row(p, (const uint32_t *)x, step, across, length, (uint32_t *)y, n);
    case 8: return gather_row(p, (const uint64_t *)x, step, across, length, (uint64_t *)y, n);
  }
  for (int64_t j = 0; j < n; j++) copy_item(y + j * bytes, x + (wrapped(p[j], length) * step + j * across) * bytes, bytes);
}

template <class I>
int gather_slices(wnn_ctx *ctx, int axis, const wnn_tensor *x, const wnn_tensor *indices, wnn_tensor *y) {
  constexpr int64_t some_bytes = 1 << 14;
  const I *p = (const I *)indices->data;
  const int64_t outer = product(x, 0, axis), length = x->shape[axis], n = count(indices);
  const int64_t bytes = product(x, axis + 1, x->ndim) * item_bytes(x->dtype);
  if (const int bad = check<I>(ctx, "gather", indices, 0, 1, length)) return bad;
  if (outer * n * bytes == 0) return 0;
  const int64_t some = bytes < some_bytes ? some_bytes / bytes : 1, pieces = (n + some - 1) / some;
  for_rows(ctx, outer * pieces, (n + pieces - 1) / pieces * bytes, [&](int64_t i) {
    const int64_t o = i / pieces, first = i % pieces * some, end = first + some < n ? first + some : n;
    gather_items(p + first, (const char *)x->data + o * length * bytes, 1, 0, length, (char *)y->data + (o * n + first) * bytes, end - first, bytes);
  });
  return 0;
}

template <class I>
int gather_each(wnn_ctx *ctx, int axis, const wnn_tensor *x, const wnn_tensor *indices, wnn_tensor *y) {
  const int last = x->ndim - 1;
  const int64_t length = x->shape[axis], size = item_bytes(x->dtype), n = last_dim(indices),
                step = product(x, axis + 1, x->ndim);
  if (const int bad = check<I>(ctx, "gather_elements", indices, 0, 1, length)) return bad;
  for_rows(ctx, count(indices) / n, n * size, [&](int64_t row) {
    const I *p = (const I *)indices->data + row * n;
    const char *from = (const char *)x->data + row_start(x, indices, axis, row) * size;
    char *to = (char *)y->data + row * n * size;
    gather_items(p, from, step, axis != last, length, to, n, size);
  });
  return 0;
}

template <class I>
int gather_tuples(wnn_ctx *ctx, int batch, const wnn_tensor *x, const wnn_tensor *indices, wnn_tensor *y) {
  const I *p = (const I *)indices->data;
  const int n = int(last_dim(indices));
  for (int k = 0; k < n; k++)
    if (const int bad = check<I>(ctx, "gather_nd", indices, k, n, x->shape[batch + k])) return bad;
  const int64_t bytes = product(x, batch + n, x->ndim) * item_bytes(x->dtype),
                rows = product(indices, 0, indices->ndim - 1);
  if (rows * bytes == 0) return 0;
  const int64_t each = product(indices, batch, indices->ndim - 1), slab = product(x, batch, batch + n);
  for_rows(ctx, rows, bytes, [&](int64_t i) {
    int64_t from = 0;
    for (int k = 0; k < n; k++) from = from * x->shape[batch + k] + wrapped(p[i * n + k], x->shape[batch + k]);
    copy_item((char *)y->data + i * bytes, (const char *)x->data + (i / each * slab + from) * bytes, bytes);
  });
  return 0;
}

}  // namespace

// attrs: struct { int64_t axis; }, of gather_nd: batch_dims
#define DEFINE(name, function)                                                                                 \
  KERNEL(name) {                                                                                               \
    const int axis = int(attr<int64_t>(attrs, 0));                                                             \
    return (in[1]->dtype == WNN_I64 ? function<int64_t> : function<int32_t>)(ctx, axis, in[0], in[1], out[0]); \
  }
DEFINE(gather, gather_slices)
DEFINE(gather_elements, gather_each)
DEFINE(gather_nd, gather_tuples)
