// recurrent.h: what the kernels of recurrent layers share: their activations, and the sweep over time.
//   x: (T, B, I)   w: (D, G, I, H), r: (D, G, H, H), panels of 16 per gate or any strides   b?: (D, 2, G, H)   lens?: (B,) i32   h0?: (D, B, H)
//   y: (T, D, B, H)   y_h: (D, B, H)   attrs: LayerAttrs
// The products x w are made for many steps at once; each step then adds h r. A row of gates is G times `width` floats, a row of
// states `width`: whole panels.
#pragma once
#include "gemm.h"

struct Activation { int32_t kind; float alpha, beta; };
namespace WNN_ISA_SPACE(WNN_ISA) {
vf activate(const Activation &a, vf x);
// columns n0 to n1 of c (M rows, ldc apart) = a (M, K), rows lda apart, * panels + bias; whole panels of 16 columns
void gates(int64_t M, int64_t K, const float *a, int64_t lda, const float *panels, const float *bias, int64_t n0, int64_t n1, float *c, int64_t ldc);
}

namespace {

struct LayerAttrs { int32_t backward, flags, count; float clip; Activation acts[6]; };  // count: activations of a direction
constexpr float no_clip = 3.4e38f;

// The functions f, g and h of ONNX: the usual ones, or any
struct Functions {
  const Activation *acts;
  float clip;
  bool usual;
  Functions(const LayerAttrs &a, int64_t direction) : acts(a.acts + direction * a.count), clip(a.clip), usual(a.clip > no_clip) {
    for (int i = 0; i < a.count; i++) usual &= acts[i].kind == (i > 0);
  }
  vf f(vf x) const { return usual ? vsigmoid(x) : activate(acts[0], clamp(x, -clip, clip)); }
  vf g(vf x) const { return usual ? vtanh(x) : activate(acts[1], clamp(x, -clip, clip)); }
  vf h(vf x) const { return usual ? vtanh(x) : activate(acts[2], x); }
};

struct Layer {
  int64_t T, B, I, D, G, H, width;
  const float *x, *w, *r, *b, *h0;
  const int32_t *lens;
  float *y, *h;  // h: where the last states go

  Layer(const wnn_tensor *const *in, int nin, const wnn_tensor *const *out)
      : T(in[0]->shape[0]), B(in[0]->shape[1]), I(in[0]->shape[2]), D(in[2]->shape[0]), G(in[2]->shape[1]), H(in[2]->shape[3]),
        width(ceil_div(H, 16) * 16), x(f32(in[0])), b(optional(in, nin, 3)), h0(optional(in, nin, 5)),
        lens(nin > 4 && in[4] ? (const int32_t *)in[4]->data : nullptr), y(f32(out[0])), h(f32(out[1])) {}

