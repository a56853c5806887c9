// recurrent.h: what the kernels of recurrent layers share: their activations, and the sweep over time.
//   x: (T, B, I)   w: (D, G, I, H), r: (D, G, H, H), panels of 16 per gate   b?: (D, 2, G, H)   lens?: (B,) i32   h0?: (D, B, H)
//   y: (T, D, B, H)   y_h: (D, B, H), which holds the state throughout       attrs: LayerAttrs
// The products x w are made for many steps at once; each step then adds h r. A row of gates is G times `width` floats.
#pragma once
#include "gemm.h"

namespace {

struct Activation { int32_t kind; float alpha, beta; };
struct LayerAttrs { int32_t backward, flag, count; float clip; Activation acts[6]; };  // count: activations of a direction
constexpr float no_clip = 3.4e38f;

static __attribute__((noinline, unused)) vf activate(const Activation &a, vf x) {
  switch (a.kind) {
    case 0: return vsigmoid(x);
    case 1: return vtanh(x);
    case 2: return vrelu(x);
    case 3: return a.alpha * x + a.beta;
    case 4: return x >= 0.0f ? x : a.alpha * x;
    case 5: return x > a.alpha ? x : vf{};
    case 6: return a.alpha * vtanh(a.beta * x);
    case 7: return vhard_sigmoid(x, a.alpha, a.beta);
    case 8: return x >= 0.0f ? x : a.alpha * (vexp(x) - 1.0f);
    case 9: return x / (1.0f + vabs(x));
    default: return at_least(x, splat(0.0f)) + vlog(1.0f + vexp(-vabs(x)));
  }
}
// The functions f, g and h of ONNX: the usual ones, or any
struct Usual {
  WNN_MEMBER vf f(vf x) const { return vsigmoid(x); }
  WNN_MEMBER vf g(vf x) const { return vtanh(x); }
  WNN_MEMBER vf h(vf x) const { return vtanh(x); }
};
struct Any {
  const Activation *acts;
  float clip;
  vf f(vf x) const { return activate(acts[0], clamp(x, -clip, clip)); }
  vf g(vf x) const { return activate(acts[1], clamp(x, -clip, clip)); }
  vf h(vf x) const { return activate(acts[2], x); }
};

struct Layer {
  int64_t T, B, I, D, G, H, width;
  const float *x, *w, *r, *b, *h0;
  const int32_t *lens;
  float *y, *h;

  Layer(const wnn_tensor *const *in, int nin, const wnn_tensor *const *out)
      : T(in[0]->shape[0]), B(in[0]->shape[1]), I(in[0]->shape[2]), D(in[2]->shape[0]), G(in[2]->shape[1]), H(in[2]->shape[3]),
        width(ceil_div(H, 16) * 16), x(f32(in[0])), w(f32(in[1])), r(f32(in[2])), b(optional(in, nin, 3)), h0(optional(in, nin, 5)),
        lens(nin > 4 && in[4] ? (const int32_t *)in[4]->data : nullptr), y(f32(out[0])), h(f32(out[1])) {}

