// LSTM; tensors as in recurrent.h, and c0?, y_c: (D, B, H), p?: (D, 3, H).  attrs.flag: the forget gate is 1 - i
#include "recurrent.h"

namespace {

template <class Acts> struct Lstm {
  const Layer &l;
  Acts act;
  bool coupled;
  float *c;
  const float *peep;

  template <class M> void recur(const float *h, M multiply, const float *, float *, float *) const { multiply(h, 0, 4); }
  void update(int64_t s, const float *p, const float *u, float *h) const {
    const int64_t H = l.H, o = l.width, f = 2 * o, n = 3 * o;
    float *const c = this->c + s * H;
    const float *const peep = this->peep;
    map(c, H, [=, this](auto v, int64_t k) {
      const vf old = v(c + k);
      vf in = v(p + k) + v(u + k), forget = v(p + f + k) + v(u + f + k);
      if (peep) in += v(peep + k) * old, forget += v(peep + 2 * H + k) * old;
      in = act.f(in);
      forget = coupled ? 1.0f - in : act.f(forget);
      return forget * old + in * act.g(v(p + n + k) + v(u + n + k));
    });
    map(h, H, [=, this](auto v, int64_t k) {
      const vf now = v(c + k);
      vf out = v(p + o + k) + v(u + o + k);
      if (peep) out += v(peep + H + k) * now;
      return act.f(out) * act.h(now);
    });
  }
};

}  // namespace

LAYER_SCRATCH(lstm_f32)
KERNEL_S(lstm_f32) {
  const Layer l(in, nin, out);
  const LayerAttrs a = attr<LayerAttrs>(attrs, 0);
  const float *peep = Layer::optional(in, nin, 7);
  float *c = f32(out[2]);
  start(c, Layer::optional(in, nin, 6), l.D * l.B * l.H);
  return run_layer(ctx, l, a, [&](int64_t d, bool backward, const Activation *acts, float *memory) {
    float *const c_d = c + d * l.B * l.H;
    const float *const p_d = peep ? peep + d * 3 * l.H : nullptr;
    if (usual(a, acts)) sweep(ctx, l, backward, d, memory, Lstm<Usual>{l, {}, a.flag != 0, c_d, p_d});
    else sweep(ctx, l, backward, d, memory, Lstm<Any>{l, {acts, a.clip}, a.flag != 0, c_d, p_d});
  });
}
