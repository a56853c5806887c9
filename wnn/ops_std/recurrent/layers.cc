// wnn: once
// The sweep of a recurrent layer over time.
#include "recurrent.h"

namespace {

constexpr float no_clip = 3.4e38f;

const wnn_tensor *optional(const wnn_tensor *const *in, int nin, int i) { return i < nin ? in[i] : nullptr; }
const float *floats(const wnn_tensor *t) { return t ? f32(t) : nullptr; }

Layer layer_of(const wnn_tensor *const *in, int nin, const wnn_tensor *const *out, int nout) {
  Layer l;
  l.T = in[0]->shape[0], l.B = in[0]->shape[1], l.I = in[0]->shape[2], l.D = in[2]->shape[0], l.G = in[2]->shape[1], l.H = in[2]->shape[3];
  l.width = ceil_div(l.H, 16) * 16;
  const wnn_tensor *const lens = optional(in, nin, 4);
  l.x = f32(in[0]), l.b = floats(optional(in, nin, 3)), l.lens = lens ? (const int32_t *)lens->data : nullptr;
  l.h0 = floats(optional(in, nin, 5)), l.c0 = floats(optional(in, nin, 6)), l.peepholes = floats(optional(in, nin, 7));
  l.y = f32(out[0]), l.h = f32(out[1]), l.c = nout > 2 ? f32(out[2]) : nullptr;
  return l;
}

int64_t row(const Layer &l) { return l.G * l.width; }
// floats of w or r in panels, where it comes without
int64_t unpacked(const Layer &l, const wnn_tensor *t) { return t->layout == WNN_PANEL16 ? 0 : l.D * l.G * t->shape[2] * l.width; }
const float *panels(const Layer &l, const wnn_tensor *t, float *memory) {
  if (t->layout == WNN_PANEL16) return f32(t);
  const int64_t K = t->shape[2], *const step = t->strides;
  for (int64_t i = 0; i < l.D * l.G; i++)
    for (int64_t n = 0; n < l.H; n += 16)
      pack_panel(K, min_of(16, l.H - n), f32(t) + i / l.G * step[0] + i % l.G * step[1] + n * step[3], step[2], step[3], memory + i * K * l.width + n * K);
  return memory;
}
// steps whose products with w are made at once
int64_t steps_at_once(const Layer &l, int threads) { return max_of(1, min_of(l.T, 64 * (l.D == 1 ? threads : 1) / max_of(1, l.B))); }
// of a direction: both biases, the products with w, those with r; states, and what a cell keeps
int64_t direction_floats(const Layer &l, int threads) { return row(l) * (2 + steps_at_once(l, threads) * l.B + l.B) + (3 * l.B + 3) * l.width; }

void sweep(const Kind &kind, wnn_ctx *ctx, const Layer &l, const LayerAttrs &a, int64_t d, float *memory) {
  const int threads = l.D == 1 ? ctx->num_threads : 1;
  const int64_t steps = steps_at_once(l, ctx->num_threads), gates = row(l);
  float *const w_bias = memory, *const r_bias = w_bias + gates, *const p = r_bias + gates, *const u = p + steps * l.B * gates, *const h = u + l.B * gates;
  memset(w_bias, 0, size_t(2 * gates) * 4);
  if (l.b)
    for (int64_t g = 0; g < 2 * l.G; g++) memcpy(w_bias + g * l.width, l.b + (d * 2 * l.G + g) * l.H, size_t(l.H) * 4);
  const float *const w = l.w + d * l.G * l.I * l.width;
  const Activation *const acts = a.acts + d * a.count;
  bool usual = a.clip > no_clip;
  for (int i = 0; i < a.count; i++) usual &= acts[i].kind == (i > 0);
  Cell cell = {l, d, a.flags, acts, a.clip, usual, l.r + d * l.G * l.H * l.width, r_bias, u, h + l.B * l.width, false};
  const bool backward = a.backward || d == 1;
  load_states(l, h, l.h0 ? l.h0 + d * l.B * l.H : nullptr);
  kind.start(cell);

  for (int64_t done = 0; done < l.T; done += steps) {
    const int64_t n = min_of(steps, l.T - done), first = backward ? l.T - done - n : done, rows = n * l.B, each = ceil_div(rows, threads);
    for_tasks(ctx, threads, ceil_div(rows, max_of(1, each)), [&](int64_t task) {
      const int64_t at = task * each;
      kind.gates(min_of(each, rows - at), l.I, l.x + (first * l.B + at) * l.I, l.I, w, w_bias, 0, gates, p + at * gates, gates, false);
    });
    for (int64_t i = 0; i < n; i++) {
      const int64_t step = backward ? n - 1 - i : i, t = first + step;
      const float *const p_t = p + step * l.B * gates;
      kind.recur(cell, h, p_t);
      cell.back = !cell.back;
      for (int64_t s = 0; s < l.B; s++) {
        float *const y = l.y + ((t * l.D + d) * l.B + s) * l.H;
        const bool ended = l.lens && t >= l.lens[s];
        if (!ended) kind.update(cell, s, p_t + s * gates, u + s * gates, h + s * l.width);
        if (ended) memset(y, 0, size_t(l.H) * 4);
        else memcpy(y, h + s * l.width, size_t(l.H) * 4);
      }
    }
  }
  store_states(l, l.h + d * l.B * l.H, h);
  kind.end(cell);
}

}  // namespace

void load_states(const Layer &l, float *rows, const float *given) {
  memset(rows, 0, size_t(l.B * l.width) * 4);
  for (int64_t s = 0; given && s < l.B; s++) memcpy(rows + s * l.width, given + s * l.H, size_t(l.H) * 4);
}
void store_states(const Layer &l, float *to, const float *rows) {
  for (int64_t s = 0; s < l.B; s++) memcpy(to + s * l.H, rows + s * l.width, size_t(l.H) * 4);
}

// Each direction is a task.
int run_layer(const Kind &kind, wnn_ctx *ctx, const void *attrs, const wnn_tensor *const *in, int nin, wnn_tensor *const *out, int nout) {
  Layer l = layer_of(in, nin, out, nout);
  const LayerAttrs a = attr<LayerAttrs>(attrs, 0);
  const int64_t each = direction_floats(l, ctx->num_threads);
  float *const memory = (float *)ctx->scratch;
  l.w = panels(l, in[1], memory + l.D * each), l.r = panels(l, in[2], memory + l.D * each + unpacked(l, in[1]));
  for_tasks(ctx, ctx->num_threads, l.D, [&](int64_t d) { sweep(kind, ctx, l, a, d, memory + d * each); });
  return 0;
}

size_t layer_scratch_bytes(const wnn_tensor *const *in, int nin, const wnn_tensor *const *out, int num_threads) {
  const Layer l = layer_of(in, nin, out, 0);
  return size_t(l.D * direction_floats(l, num_threads) + unpacked(l, in[1]) + unpacked(l, in[2])) * 4;
}
