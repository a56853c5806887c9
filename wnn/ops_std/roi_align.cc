// wnn: once
// y: each box of x resampled to one size, channels last.
//   x: (N, H, W, C), boxes: (R, 4), y: (R, h, w, C) f32, contiguous      image: (R,) i64
//   attrs: struct { float scale; int32_t samples, centred, max; }
#include "move.h"

namespace {

constexpr int64_t most_samples = 4096;
struct Attrs {
  float scale;
  int32_t samples, centred, max;
};
struct Side {
  double start, length;
  int64_t samples;
};  // of a box, along one axis
struct Point {
  int64_t at[2];
  float weight[2];
};

Side side_of(double from, double to, int64_t cells, const Attrs &a) {
  const double shift = a.centred ? 0.5 : 0, start = from * a.scale - shift;
  double length = to * a.scale - shift - start;
  if (!a.centred && length < 1) length = 1;
  const double n = a.samples ? a.samples : ceil(length / cells);
  return {start, length, n >= 0 && n <= most_samples ? int64_t(n) : n < 0 ? 0 : -1};
}
// The k-th of a cell's points; false where it lies outside
bool point(const Side &s, int64_t cells, int64_t cell, int64_t k, int64_t d, Point *p) {
  double v = s.start + cell * s.length / cells + (k + 0.5) * s.length / cells / s.samples;
  if (!(v >= -1 && v <= d)) return false;
  if (v < 0) v = 0;
  const int64_t low = smaller(int64_t(v), d - 1);
  const float frac = low == d - 1 ? 0.0f : float(v - low);
  *p = {{low, smaller(low + 1, d - 1)}, {1 - frac, frac}};
  return true;
}

}  // namespace

KERNEL(roi_align_f32) {
  const wnn_tensor *x = in[0], *y = out[0];
  const Attrs a = attr<Attrs>(attrs, 0);
  const int64_t R = y->shape[0], h = y->shape[1], w = y->shape[2], C = y->shape[3], H = x->shape[1], W = x->shape[2];
  const int64_t *const image = (const int64_t *)in[2]->data;
  for (int64_t r = 0; r < R; r++) {
    if (image[r] < -x->shape[0] || image[r] >= x->shape[0])
      return bad_index(ctx, "roi_align", image[r], r, x->shape[0]);
    const float *box = f32(in[1]) + 4 * r;
    if (side_of(box[1], box[3], h, a).samples < 0 || side_of(box[0], box[2], w, a).samples < 0)
      return ctx->api->error(
          ctx,
          "[roi_align] found box %lld of (%g, %g, %g, %g); expected at most %lld points in a cell; correct the boxes",
          (long long)r, double(box[0]), double(box[1]), double(box[2]), double(box[3]), (long long)most_samples);
  }
  for_rows(ctx, R * h, w * C * 64, [&](int64_t row) {
    const int64_t r = row / h, n = image[r] < 0 ? image[r] + x->shape[0] : image[r];
    const float *box = f32(in[1]) + 4 * r, *base = f32(x) + n * H * W * C;
    const Side down = side_of(box[1], box[3], h, a), across = side_of(box[0], box[2], w, a);
    for (int64_t j = 0; j < w; j++) {
      float *to = f32(y) + (row * w + j) * C;
      bool first = true;
      const float share = a.max ? 1.0f : 1.0f / float(down.samples * across.samples);
      for (int64_t k = 0; k < down.samples * across.samples; k++) {
        Point p, q;
        const bool inside =
            point(down, h, row % h, k / across.samples, H, &p) && point(across, w, j, k % across.samples, W, &q);
        if (!inside) {
          if (a.max && first) memset(to, 0, size_t(C) * 4);
          else if (a.max) map(to, C, [=](auto v, int64_t c) { return at_least(v(to + c), vf{}); });
          else continue;
          first = false;
          continue;
        }
        const float *f[4];
        float u[4];
        for (int e = 0; e < 4; e++)
          f[e] = base + (p.at[e / 2] * W + q.at[e % 2]) * C, u[e] = p.weight[e / 2] * q.weight[e % 2] * share;
        const bool start = first;
        if (a.max)
          map(to, C, [=](auto v, int64_t c) {
            const vf m = at_least(at_least(v(f[0] + c) * u[0], v(f[1] + c) * u[1]),
                                  at_least(v(f[2] + c) * u[2], v(f[3] + c) * u[3]));
            return start ? m : at_least(m, v(to + c));
          });
        else
          map(to, C, [=](auto v, int64_t c) {
            const vf m = v(f[0] + c) * u[0] + v(f[1] + c) * u[1] + v(f[2] + c) * u[2] + v(f[3] + c) * u[3];
            return start ? m : m + v(to + c);
          });
        first = false;
      }
      if (first) memset(to, 0, size_t(C) * 4);
    }
  });
  return 0;
}
