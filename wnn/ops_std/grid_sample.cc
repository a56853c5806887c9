// wnn: once
// y = x read at the points of a grid, channels last.
//   x: (N, *spatial, C), grid: (N, *out, D), y: (N, *out, C) f32, contiguous, D from 1 to 3
//   attrs: struct { int64_t mode, padding, align; }; mode: 0 nearest, 1 linear, 2 cubic; padding: 0 zeros, 1 border, 2
//   reflection
#include "move.h"

namespace {

struct Taps {
  int n;
  int64_t index[4];
  float weight[4];
};

double reflected(double v, double low, double high) {
  const double span = high - low;
  if (span <= 0) return low;
  const double t = fmod(fabs(v - low), 2 * span);
  return low + (t > span ? 2 * span - t : t);
}
double cubic(double t) {  // Keys, a = -0.75
  t = fabs(t);
  return t <= 1 ? (1.25 * t - 2.25) * t * t + 1 : t < 2 ? (((t - 5) * t + 8) * t - 4) * -0.75 : 0;
}

// The element of an axis of length d that a grid's number means
double element_of(double at, int64_t d, bool align) { return align ? (at + 1) / 2 * (d - 1) : ((at + 1) * d - 1) / 2; }

// The elements of an axis of length d that a grid's number reads; those outside have weight 0 where they are zero
void taps_of(Taps &t, double at, int64_t d, int64_t mode, int64_t padding, bool align) {
  const double low = align ? 0 : -0.5, high = align ? d - 1 : d - 0.5;
  double v = element_of(at, d, align);
  v = v > -1e8 ? v < 1e8 ? v : 1e8 : -1e8;
  if (mode == 0) v = rint(v);
  if (v < low || v > high) {
    if (padding == 1 && mode != 2) v = v < 0 ? 0 : d - 1;
    if (padding == 2) v = reflected(v, low, high);
  }
  int64_t i = int64_t(v) - (v < double(int64_t(v))) - (mode == 2);  // floor would be a call
  for (int k = 0; k < t.n; k++, i++) {
    const double away = v - double(i);
    double w = mode == 0 ? 1 : mode == 1 ? 1 - fabs(away) : cubic(away);
    int64_t inside = i;
    if (i < 0 || i >= d) {
      if (padding == 0) w = 0;
      if (padding == 2) inside = int64_t(reflected(double(i), low, high));
      inside = inside < 0 ? 0 : inside >= d ? d - 1 : inside;
    }
    t.index[k] = inside;
    t.weight[k] = float(w);
  }
}

// Both taps of linear mode, without padding by reflection; where outside is zero, what stands there has weight 0
struct Pair { int64_t low, high; float a, b; };
Pair pair_of(double at, int64_t d, bool border, bool align) {
  double v = element_of(at, d, align);
  const double most = border ? d - 1 : d, least = border ? 0 : -1;
  v = v > least ? v < most ? v : most : least;
  const int64_t i = int64_t(v + 1) - 1;  // floor
  const float b = float(v - double(i));
  return {i < 0 ? 0 : i < d ? i : d - 1, i + 1 < d ? i + 1 : d - 1, i >= 0 && i < d ? 1 - b : 0, i + 1 < d ? b : 0};
}

}  // namespace

KERNEL(grid_sample_f32) {
  const wnn_tensor *x = in[0], *grid = in[1];
  const int64_t mode = attr<int64_t>(attrs, 0), padding = attr<int64_t>(attrs, 8), align = attr<int64_t>(attrs, 16);
  const int D = x->ndim - 2;
  const int64_t C = last_dim(x), points = product(grid, 1, grid->ndim - 1);
  if (count(x) == 0) return memset(out[0]->data, 0, size_t(count(out[0])) * 4), 0;
  const int64_t d[3] = {D > 2 ? x->shape[1] : 1, D > 1 ? x->shape[D - 1] : 1,
                        x->shape[D]};  // outermost axes of 1 if D < 3
  for_rows(ctx, x->shape[0] * points, C * 16, [&](int64_t p) {
    float *y = f32(out[0]) + p * C;
    const float *base = f32(x) + p / points * d[0] * d[1] * d[2] * C;
    if (mode == 1 && D == 2 && padding < 2) {
      const Pair c = pair_of(f32(grid)[p * 2], d[2], padding, align), r = pair_of(f32(grid)[p * 2 + 1], d[1], padding, align);
      const float *const top = base + r.low * d[2] * C, *const bottom = base + r.high * d[2] * C;
      const int64_t low = c.low * C, high = c.high * C;
      const auto at = [=](auto v, int64_t i) { return (v(top + low + i) * c.a + v(top + high + i) * c.b) * r.a + (v(bottom + low + i) * c.a + v(bottom + high + i) * c.b) * r.b; };
      if (C > 1) map(y, C, at);
      else *y = at([](const float *from) { return *from; }, 0);
      return;
    }
    Taps t[3] = {{1, {}, {1}}, {1, {}, {1}}, {1, {}, {1}}};
    for (int a = 0; a < D; a++) {
      t[2 - a].n = mode == 2 ? 4 : int(mode) + 1;
      taps_of(t[2 - a], f32(grid)[p * D + a], d[2 - a], mode, padding, align);
    }
    memset(y, 0, size_t(C) * 4);
    for (int i = 0; i < t[0].n; i++)
      for (int j = 0; j < t[1].n; j++)
        for (int k = 0; k < t[2].n; k++) {
          const float w = t[0].weight[i] * t[1].weight[j] * t[2].weight[k];
          if (w == 0) continue;
          const float *from = base + ((t[0].index[i] * d[1] + t[1].index[j]) * d[2] + t[2].index[k]) * C;
          int64_t c = 0;
          for (; c + L <= C; c += L) store(y + c, load(y + c) + load(from + c) * w);
          for (; c < C; c++) y[c] += from[c] * w;
        }
  });
  return 0;
}
