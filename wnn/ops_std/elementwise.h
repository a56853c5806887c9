// elementwise: out[i] = f(in[0][i], in[1][i], ...) over operands that broadcast, by blocks that stay in L1.
#pragma once
#include "simd.h"

// out[i] = f(in...) for n contiguous elements; arg is what elementwise() was given
typedef void (*wnn_block_fn)(const void *arg, const void *const *in, void *out, int64_t n);

// Inputs have any strides and broadcast to out, which is contiguous and may be the same memory as a contiguous input.
// An input that a block cannot read in place is first copied beside it.
int elementwise(wnn_ctx *ctx, const wnn_tensor *const *in, int nin, const wnn_tensor *out, wnn_block_fn fn, const void *arg);

namespace {
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
  typedef uint8_t vb __attribute__((vector_size(L)));
  for (int64_t i = 0; i < n; i += L) {
    const vi holds = f(i, n - i);
#if WNN_ISA == 1  // of the conversion GCC 12 makes many instructions
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)holds), _mm256_extracti128_si256((__m256i)holds, 1));
    const vb bytes = (vb)_mm_cvtsi128_si64(_mm_packs_epi16(words, words)) & 1;
#else
    const vb bytes = __builtin_convertvector(holds, vb) & 1;
#endif
    if (n - i >= L) memcpy(y + i, &bytes, L);
    else memcpy(y + i, &bytes, size_t(n - i));
  }
}

WNN_INLINE int64_t item_bytes(int32_t dtype) {
  switch (dtype) {
    case WNN_U8: case WNN_I8: case WNN_BOOL: return 1;
    case WNN_U16: case WNN_I16: case WNN_F16: case WNN_BF16: return 2;
    case WNN_F32: case WNN_I32: case WNN_U32: return 4;
    default: return 8;
  }
}
}  // namespace
