// wnn: wide
// y = post(conv(x, w) + bias) where output channels are few: vectors run along a row's pixels instead of channels.
//   x: (N, *spatial, C) f32, any strides      w: (1, taps * C, M) f32, panels of 16 or any strides
//   bias?: (M,)      y: (N, *out spatial, M) f32, rows
//   attrs: ConvAttrs with groups = 1, posts
// Rows of x are copied before their first use, each as planes: the padded pixels of one channel, for strides of S every S-th, in S planes one
// after the other. A tap of successive outputs is then a stretch of a plane. Kernel rows outside of x are left out.
#include "conv.h"

namespace {

constexpr int64_t most_channels = 16;
constexpr int64_t step = L == 16 ? 32 : L, most_pixels = 3 * step;  // a tile's pixels: whole steps

typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));

// to[j*to_ld + i] = from[i*from_ld + j]
__attribute__((noinline)) void transpose(const float *from, int64_t from_ld, int64_t rows, int64_t columns, float *to, int64_t to_ld) {
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) {
    const float *f = from + i * from_ld;
    float *t = to + i;
    int64_t j = 0;
    for (; j + 4 <= columns; j += 4, f += 4, t += 4 * to_ld) {
      const v4 p = *(const v4 *)f, q = *(const v4 *)(f + from_ld), r = *(const v4 *)(f + 2 * from_ld), s = *(const v4 *)(f + 3 * from_ld);
      const v4 pq = __builtin_shufflevector(p, q, 0, 4, 1, 5), rs = __builtin_shufflevector(r, s, 0, 4, 1, 5);
      const v4 PQ = __builtin_shufflevector(p, q, 2, 6, 3, 7), RS = __builtin_shufflevector(r, s, 2, 6, 3, 7);
      *(v4 *)t = __builtin_shufflevector(pq, rs, 0, 1, 4, 5);
      *(v4 *)(t + to_ld) = __builtin_shufflevector(pq, rs, 2, 3, 6, 7);
      *(v4 *)(t + 2 * to_ld) = __builtin_shufflevector(PQ, RS, 0, 1, 4, 5);
      *(v4 *)(t + 3 * to_ld) = __builtin_shufflevector(PQ, RS, 2, 3, 6, 7);
    }
    for (; j < columns; j++, f++, t += to_ld) t[0] = f[0], t[1] = f[from_ld], t[2] = f[2 * from_ld], t[3] = f[3 * from_ld];
  }
  for (; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) to[j * to_ld + i] = from[i * from_ld + j];
}

// A plane's pixels. Its last vector may reach beyond the padding
int64_t plane_width(const Conv &c) {
  const int64_t width = ceil_div(ceil_div(c.out[2], step) * step + (c.kernel[2] - 1) * c.dilation[2] / c.stride[2] + 1, 16) * 16;
  return width % 256 ? width : width + 16;  // else planes share one set of the ways of L1
}
int64_t row_floats(const Conv &c) { return plane_width(c) * c.stride[2] * c.C; }

// Row `index` of x as planes
void copy_row(const Conv &c, const wnn_tensor *x, int64_t index, float *to) {
  const int64_t h = index % c.in[1], d = index / c.in[1] % c.in[0], n = index / c.in[1] / c.in[0], *s = x->strides, S = c.stride[2];
  const int last = x->ndim - 1;
  const int64_t pixel = s[last - 1], channel = s[last], width = plane_width(c);
  const float *const from = f32(x) + n * s[0] + (last > 2 ? h * s[last - 2] : 0) + (last > 3 ? d * s[last - 3] : 0);
  for (int64_t phase = 0; phase < S; phase++, to += c.C * width) {
    int64_t begin, end;
    inside(phase - c.pad[2], S, c.in[2], width, &begin, &end);
    for (int64_t ch = 0; ch < c.C; ch++) {
      memset(to + ch * width, 0, size_t(begin) * 4);
      memset(to + ch * width + end, 0, size_t(width - end) * 4);
    }
    const float *const first = from + (begin * S + phase - c.pad[2]) * pixel;
    if (channel == 1 && c.C > 1) transpose(first, S * pixel, end - begin, c.C, to + begin, width);
    else
      for (int64_t ch = 0; ch < c.C; ch++) {
        float *const t = to + ch * width + begin;
        const float *const f = first + ch * channel;
        if (S * pixel == 1) memcpy(t, f, size_t(end - begin) * 4);
        else if (S * pixel == 2)
          for (int64_t i = 0; i < end - begin; i++) t[i] = f[2 * i];
        else
          for (int64_t i = 0; i < end - begin; i++) t[i] = f[i * S * pixel];
      }
  }
}

struct Row {
  const Conv &c;
  int64_t width;
  const float *bias;
  int64_t kernel_rows;
  const float *x[most_rows], *w[most_rows];  // of each kernel row: the planes of its input row, the weights
};

