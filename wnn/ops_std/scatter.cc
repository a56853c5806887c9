// wnn: once
// y = x with updates put in, or combined, where indices say. Every index is checked first.
//   x, updates, y: one dtype, contiguous; y may be x      indices: i64 or i32, contiguous
// Updates are taken one after another: of several at one place the last one counts.
#include "move.h"

namespace {

enum { NONE, ADD, MUL, MIN, MAX };

template <class T> void combine(T *y, const T *u, int64_t n, int64_t how) {
  typedef Wrapping<T> W;
  for (int64_t i = 0; i < n; i++) {
    const T a = y[i], b = u[i];
    if (how == ADD) y[i] = T(W(a) + W(b));
    else if (how == MUL) y[i] = T(W(a) * W(b));
    else if (how == MIN) y[i] = b < a || b != b ? b : a;
    else y[i] = b > a || b != b ? b : a;
  }
}
void put(int32_t dtype, void *y, const void *u, int64_t n, int64_t how) {
  if (how == NONE) return copy_item(y, u, n * item_bytes(dtype));
  switch (dtype) {
    case WNN_F32: return combine((float *)y, (const float *)u, n, how);
    case WNN_F64: return combine((double *)y, (const double *)u, n, how);
    case WNN_I64: return combine((int64_t *)y, (const int64_t *)u, n, how);
    case WNN_I32: return combine((int32_t *)y, (const int32_t *)u, n, how);
    case WNN_I8: return combine((int8_t *)y, (const int8_t *)u, n, how);
    case WNN_BOOL: return combine((bool *)y, (const bool *)u, n, how);
    default: return combine((uint8_t *)y, (const uint8_t *)u, n, how);
  }
}
void start(const wnn_tensor *x, wnn_tensor *y) {
  if (x->data != y->data) memcpy(y->data, x->data, size_t(count(x) * item_bytes(x->dtype)));
}

}  // namespace

// attrs: struct { int64_t axis, reduction; }
KERNEL(scatter_elements) {
  const wnn_tensor *x = in[0], *indices = in[1], *updates = in[2];
  const int axis = int(attr<int64_t>(attrs, 0));
  const int64_t how = attr<int64_t>(attrs, 8), total = count(indices), size = item_bytes(x->dtype),
                length = x->shape[axis];
  for (int64_t i = 0; i < total; i++) {
    const int64_t at = index_at(indices, i);
    if (at < -length || at >= length) return bad_index(ctx, "scatter_elements", at, i, length);
  }
  start(x, out[0]);
  if (total == 0) return 0;
  const bool across = axis != x->ndim - 1;
  const int64_t n = last_dim(indices), step = product(x, axis + 1, x->ndim);
  const char *from = (const char *)updates->data;
  for (int64_t row = 0; row < total / n; row++) {
    char *const to = (char *)out[0]->data + row_start(x, indices, axis, row) * size;
    for (int64_t j = 0; j < n; j++, from += size) {
      const int64_t at = index_at(indices, row * n + j);
      put(x->dtype, to + ((at < 0 ? at + length : at) * step + j * across) * size, from, 1, how);
    }
  }
  return 0;
}

namespace {

template <class I> int scatter_tuples(wnn_ctx *ctx, int64_t how, const wnn_tensor *x, const wnn_tensor *indices,
                                      const wnn_tensor *updates, wnn_tensor *y) {
  const I *p = (const I *)indices->data;
  const int64_t rows = product(indices, 0, indices->ndim - 1);
  const int n = int(last_dim(indices));
  for (int64_t i = 0; i < rows; i++)
    for (int k = 0; k < n; k++) {
      const int64_t at = p[i * n + k], length = x->shape[k];
      if (at < -length || at >= length) return bad_index(ctx, "scatter_nd", at, i * n + k, length);
    }
  start(x, y);
  const int64_t each = product(x, n, x->ndim), bytes = each * item_bytes(x->dtype);
  for (int64_t i = 0; i < rows; i++) {
    int64_t to = 0;
    for (int k = 0; k < n; k++) {
      const int64_t at = p[i * n + k];
      to = to * x->shape[k] + (at < 0 ? at + x->shape[k] : at);
    }
    char *const row = (char *)y->data + to * bytes;
    if (how == NONE) copy_item(row, (const char *)updates->data + i * bytes, bytes);
    else put(x->dtype, row, (const char *)updates->data + i * bytes, each, how);
  }
  return 0;
}

}  // namespace

// attrs: struct { int64_t reduction; }
KERNEL(scatter_nd) {
  const auto function = in[1]->dtype == WNN_I64 ? scatter_tuples<int64_t> : scatter_tuples<int32_t>;
  return function(ctx, attr<int64_t>(attrs, 0), in[0], in[1], in[2], out[0]);
}
