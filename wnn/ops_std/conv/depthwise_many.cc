// wnn: wide
// What depthwise.cc does, for kernels of many taps whose stride and dilation along a row are one number.
//   x, w, bias?, y, attrs: as there
// What a block of outputs reads of a vector of channels is brought side by side, zeros in place of padding. Where it is, its rows lie so
// far apart that they share a few sets of L1, and each pixel of many channels is in a page of its own. Then a pixel is loaded once for
// four taps of eight outputs.
#include "conv.h"

namespace {

struct Row {
  const Conv *c;
  const float *w, *bias;
  const float *x[most_rows], *w_row[most_rows];  // of each kernel row: the pixels brought, the weights
  int64_t kernel_rows;
  float *y;
  int64_t ldc;
  float lo = -INFINITY, hi = INFINITY;
};

// P pixels from ow on, by a vector of channels
template <int P> void tile(const Row &row, int64_t ow, int64_t lanes) {
  const Conv &c = *row.c;
  const int64_t K = c.kernel[2], step = c.stride[2] * L, ldc = row.ldc;  // step: from an output's first pixel to the next one's, and of taps
  vf acc[P];
  const vf start = row.bias ? load_n(row.bias, lanes) : vf{};
#pragma GCC unroll 8
  for (int p = 0; p < P; p++) acc[p] = start;
  for (int64_t kh = 0; kh < row.kernel_rows; kh++) {
    const float *w = row.w_row[kh], *x = row.x[kh] + ow * step;
    int64_t k = 0;
    if constexpr (P == 8)
      for (; k + 4 <= K; k += 4, x += 4 * step, w += 4 * L) four_taps<P>(acc, x, step, w, L);
    for (; k < K; k++, x += step, w += L) {
      const vf wv = held(load(w));
      const float *at = x;
#pragma GCC unroll 8
      for (int p = 0; p < P; p++, at += step) {
        asm("" : "+r"(at));
        acc[p] += wv * load(at);
      }
    }
  }
  const float lo = row.lo, hi = row.hi;
  float *to = row.y + ow * ldc;
#pragma GCC unroll 8
  for (int p = 0; p < P; p++, to += ldc) {
    const vf y = clamp(acc[p], lo, hi);
    lanes == L ? store(to, y) : store_n(to, y, lanes);
  }
}

// How outputs are cut into blocks, of some rows of a plane by some pixels
struct Blocks {
  static constexpr int64_t most_floats = 16384, least_pixels = 256;
  int64_t vectors, rows, pixels, down, across, row_floats, slots;  // slots: rows of x at once

