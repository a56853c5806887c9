// y = post(depthwise conv(x, w) + bias), channels last, 1 to 3 spatial axes, any stride, padding and dilation.
//   x: (N, *spatial, C) f32, rows      w: (taps, C) f32      bias?: (C,)      y: (N, *out spatial, C) f32, rows
//   attrs: ConvAttrs with groups = C, posts
// A tile is several output pixels of a row by one vector of channels. Taps that fall into padding are left out: by ranges of
// the kernel's height, and in width by tiles of one pixel at either end of a row.
#include "conv.h"

namespace {

// One output row's neighbourhood
struct Row {
  const Conv *c;
  const float *w, *bias, *x[64];  // x: the kernel rows' input rows, from pixel 0
  const float *w_row[64];
  int64_t kernel_rows, x_step, w_step;  // from one tap of a kernel row to the next
  float *y;
  int64_t ldc;
  bool clip;
  float lo, hi;
};

// P output pixels from ow on by V vectors of channels from ch on, taps [k0, k1) of each kernel row
template <int P, int V> void tile(const Row &row, int64_t ow, int64_t ch, int64_t tail, int64_t k0, int64_t k1) {
  const int64_t stride = row.c->stride[2], pixel = row.c->pixel * stride;
  const int64_t first = (ow * stride - row.c->pad[2] + k0 * row.c->dilation[2]) * row.c->pixel + ch;
  vf acc[P][V];
#pragma GCC unroll 4
  for (int v = 0; v < V; v++) {
    const vf start = !row.bias ? vf{} : v < V - 1 ? load(row.bias + ch + v * L) : load_n(row.bias + ch + v * L, tail);
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) acc[p][v] = start;
  }
  for (int64_t kh = 0; kh < row.kernel_rows; kh++) {
    const float *w = row.w_row[kh] + k0 * row.w_step + ch, *x = row.x[kh] + first;
    if (V == 1 && tail < L) {
      for (int64_t k = k0; k < k1; k++, x += row.x_step, w += row.w_step) {
        const vf wv = load_n(w, tail);
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) acc[p][0] += wv * load_n(x + p * pixel, tail);
      }
    } else {
      for (int64_t k = k0; k < k1; k++, x += row.x_step, w += row.w_step) {
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
          const vf wv = load(w + v * L);
#pragma GCC unroll 8
          for (int p = 0; p < P; p++) acc[p][v] += wv * load(x + p * pixel + v * L);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; p++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      const vf y = row.clip ? clamp(acc[p][v], row.lo, row.hi) : acc[p][v];
      float *to = row.y + (ow + p) * row.ldc + ch + v * L;
      if (v < V - 1) store(to, y);
      else store_n(to, y, tail);
    }
}

using TileFn = void (*)(const Row &, int64_t, int64_t, int64_t, int64_t, int64_t);
constexpr int most_pixels = 8;
const TileFn tiles[most_pixels] = {tile<1, 1>, tile<2, 1>, tile<3, 1>, tile<4, 1>, tile<5, 1>, tile<6, 1>, tile<7, 1>, tile<8, 1>};

// One pixel whose window leaves the input
void edge(const Row &row, int64_t ow, int64_t c0, int64_t c1) {
  const Conv &c = *row.c;
  int64_t k0, k1;
  inside(ow * c.stride[2] - c.pad[2], c.dilation[2], c.in[2], c.kernel[2], &k0, &k1);
  int64_t ch = c0;
  for (; ch + 4 * L <= c1; ch += 4 * L) tile<1, 4>(row, ow, ch, L, k0, k1);
  for (; ch < c1; ch += L) tile<1, 1>(row, ow, ch, min_of(L, c1 - ch), k0, k1);
}

// Pixels [w0, w1) of an output row by channels [c0, c1)
void stretch(const Row &row, int64_t w0, int64_t w1, int64_t c0, int64_t c1) {
  const Conv &c = *row.c;
  const int64_t last = c.in[2] - (c.kernel[2] - 1) * c.dilation[2];  // window starts in [0, last) are whole
  int64_t begin, end;
  inside(w0 * c.stride[2] - c.pad[2], c.stride[2], last, w1 - w0, &begin, &end);
  for (int64_t w = w0; w < w0 + begin; w++) edge(row, w, c0, c1);
  const int64_t whole = end - begin, count = ceil_div(whole, most_pixels);
  for (int64_t i = 0, w = w0 + begin; i < count; i++) {
    const int64_t pixels = whole / count + (i < whole % count);
    for (int64_t ch = c0; ch < c1; ch += L) tiles[pixels - 1](row, w, ch, min_of(L, c1 - ch), 0, c.kernel[2]);
    w += pixels;
  }
  for (int64_t w = w0 + end; w < w1; w++) edge(row, w, c0, c1);
}

// Points the row at the input rows of output row number `index`
void place(Row &row, const float *x, float *y, int64_t index) {
  const Conv &c = *row.c;
  const int64_t oh = index % c.out[1], od = index / c.out[1] % c.out[0], n = index / c.out[1] / c.out[0];
  int64_t d0, d1, h0, h1;
  inside(od * c.stride[0] - c.pad[0], c.dilation[0], c.in[0], c.kernel[0], &d0, &d1);
  inside(oh * c.stride[1] - c.pad[1], c.dilation[1], c.in[1], c.kernel[1], &h0, &h1);
  row.kernel_rows = 0;
  for (int64_t kd = d0; kd < d1; kd++)
    for (int64_t kh = h0; kh < h1; kh++) {
      const int64_t id = od * c.stride[0] - c.pad[0] + kd * c.dilation[0], ih = oh * c.stride[1] - c.pad[1] + kh * c.dilation[1];
      row.x[row.kernel_rows] = x + ((n * c.in[0] + id) * c.in[1] + ih) * c.in[2] * c.pixel;
      row.w_row[row.kernel_rows++] = row.w + (kd * c.kernel[1] + kh) * c.kernel[2] * row.w_step;
    }
  row.y = y + index * c.out[2] * row.ldc;
}

}  // namespace

