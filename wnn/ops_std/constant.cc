// wnn: once
// constant_of_shape: every element of y is the one in attrs (up to 8 bytes).
// range: y_i = start + i * delta; start, limit, delta: scalars of y's dtype.
#include "move.h"

namespace {

template <class T> int count_up(const wnn_tensor *const *in, wnn_tensor *y) {
  const T start = *(const T *)in[0]->data, delta = *(const T *)in[2]->data;
  for (int64_t i = 0; i < count(y); i++) ((T *)y->data)[i] = T(start + T(i) * delta);
  return 0;
}

}  // namespace

KERNEL(constant_of_shape) {
  const int64_t size = item_bytes(out[0]->dtype), n = count(out[0]), each = 8192;
  for_rows(ctx, (n + each - 1) / each, each * size,
           [&](int64_t i) { fill((char *)out[0]->data + i * each * size, smaller(each, n - i * each), attrs, size); });
  return 0;
}

KERNEL(range) {
  switch (out[0]->dtype) {
    case WNN_I64: return count_up<int64_t>(in, out[0]);
    case WNN_I32: return count_up<int32_t>(in, out[0]);
    case WNN_I16: return count_up<int16_t>(in, out[0]);
    case WNN_F64: return count_up<double>(in, out[0]);
    default: return count_up<float>(in, out[0]);
  }
}
