// wnn: once
// y = x where the condition holds, else z.
//   condition: bool      x, z, y: one dtype; all broadcast, any strides
#include "elementwise.h"

namespace {

typedef int8_t vb_u __attribute__((vector_size(L), aligned(1), may_alias));

template <class T> void block(const void *, const void *const *in, void *out, int64_t n) {
  const uint8_t *condition = (const uint8_t *)in[0];
  const T *x = (const T *)in[1], *z = (const T *)in[2];
  T *y = (T *)out;
  int64_t i = 0;
  if constexpr (sizeof(T) == 4)
    for (; i + L <= n; i += L) {
      const vi holds = __builtin_convertvector(*(const vb_u *)(condition + i), vi) != 0;
      *(vi_u *)(y + i) = (*(const vi_u *)(x + i) & holds) | (*(const vi_u *)(z + i) & ~holds);
    }
  for (; i < n; i++) {
    const T mask = T(-(condition[i] != 0));
    y[i] = T((x[i] & mask) | (z[i] & ~mask));
  }
}

}  // namespace

KERNEL(where) {
  const int64_t size = item_bytes(out[0]->dtype);
  const wnn_block_fn fn = size == 1   ? block<uint8_t>
                          : size == 2 ? block<uint16_t>
                          : size == 4 ? block<uint32_t>
                                      : block<uint64_t>;
  return elementwise(ctx, in, 3, out[0], fn, nullptr);
}