// M channels from m on by V vectors of pixels from ow on -> y, M rows of V vectors
template <int M, int V> void tile(const Row &row, int64_t m, int64_t ow, float *y) {
  const Conv &c = row.c;
  vf acc[M][V];
#pragma GCC unroll 4
  for (int i = 0; i < M; i++) {
    const vf start = splat(row.bias[m + i]);
#pragma GCC unroll 6
    for (int v = 0; v < V; v++) acc[i][v] = start;
  }
  for (int64_t kh = 0; kh < row.kernel_rows; kh++) {
    const float *w = row.w[kh] + m;
    for (int64_t kw = 0; kw < c.kernel[2]; kw++) {
      const int64_t at = kw * c.dilation[2];
      const float *x = row.x[kh] + at % c.stride[2] * c.C * row.width + at / c.stride[2] + ow;
      for (int64_t ch = 0; ch < c.C; ch++, x += row.width, w += 16) {
        vf xv[V];
#pragma GCC unroll 6
        for (int v = 0; v < V; v++) xv[v] = held(load(x + v * L));
#pragma GCC unroll 4
        for (int i = 0; i < M; i++) {
          const vf wv = splat(w[i]);
#pragma GCC unroll 6
          for (int v = 0; v < V; v++) acc[i][v] += wv * xv[v];
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < M; i++)
#pragma GCC unroll 6
    for (int v = 0; v < V; v++) store(y + (i * V + v) * L, acc[i][v]);
}
using Tile = void (*)(const Row &, int64_t, int64_t, float *);
#define TILES(M) {tile<M, step / L>, tile<M, 2 * step / L>, tile<M, 3 * step / L>}
const Tile single[] = TILES(1), four[] = TILES(4);

// A worker's rows of planes: those that a kernel reaches over, each in the place of its number modulo their count
struct Ring {
  int64_t line, span, slots;
  explicit Ring(const Conv &c) : line(row_floats(c)), span(min_of(c.in[1], (c.kernel[1] - 1) * c.dilation[1] + 1)), slots(c.kernel[0] * span) {}
  size_t floats() const { return size_t(slots * line + ceil_div(slots, 8) * 16); }
};

}  // namespace

SCRATCH(conv_planes_f32) {
  const Conv c(attrs, in[0], out[0]);
  return (Ring(c).floats() * size_t(num_threads) + size_t(weight_floats(in[1]))) * 4;
}

KERNEL_S(conv_planes_f32) {
  const Conv c(attrs, in[0], out[0]);
  const PostList posts((const char *)attrs + posts_offset, nin > 2 ? in[2] : nullptr, in);
  const int64_t M = last_dim(out[0]), ldc = row_stride(out[0]), width = plane_width(c);
  if (c.kernel[0] * c.kernel[1] > most_rows || M > most_channels || c.groups != 1)
    return ctx->api->error(ctx, "[conv_planes] found a kernel of %lld rows, %lld channels; expected at most %d, %d; use conv", (long long)(c.kernel[0] * c.kernel[1]),
                           (long long)M, most_rows, int(most_channels));
  const Ring ring(c);
  float *const rings = (float *)ctx->scratch;
  const float *const w = panels(in[1], rings + ring.floats() * size_t(ctx->num_threads));
  const wnn_post *post = posts.post, *const end = post + posts.n;
  float bias[most_channels] = {};  // those behind the last are made of the panel's zeros
  if (post < end && post->kind == WNN_POST_BIAS) memcpy(bias, post++->data, size_t(M) * 4);
  // tiles of even widths, of all channels; a task: many of them, as its first ones need all rows that a kernel reaches over
  const int64_t steps = ceil_div(c.out[2], step), parts = ceil_div(c.out[2], most_pixels), count = c.N * c.out[0] * c.out[1] * parts;
  const int64_t tasks = ctx->num_threads > 1 && count * most_pixels * M * c.C * c.taps() > 1 << 18 ? 2 * ctx->num_threads : 1;
  parallel_for(ctx, tasks, [&](int64_t task, int worker) {
    float *const planes = rings + ring.floats() * size_t(worker);
    int64_t *const numbers = (int64_t *)(planes + ring.slots * ring.line);  // of the rows that are there
    memset(numbers, -1, size_t(ring.slots) * 8);
    Row row{c, width, bias, 0, {}, {}};
    alignas(64) float y[most_channels * most_pixels];
    for (int64_t i = count * task / tasks; i < count * (task + 1) / tasks; i++) {
      const int64_t part = i % parts, index = i / parts;
      row.kernel_rows = 0;
      kernel_rows(c, index, [&](int64_t in_row, int64_t kernel_row) {
        const int64_t slot = kernel_row / c.kernel[1] * ring.span + in_row % c.in[1] % ring.span;
        if (numbers[slot] != in_row) copy_row(c, in[0], numbers[slot] = in_row, planes + slot * ring.line);
        row.x[row.kernel_rows] = planes + slot * ring.line;
        row.w[row.kernel_rows++] = w + kernel_row * c.kernel[2] * c.C * 16;
      });
      const int64_t s0 = steps * part / parts, s1 = steps * (part + 1) / parts, ow = s0 * step, wide = (s1 - s0) * step, pixels = min_of(wide, c.out[2] - ow);
      for (int64_t m = 0; m < M; m += 4) (M - m == 1 ? single : four)[s1 - s0 - 1](row, m, ow, y + m * wide);
      const int64_t first = index * c.out[2] + ow;
      float *const to = f32(out[0]) + first * ldc;
      if (M == 1 && ldc == 1) memcpy(to, y, size_t(pixels) * 4);
      else transpose(y, wide, M, pixels, to, ldc);
      if (post < end) post_tile(post, int(end - post), to, ldc, first, nullptr, pixels, 0, M);
    }
  });
  return 0;
}
