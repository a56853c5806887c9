// wnn: inline
// y = a * sigmoid(b), or tanh(a) * sigmoid(b), where a and b are the halves of x along an axis.
//   x: (outer, 2, inner) f32, contiguous      y: (outer, inner)
//   attrs: int64 inner, tanh
#include "vecmath.h"

KERNEL(glu_f32) {
  const bool tanh = attr<int64_t>(attrs, 8);
  const int64_t inner = attr<int64_t>(attrs, 0), outer = inner ? count(out[0]) / inner : 0;
  const int64_t each = inner < 8192 ? 8192 / (inner + 1) + 1 : 1;  // rows to a task
  parallel_for(ctx, (outer + each - 1) / each, [&](int64_t task, int) {
    for (int64_t o = task * each; o < (task + 1) * each && o < outer; o++) {
      const float *a = f32(in[0]) + o * 2 * inner, *b = a + inner;
      map(f32(out[0]) + o * inner, inner, [=](auto v, int64_t i) { return (tanh ? vtanh(v(a + i)) : v(a + i)) * vsigmoid(v(b + i)); });
    }
  });
  return 0;
}
