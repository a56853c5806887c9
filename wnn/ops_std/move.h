// move: what the kernels that move elements about share; sizes of items are in bytes.
#pragma once
#include "elementwise.h"
#include "executor.h"

namespace {

WNN_INLINE int64_t product(const wnn_tensor *t, int from, int to) {
  int64_t n = 1;
  for (int i = from; i < to; i++) n *= t->shape[i];
  return n;
}
WNN_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// body(i) for i in [0, n), each some `bytes` of work, in tasks of about 64 KB
template <class F> WNN_INLINE void for_rows(wnn_ctx *ctx, int64_t n, int64_t bytes, const F &body) {
  const int64_t each = 65536 / (bytes < 1 ? 1 : bytes > 65536 ? 65536 : bytes);
  parallel_for(ctx, (n + each - 1) / each, [&](int64_t task, int) {
    for (int64_t i = task * each; i < smaller(n, (task + 1) * each); i++) body(i);
  });
}

// n elements, not many of them without a call; an overlapping last vector replaces a tail
template <class T> WNN_INLINE void copy_some(const T *from, T *to, int64_t n) {
  constexpr int64_t lanes = L * 4 / sizeof(T);
  if (n < lanes) {
    for (int64_t i = 0; i < n; i++) to[i] = from[i];
  } else if (n <= 16 * lanes) {
    for (int64_t i = 0; i < n; i += lanes) memcpy(to + smaller(i, n - lanes), from + smaller(i, n - lanes), L * 4);
  } else {
    memcpy(to, from, size_t(n) * sizeof(T));
  }
}

// n copies of an item; the constant sizes make the copies single moves
template <int64_t SIZE> WNN_INLINE void fill_items(void *to, int64_t n, const void *item) {
  for (int64_t i = 0; i < n; i++) memcpy((char *)to + i * SIZE, item, SIZE);
}
WNN_INLINE void fill(void *to, int64_t n, const void *item, int64_t size) {
  if (size == 1) memset(to, *(const char *)item, size_t(n));
  else if (size == 2) fill_items<2>(to, n, item);
  else if (size == 4) fill_items<4>(to, n, item);
  else if (size == 8) fill_items<8>(to, n, item);
  else
    for (int64_t i = 0; i < n; i++) memcpy((char *)to + i * size, item, size_t(size));
}
WNN_INLINE void copy_item(void *to, const void *from, int64_t size) {
  if (size == 4) memcpy(to, from, 4);
  else if (size == 8) memcpy(to, from, 8);
  else if (size == 1) memcpy(to, from, 1);
  else memcpy(to, from, size_t(size));
}

// The i-th element of a contiguous i64 or i32 tensor
WNN_INLINE int64_t index_at(const wnn_tensor *t, int64_t i) {
  return t->dtype == WNN_I64 ? ((const int64_t *)t->data)[i] : ((const int32_t *)t->data)[i];
}
WNN_INLINE int bad_index(wnn_ctx *ctx, const char *who, int64_t index, int64_t at, int64_t length) {
  ctx->api->error(ctx, "[%s] found index %lld at position %lld; expected one in [%lld, %lld]; correct the indices",
                  who, (long long)index, (long long)at, (long long)-length, (long long)length - 1);
  return WNN_BAD_INDEX;
}
// The element of a contiguous x at which a row of indices into it begins, its place along `axis` aside
inline int64_t row_start(const wnn_tensor *x, const wnn_tensor *indices, int axis, int64_t row) {
  int64_t start = 0, stride = last_dim(x);
  for (int d = x->ndim - 2; d >= 0; stride *= x->shape[d--]) {
    if (d != axis) start += row % indices->shape[d] * stride;
    row /= indices->shape[d];
  }
  return start;
}

}  // namespace
