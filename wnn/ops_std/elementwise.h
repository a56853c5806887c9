// elementwise: out[i] = f(in[0][i], in[1][i], ...) over operands that broadcast, by blocks that stay in L1.
#pragma once
#include <type_traits>

#include "bytes.h"
#include "executor.h"

// out[i] = f(in...) for n contiguous elements; arg is what elementwise() was given
typedef void (*wnn_block_fn)(const void *arg, const void *const *in, void *out, int64_t n);

// Inputs have any strides and broadcast to out, which is contiguous and may be the same memory as a contiguous input.
// An input that a block cannot read in place is first copied beside it.
int elementwise(wnn_ctx *ctx, const wnn_tensor *const *in, int nin, const wnn_tensor *out, wnn_block_fn fn, const void *arg);

namespace {
// What integers are added and multiplied in, so that they wrap
template <class T> using Wrapping = std::conditional_t<std::is_integral_v<T>, uint64_t, T>;

// L elements, or as many as are left
WNN_INLINE vf load_some(const float *p, int64_t left) { return left < L ? load_n(p, left) : load(p); }

// y[i] = f(x[i]) for n elements, with f once in the code
template <class F> WNN_INLINE void apply(const float *x, float *y, int64_t n, F f) {
  for (int64_t i = 0; i < n; i += L) {
    const vf v = f(load_some(x + i, n - i));
    n - i < L ? store_n(y + i, v, n - i) : store(y + i, v);
  }
}
// y[i] = 1 or 0: whether the lane of f(i, left) is -1 or 0
template <class F> WNN_INLINE void decide(uint8_t *y, int64_t n, F f) {
  for (int64_t i = 0; i < n; i += L) store_int(y + i, f(i, n - i) & 1, n - i < L ? n - i : L);
}

WNN_INLINE int64_t item_bytes(int32_t dtype) { return wnn_itemsize(dtype); }
}  // namespace
