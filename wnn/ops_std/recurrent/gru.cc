// GRU; tensors as in recurrent.h.  attrs.flag: the reset gate acts on h r, not on h
#include "recurrent.h"

namespace {

template <class Acts> struct Gru {
  const Layer &l;
  Acts act;
  bool after;

  template <class M> void recur(const float *h, M multiply, const float *p, float *u, float *reset_h) const {
    if (after) return multiply(h, 0, 3);
    multiply(h, 0, 2);
    for (int64_t s = 0; s < l.B; s++) {
      const float *a = p + s * l.row() + l.width, *b = u + s * l.row() + l.width, *state = h + s * l.H;
      map(reset_h + s * l.H, l.H, [=, this](auto v, int64_t k) { return act.f(v(a + k) + v(b + k)) * v(state + k); });
    }
    multiply(reset_h, 2, 3);
  }
  void update(int64_t, const float *p, const float *u, float *h) const {
    const int64_t r = l.width, n = 2 * r;
    map(h, l.H, [=, this](auto v, int64_t k) {
      const vf z = act.f(v(p + k) + v(u + k)), old = v(h + k);
      vf recurrent = v(u + n + k);
      if (after) recurrent *= act.f(v(p + r + k) + v(u + r + k));
      const vf now = act.g(v(p + n + k) + recurrent);
      return now + z * (old - now);
    });
  }
};

}  // namespace

LAYER_SCRATCH(gru_f32)
KERNEL_S(gru_f32) {
  const Layer l(in, nin, out);
  const LayerAttrs a = attr<LayerAttrs>(attrs, 0);
  return run_layer(ctx, l, a, [&](int64_t d, bool backward, const Activation *acts, float *memory) {
    if (usual(a, acts)) sweep(ctx, l, backward, d, memory, Gru<Usual>{l, {}, a.flag != 0});
    else sweep(ctx, l, backward, d, memory, Gru<Any>{l, {acts, a.clip}, a.flag != 0});
  });
}
