// wnn: avx2
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

// cell.memory: the rows of c, of rounded states, and of peepholes
float *rounded(const Cell &cell) { return cell.memory + cell.layer.B * cell.layer.width; }
float *peepholes(const Cell &cell) { return rounded(cell) + cell.layer.B * cell.layer.width; }

void start(const Cell &cell) {
  const Layer &l = cell.layer;
  load_states(l, cell.memory, l.c0 ? l.c0 + cell.direction * l.B * l.H : nullptr);
  if (!l.peepholes) return;
  memset(peepholes(cell), 0, size_t(3 * l.width) * 4);
  for (int64_t i = 0; i < 3; i++) memcpy(peepholes(cell) + i * l.width, l.peepholes + (cell.direction * 3 + i) * l.H, size_t(l.H) * 4);
}

void recur(const Cell &cell, const float *h, const float *) {
  if (cell.flags & 2) h = through_bytes(cell.layer.B * cell.layer.width, h, rounded(cell));
  multiply(cell, h, 0, 4);
}

void update(const Cell &cell, int64_t s, const float *p, const float *u, float *h) {
  const int64_t o = cell.layer.width, f = 2 * o, n = 3 * o;
  float *const c = cell.memory + s * o;
  const float *const peep = cell.layer.peepholes ? peepholes(cell) : nullptr;
  each_vector(cell, [&](int64_t k) {
    const vf old = load(c + k);
    vf in = load(p + k) + load(u + k), out = load(p + o + k) + load(u + o + k), forget = load(p + f + k) + load(u + f + k);
    if (peep) in += load(peep + k) * old, forget += load(peep + f + k) * old;
    in = act_f(cell, in);
    forget = cell.flags & 1 ? 1.0f - in : act_f(cell, forget);
    const vf now = forget * old + in * act_g(cell, load(p + n + k) + load(u + n + k));
    if (peep) out += load(peep + o + k) * now;
    store(c + k, now);
    store(h + k, act_f(cell, out) * act_h(cell, now));
  });
}

void end(const Cell &cell) { store_states(cell.layer, cell.layer.c + cell.direction * cell.layer.B * cell.layer.H, cell.memory); }

}  // namespace

LAYER(lstm_f32, start, recur, update, end)
