// wnn: base
// shape: y = x's lengths from axis first on, as i64; attrs: struct { int64_t first; }.  size: their product.
#include "simd.h"

KERNEL(shape) {
  memcpy(out[0]->data, in[0]->shape + attr<int64_t>(attrs, 0), size_t(count(out[0])) * 8);
  return 0;
}

KERNEL(size) {
  *(int64_t *)out[0]->data = count(in[0]);
  return 0;
}
