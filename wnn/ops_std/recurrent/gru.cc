// GRU; tensors as in recurrent.h.  attrs.flags: the reset gate acts on h r, not on h
#include "recurrent.h"

namespace {

struct Gru {
  const Layer &l;
  Functions act;
  bool after;
  float *reset_h = nullptr;

  void start(int64_t, float *memory) { reset_h = memory; }
  void end(int64_t) const {}
  template <class M> void recur(const float *h, M multiply, const float *p, float *u) const {
    if (after) return multiply(h, 0, 3);
    multiply(h, 0, 2);
    for (int64_t s = 0; s < l.B; s++) {
      const float *a = p + s * l.row() + l.width, *b = u + s * l.row() + l.width, *state = h + s * l.width;
      each_vector(l, [&](int64_t k) { store(reset_h + s * l.width + k, act.f(load(a + k) + load(b + k)) * load(state + k)); });
    }
    multiply(reset_h, 2, 3);
  }
  void update(int64_t, const float *p, const float *u, float *h) const {
    const int64_t r = l.width, n = 2 * r;
    each_vector(l, [&](int64_t k) {
      const vf z = act.f(load(p + k) + load(u + k)), old = load(h + k);
      vf recurrent = load(u + n + k);
      if (after) recurrent *= act.f(load(p + r + k) + load(u + r + k));
      const vf now = act.g(load(p + n + k) + recurrent);
      store(h + k, now + z * (old - now));
    });
  }
};

}  // namespace

LAYER_SCRATCH(gru_f32)
KERNEL_S(gru_f32) {
  Layer l(in, nin, out);
  const LayerAttrs a = attr<LayerAttrs>(attrs, 0);
  return run_layer(ctx, l, in, a, [&](const Functions &act) { return Gru{l, act, a.flags != 0}; });
}