  static const float *optional(const wnn_tensor *const *in, int nin, int i) { return i < nin && in[i] ? f32(in[i]) : nullptr; }
  int64_t row() const { return G * width; }
  // floats of w or r in panels, where it comes without
  int64_t unpacked(const wnn_tensor *t) const { return t->layout == WNN_PANEL16 ? 0 : D * G * t->shape[2] * width; }
  const float *panels(const wnn_tensor *t, float *memory) const {
    if (t->layout == WNN_PANEL16) return f32(t);
    const int64_t K = t->shape[2], *const step = t->strides;
    for (int64_t i = 0; i < D * G; i++)
      for (int64_t n = 0; n < H; n += 16)
        pack_panel(K, min_of(16, H - n), f32(t) + i / G * step[0] + i % G * step[1] + n * step[3], step[2], step[3], memory + i * K * width + n * K);
    return memory;
  }
  // steps whose products with w are made at once
  int64_t steps(int threads) const { return max_of(1, min_of(T, 64 * (D == 1 ? threads : 1) / max_of(1, B))); }
  // of a direction: both biases, the products with w, those with r; states, and twice as many rows and 3 more for the cell
  int64_t floats(int threads) const { return row() * (2 + steps(threads) * B + B) + (3 * B + 3) * width; }
};

// f(k) for the vectors of a row of states
template <class F> WNN_INLINE void each_vector(const Layer &l, F f) {
  for (int64_t k = 0; k < l.width; k += L) f(k);
}
// Rows of states from given ones (B, H), or zeros, and back
[[maybe_unused]] static void load_states(const Layer &l, float *rows, const float *given) {
  memset(rows, 0, size_t(l.B * l.width) * 4);
  for (int64_t s = 0; given && s < l.B; s++) memcpy(rows + s * l.width, given + s * l.H, size_t(l.H) * 4);
}
[[maybe_unused]] static void store_states(const Layer &l, float *to, const float *rows) {
  for (int64_t s = 0; s < l.B; s++) memcpy(to + s * l.H, rows + s * l.width, size_t(l.H) * 4);
}

// One direction. cell.recur(h, multiply, p, u): u = h r, where multiply(a, g0, g1) puts a r for the gates g0 to g1 into u;
// cell.update(s, p, u, h): the state h of sequence s after a step, from its rows p of x w and u of h r
template <class Cell> void sweep(wnn_ctx *ctx, const Layer &l, bool backward, int64_t d, float *memory, Cell cell) {
  const int threads = l.D == 1 ? ctx->num_threads : 1;
  const int64_t steps = l.steps(ctx->num_threads), row = l.row();
  float *w_bias = memory, *r_bias = w_bias + row, *p = r_bias + row, *u = p + steps * l.B * row, *h = u + l.B * row;
  memset(w_bias, 0, size_t(2 * row) * 4);
  if (l.b)
    for (int64_t g = 0; g < 2 * l.G; g++) memcpy(w_bias + g * l.width, l.b + (d * 2 * l.G + g) * l.H, size_t(l.H) * 4);
  const float *w = l.w + d * l.G * l.I * l.width, *r = l.r + d * l.G * l.H * l.width;
  load_states(l, h, l.h0 ? l.h0 + d * l.B * l.H : nullptr);
  cell.start(d, h + l.B * l.width);
  auto multiply = [&](const float *a, int64_t g0, int64_t g1) { gates(l.B, l.H, a, l.width, r, r_bias, g0 * l.width, g1 * l.width, u, row); };

  for (int64_t done = 0; done < l.T; done += steps) {
    const int64_t n = min_of(steps, l.T - done), first = backward ? l.T - done - n : done, rows = n * l.B, each = ceil_div(rows, threads);
    for_tasks(ctx, threads, ceil_div(rows, max_of(1, each)), [&](int64_t task) {
      const int64_t at = task * each;
      gates(min_of(each, rows - at), l.I, l.x + (first * l.B + at) * l.I, l.I, w, w_bias, 0, row, p + at * row, row);
    });
    for (int64_t i = 0; i < n; i++) {
      const int64_t step = backward ? n - 1 - i : i, t = first + step;
      const float *p_t = p + step * l.B * row;
      cell.recur(h, multiply, p_t, u);
      for (int64_t s = 0; s < l.B; s++) {
        float *y = l.y + ((t * l.D + d) * l.B + s) * l.H;
        const bool ended = l.lens && t >= l.lens[s];
        if (!ended) cell.update(s, p_t + s * row, u + s * row, h + s * l.width);
        if (ended) memset(y, 0, size_t(l.H) * 4);
        else memcpy(y, h + s * l.width, size_t(l.H) * 4);
      }
    }
  }
  store_states(l, l.h + d * l.B * l.H, h);
  cell.end(d);
}

// make(functions): the cell. Each direction is a task.
template <class F> int run_layer(wnn_ctx *ctx, Layer &l, const wnn_tensor *const *in, const LayerAttrs &a, F make) {
  float *const memory = (float *)ctx->scratch + l.D * l.floats(ctx->num_threads);
  l.w = l.panels(in[1], memory), l.r = l.panels(in[2], memory + l.unpacked(in[1]));
  for_tasks(ctx, ctx->num_threads, l.D, [&](int64_t d) {
    sweep(ctx, l, a.backward || d == 1, d, (float *)ctx->scratch + d * l.floats(ctx->num_threads), make(Functions(a, d)));
  });
  return 0;
}

}  // namespace

#define LAYER_SCRATCH(name) \
  SCRATCH(name) { const Layer l(in, nin, out); return size_t(l.D * l.floats(num_threads) + l.unpacked(in[1]) + l.unpacked(in[2])) * 4; }