KERNEL(conv_depthwise_f32) {
  const Conv c(attrs, in[0], out[0]);
  PostList posts((const char *)attrs + posts_offset, nin > 2 ? in[2] : nullptr, in);
  if (c.kernel[0] * c.kernel[1] > 64)
    return ctx->api->error(ctx, "[conv_depthwise] found a kernel of %lld rows; expected at most 64; split the kernel", (long long)(c.kernel[0] * c.kernel[1]));
  Row shared{};
  shared.c = &c, shared.w = f32(in[1]), shared.ldc = row_stride(out[0]);
  shared.x_step = c.dilation[2] * c.pixel, shared.w_step = c.C;
  const wnn_post *post = posts.post, *const end = post + posts.n;
  if (post < end && post->kind == WNN_POST_BIAS) shared.bias = post++->data;
  if (post < end && post->kind == WNN_POST_RELU) shared.clip = true, shared.hi = INFINITY, post++;
  else if (post < end && post->kind == WNN_POST_CLIP) shared.clip = true, shared.lo = post->a, shared.hi = post++->b;

  // a task: some output rows by a stretch of pixels; channels by parts whose input rows stay in L1
  const int64_t rows = c.N * c.out[0] * c.out[1], width = c.out[2], row_work = max_of(1, width * c.C * c.taps());
  const int64_t pieces = rows >= 4 * ctx->num_threads ? 1 : max_of(1, min_of(width / 16, min_of(row_work >> 17, 8 * ctx->num_threads)));
  const int64_t each = max_of(1, min_of((1 << 18) / row_work, ceil_div(rows, 4 * ctx->num_threads)));
  const int64_t span = min_of(c.in[2], ceil_div(width, pieces) * c.stride[2] + c.kernel[2] * c.dilation[2]) * c.kernel[1];
  const int64_t part = max_of(2 * L, 8192 / max_of(1, span) / L * L);
  for_tasks(ctx, rows * row_work < 1 << 17 ? 1 : ctx->num_threads, ceil_div(rows, each) * pieces, [&](int64_t task) {
    const int64_t piece = task % pieces, w0 = width * piece / pieces, w1 = width * (piece + 1) / pieces;
    Row row = shared;
    for (int64_t c0 = 0; c0 < c.C; c0 += part)
      for (int64_t r = task / pieces * each; r < min_of(rows, (task / pieces + 1) * each); r++) {
        const int64_t c1 = min_of(c.C, c0 + part);
        place(row, c.x, f32(out[0]), r);
        stretch(row, w0, w1, c0, c1);
        if (post < end)
          post_tile(post, int(end - post), row.y + w0 * row.ldc + c0, row.ldc, r * width + w0, nullptr, w1 - w0, c0, c1 - c0);
      }
  });
  return 0;
}
