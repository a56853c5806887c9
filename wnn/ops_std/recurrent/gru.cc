// wnn: avx2
// GRU; tensors as in recurrent.h.  attrs.flags: the reset gate acts on h r, not on h
#include "recurrent.h"

namespace {

void recur(const Cell &cell, const float *h, const float *p) {
  const Layer &l = cell.layer;
  if (cell.flags) return multiply(cell, h, 0, 3);
  multiply(cell, h, 0, 2);
  float *const reset_h = cell.memory;
  for (int64_t s = 0; s < l.B; s++) {
    const int64_t gates = s * l.G * l.width + l.width, state = s * l.width;
    each_vector(cell, [&](int64_t k) { store(reset_h + state + k, act_f(cell, load(p + gates + k) + load(cell.u + gates + k)) * load(h + state + k)); });
  }
  multiply(cell, reset_h, 2, 3);
}

void update(const Cell &cell, int64_t, const float *p, const float *u, float *h) {
  const int64_t r = cell.layer.width, n = 2 * r;
  each_vector(cell, [&](int64_t k) {
    const vf z = act_f(cell, load(p + k) + load(u + k)), old = load(h + k);
    vf recurrent = load(u + n + k);
    if (cell.flags) recurrent *= act_f(cell, load(p + r + k) + load(u + r + k));
    const vf now = act_g(cell, load(p + n + k) + recurrent);
    store(h + k, now + z * (old - now));
  });
}

}  // namespace

LAYER(gru_f32, nothing, recur, update, nothing)