  static const float *optional(const wnn_tensor *const *in, int nin, int i) { return i < nin && in[i] ? f32(in[i]) : nullptr; }
  int64_t row() const { return G * width; }
  // steps whose products with w are made at once
  int64_t steps(int threads) const { return max_of(1, min_of(T, 64 * (D == 1 ? threads : 1) / max_of(1, B))); }
  // of a direction: both biases, the products with w, those with r, and B rows for the cell
  int64_t floats(int threads) const { return row() * (2 + steps(threads) * B + B) + B * width; }
};

// c (M rows of gates, from gate g0 up to g1) = a (M, K) * panels of these gates + bias
static void __attribute__((unused)) gates(const Layer &l, int64_t M, int64_t K, const float *a, const float *panels, const float *bias, int64_t g0, int64_t g1, float *c) {
  GemmBlock m{};
  wnn_post post = {WNN_POST_BIAS, 0, 0, 0, bias, 0};
  m.a = a, m.lda = K, m.taps = 1, m.kc = K;
  m.b = panels, m.panel = 16 * K;
  m.c = c, m.ldc = l.row(), m.M = M, m.n0 = g0 * l.width, m.n1 = g1 * l.width;
  m.post = &post, m.n_post = 1;
  if (M) gemm_block(m);
}

// One direction. cell.recur(h, multiply, u): u = h r, where multiply(a, g0, g1) puts a r for the gates g0 to g1 into u;
// cell.update(i, p, u, h): the state h of sequence i after a step, from its rows p of x w and u of h r
template <class Cell> void sweep(wnn_ctx *ctx, const Layer &l, bool backward, int64_t d, float *memory, Cell cell) {
  const int threads = l.D == 1 ? ctx->num_threads : 1;
  const int64_t steps = l.steps(ctx->num_threads), row = l.row();
  float *w_bias = memory, *r_bias = w_bias + row, *p = r_bias + row, *u = p + steps * l.B * row, *spare = u + l.B * row;
  memset(w_bias, 0, size_t(2 * row) * 4);
  if (l.b)
    for (int64_t g = 0; g < 2 * l.G; g++) memcpy(w_bias + g * l.width, l.b + (d * 2 * l.G + g) * l.H, size_t(l.H) * 4);
  const float *w = l.w + d * l.G * l.I * l.width, *r = l.r + d * l.G * l.H * l.width;
  float *const h = l.h + d * l.B * l.H;
  auto multiply = [&](const float *a, int64_t g0, int64_t g1) { gates(l, l.B, l.H, a, r, r_bias, g0, g1, u); };

  for (int64_t done = 0; done < l.T; done += steps) {
    const int64_t n = min_of(steps, l.T - done), first = backward ? l.T - done - n : done, rows = n * l.B, each = ceil_div(rows, threads);
    for_tasks(ctx, threads, ceil_div(rows, max_of(1, each)), [&](int64_t task) {
      const int64_t at = task * each;
      gates(l, min_of(each, rows - at), l.I, l.x + (first * l.B + at) * l.I, w, w_bias, 0, l.G, p + at * row);
    });
    for (int64_t i = 0; i < n; i++) {
      const int64_t step = backward ? n - 1 - i : i, t = first + step;
      const float *p_t = p + step * l.B * row;
      cell.recur(h, multiply, p_t, u, spare);
      for (int64_t s = 0; s < l.B; s++) {
        float *y = l.y + ((t * l.D + d) * l.B + s) * l.H;
        if (l.lens && t >= l.lens[s]) {
          memset(y, 0, size_t(l.H) * 4);
          continue;
        }
        cell.update(s, p_t + s * row, u + s * row, h + s * l.H);
        memcpy(y, h + s * l.H, size_t(l.H) * 4);
      }
    }
  }
}

static void __attribute__((unused)) start(float *state, const float *given, int64_t n) {
  if (given) memcpy(state, given, size_t(n) * 4);
  else memset(state, 0, size_t(n) * 4);
}

// body(direction, backward, activations, memory): each direction is a task; usual: the activations are the usual ones
template <class F> int run_layer(wnn_ctx *ctx, const Layer &l, const LayerAttrs &a, F body) {
  start(l.h, l.h0, l.D * l.B * l.H);
  for_tasks(ctx, ctx->num_threads, l.D, [&](int64_t d) {
    body(d, a.backward || d == 1, a.acts + d * a.count, (float *)ctx->scratch + d * l.floats(ctx->num_threads));
  });
  return 0;
}
WNN_INLINE bool usual(const LayerAttrs &a, const Activation *acts) {
  bool yes = a.clip > no_clip;
  for (int i = 0; i < a.count; i++) yes &= acts[i].kind == (i > 0);
  return yes;
}

}  // namespace

#define LAYER_SCRATCH(name) \
  SCRATCH(name) { const Layer l(in, nin, out); return size_t(l.D * l.floats(num_threads)) * 4; }
