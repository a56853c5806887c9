// LSTM; tensors as in recurrent.h, and c0?, y_c: (D, B, H), p?: (D, 3, H).  attrs.flags: 1, the forget gate is 1 - i;
// 2, the state is rounded to bytes before each product
#include "recurrent.h"

namespace {

// What DequantizeLinear makes of DynamicQuantizeLinear of n states
__attribute__((noinline)) const float *through_bytes(int64_t n, const float *h, float *rounded) {
  const auto nearest = [](vf x) { return x + 12582912.0f - 12582912.0f; };  // below 2^22, ties to even
  const float most = reduce_max(n, [=](auto v, int64_t k) { return v(h + k); });
  const float least = -reduce_max(n, [=](auto v, int64_t k) { return -v(h + k); });
  const float low = least < 0 ? least : 0, range = (most > 0 ? most : 0) - low;
  const vf step = splat(range == 0 ? 1 : range / 255), zero = nearest(-low / step);
  map(rounded, n, [=](auto v, int64_t k) { return at_most(at_least(nearest(v(h + k) / step), -zero), 255.0f - zero) * step; });
  return rounded;
}

struct Lstm {
  const Layer &l;
  Functions act;
  int32_t flags;
  const float *c0, *peepholes;
  float *last;
  float *c = nullptr, *rounded = nullptr, *peep = nullptr;

  void start(int64_t d, float *memory) {
    c = memory;
    load_states(l, c, c0 ? c0 + d * l.B * l.H : nullptr);
    rounded = c + l.B * l.width;
    if (!peepholes) return;
    peep = rounded + l.B * l.width;
    memset(peep, 0, size_t(3 * l.width) * 4);
    for (int64_t i = 0; i < 3; i++) memcpy(peep + i * l.width, peepholes + (d * 3 + i) * l.H, size_t(l.H) * 4);
  }
  void end(int64_t d) const { store_states(l, last + d * l.B * l.H, c); }
  template <class M> void recur(const float *h, M multiply, const float *, float *) const {
    if (flags & 2) h = through_bytes(l.B * l.width, h, rounded);
    multiply(h, 0, 4);
  }
  void update(int64_t s, const float *p, const float *u, float *h) const {
    const int64_t o = l.width, f = 2 * o, n = 3 * o;
    float *const c = this->c + s * o;
    each_vector(l, [&](int64_t k) {
      const vf old = load(c + k);
      vf in = load(p + k) + load(u + k), out = load(p + o + k) + load(u + o + k), forget = load(p + f + k) + load(u + f + k);
      if (peep) in += load(peep + k) * old, forget += load(peep + f + k) * old;
      in = act.f(in);
      forget = flags & 1 ? 1.0f - in : act.f(forget);
      const vf now = forget * old + in * act.g(load(p + n + k) + load(u + n + k));
      if (peep) out += load(peep + o + k) * now;
      store(c + k, now);
      store(h + k, act.f(out) * act.h(now));
    });
  }
};

}  // namespace

LAYER_SCRATCH(lstm_f32)
KERNEL_S(lstm_f32) {
  Layer l(in, nin, out);
  const LayerAttrs a = attr<LayerAttrs>(attrs, 0);
  const float *c0 = Layer::optional(in, nin, 6), *peep = Layer::optional(in, nin, 7);
  return run_layer(ctx, l, in, a, [&](const Functions &act) { return Lstm{l, act, a.flags, c0, peep, f32(out[2])}; });
}
