// wnn: avx2
// The plain recurrent layer; tensors as in recurrent.h.
#include "recurrent.h"

namespace {

void recur(const Cell &cell, const float *h, const float *) { multiply(cell, h, 0, 1); }

void update(const Cell &cell, int64_t, const float *p, const float *u, float *h) {
  each_vector(cell, [&](int64_t k) { store(h + k, act_f(cell, load(p + k) + load(u + k))); });
}

}  // namespace

LAYER(rnn_f32, nothing, recur, update, nothing)
