// The plain recurrent layer; tensors as in recurrent.h.
#include "recurrent.h"

namespace {

struct Rnn {
  const Layer &l;
  Functions act;

  void start(int64_t, float *) const {}
  void end(int64_t) const {}
  template <class M> void recur(const float *h, M multiply, const float *, float *) const { multiply(h, 0, 1); }
  void update(int64_t, const float *p, const float *u, float *h) const {
    each_vector(l, [&](int64_t k) { store(h + k, act.f(load(p + k) + load(u + k))); });
  }
};

}  // namespace

LAYER_SCRATCH(rnn_f32)
KERNEL_S(rnn_f32) {
  Layer l(in, nin, out);
  const LayerAttrs a = attr<LayerAttrs>(attrs, 0);
  return run_layer(ctx, l, in, a, [&](const Functions &act) { return Rnn{l, act}; });
}
