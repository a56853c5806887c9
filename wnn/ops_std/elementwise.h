// elementwise: out[i] = f(in[0][i], in[1][i], ...) over operands that broadcast, by blocks that stay in L1.
#pragma once
#include "simd.h"

// out[i] = f(in...) for n contiguous elements; arg is what elementwise() was given
typedef void (*wnn_block_fn)(const void *arg, const void *const *in, void *out, int64_t n);

// Inputs have any strides and broadcast to out, which is contiguous and may be the same memory as a contiguous input.
// An input that a block cannot read in place is first copied beside it.
int elementwise(wnn_ctx *ctx, const wnn_tensor *const *in, int nin, const wnn_tensor *out, wnn_block_fn fn, const void *arg);

namespace {
WNN_INLINE int64_t item_bytes(int32_t dtype) {
  switch (dtype) {
    case WNN_U8: case WNN_I8: case WNN_BOOL: return 1;
    case WNN_U16: case WNN_I16: case WNN_F16: case WNN_BF16: return 2;
    case WNN_F32: case WNN_I32: case WNN_U32: return 4;
    default: return 8;
  }
}
}  // namespace