  explicit Blocks(const Conv &c) {
    const int64_t reach = (c.kernel[2] - 1) * c.dilation[2] + 1, span = (c.kernel[1] - 1) * c.dilation[1] + 1, height = c.out[1];
    const auto floats = [&](int64_t n) { return ((n - 1) * c.stride[2] + reach) * L; };
    vectors = ceil_div(c.C, L), pixels = c.out[2];
    if (floats(pixels) * c.kernel[1] > most_floats) pixels = min_of(pixels, max_of(least_pixels, reach));
    row_floats = floats(max_of(1, pixels)), across = ceil_div(c.out[2], max_of(1, pixels));
    rows = c.kernel[0] == 1 && c.in[0] == 1 ? min_of(height, (most_floats / row_floats - span) / c.stride[1] + 1) : 1;
    // of one row, only the rows that it reads
    slots = rows > 1 ? (rows - 1) * c.stride[1] + span : c.kernel[0] * c.kernel[1];
    rows = max_of(1, rows), down = ceil_div(height, rows);
  }
  int64_t tasks(const Conv &c) const { return c.N * c.out[0] * down * across * vectors; }
  int64_t floats(const Conv &c) const { return slots * row_floats + c.taps() * L; }
};

// One row of x from pixel `first` on -> n pixels of a vector of channels
void bring(const Conv &c, const float *row, int64_t first, int64_t n, int64_t lanes, float *to) {
  for (int64_t i = first; i < first + n; i++, to += L) store(to, i < 0 || i >= c.in[2] ? vf{} : lanes == L ? load(row + i * c.pixel) : load_n(row + i * c.pixel, lanes));
}

void block(const Row &shared, const Blocks &b, int64_t task, const wnn_post *post, int n_post, float *memory) {
  const Conv &c = *shared.c;
  const int64_t ch = task % b.vectors * L, lanes = min_of(L, c.C - ch), plane = task / b.vectors / b.across / b.down;
  const int64_t w0 = task / b.vectors % b.across * b.pixels, w1 = min_of(c.out[2], w0 + b.pixels), h0 = task / b.vectors / b.across % b.down * b.rows;
  const int64_t first = w0 * c.stride[2] - c.pad[2], n = (w1 - w0 - 1) * c.stride[2] + (c.kernel[2] - 1) * c.dilation[2] + 1;
  float *const w = memory + b.slots * b.row_floats;
  for (int64_t t = 0; t < c.taps(); t++) store(w + t * L, load_n(shared.w + t * c.C + ch, lanes));
  int64_t begin = 0, end = 0;  // the rows of x that are there
  if (b.rows > 1) begin = end = plane / c.out[0] * c.in[1] + max_of(0, h0 * c.stride[1] - c.pad[1]);
  for (int64_t r = plane * c.out[1] + h0; r < plane * c.out[1] + min_of(c.out[1], h0 + b.rows); r++) {
    Row row = shared;
    row.kernel_rows = 0;
    kernel_rows(c, r, [&](int64_t in_row, int64_t kernel_row) {
      if (b.rows == 1) end = in_row, begin = in_row - row.kernel_rows;
      for (; end <= in_row; end++) bring(c, c.x + end * c.in[2] * c.pixel + ch, first, n, lanes, memory + (end - begin) * b.row_floats);
      row.x[row.kernel_rows] = memory + (in_row - begin) * b.row_floats, row.w_row[row.kernel_rows++] = w + kernel_row * c.kernel[2] * L;
    });
    if (row.bias) row.bias += ch;
    const int64_t width = w1 - w0, P = width >= 8 ? 8 : 1;
    row.y = shared.y + (r * c.out[2] + w0) * row.ldc + ch;
    for (int64_t i = 0; i < width; i += P) (P == 8 ? tile<8> : tile<1>)(row, min_of(i, width - P), lanes);  // the last may make some once more
    post_tile(post, n_post, row.y, row.ldc, r * c.out[2] + w0, nullptr, width, ch, lanes);
  }
}

}  // namespace

SCRATCH(conv_depthwise_many_f32) {
  const Conv c(attrs, in[0], out[0]);
  return size_t(Blocks(c).floats(c) * num_threads) * 4;
}

KERNEL_S(conv_depthwise_many_f32) {
  const Conv c(attrs, in[0], out[0]);
  const PostList posts((const char *)attrs + posts_offset, nin > 2 ? in[2] : nullptr, in);
  if (c.kernel[0] * c.kernel[1] > most_rows || c.stride[2] != c.dilation[2])
    return ctx->api->error(ctx, "[conv_depthwise] found a kernel of %lld rows, stride %lld, dilation %lld; expected at most %d, and one number; use conv_depthwise_f32",
                           (long long)(c.kernel[0] * c.kernel[1]), (long long)c.stride[2], (long long)c.dilation[2], most_rows);
  Row shared{};
  shared.c = &c, shared.w = f32(in[1]), shared.ldc = row_stride(out[0]), shared.y = f32(out[0]);
  const wnn_post *const post = take_bias_and_clip(shared, posts), *const end = posts.post + posts.n;
  const Blocks blocks(c);
  parallel_for(ctx, blocks.tasks(c), [&](int64_t task, int worker) {
    block(shared, blocks, task, post, int(end - post), (float *)ctx->scratch + worker * blocks.floats(c));
  });
  return 0;
}
