// wnn: once
// y = f(conv(x - x_zero, w + shift) + bias), channels last, by sums of products of bytes that are exact on every CPU.
//   tensors and attrs as in integer.h      w: (groups, taps * C/groups, M/groups) i8
//   after the inputs: its panels (groups, panels, K/4, 16, 4), where each tap's channels are padded to fours; its columns' sums
// A GEMM like that of float convolution, four rows of weights at a time, by the tiles of conv_tiles.cc. x_zero is taken off the
// sums afterwards, so padding is a row of it. Where channels of a group are no multiple of four, x is copied with its padding
// first.
#include "conv_tiles.h"
#include "integer.h"

namespace {

int64_t fours(int64_t n) { return ceil_div(n, 4) * 4; }
bool copies(const Conv &c) { return c.C / c.groups % 4 != 0; }
int64_t padded_length(const Conv &c, int i) { return max_of(c.reach(i), c.in[i]) + c.pad[i]; }
int64_t copy_bytes(const Conv &c) {
  return copies(c) ? c.N * padded_length(c, 0) * padded_length(c, 1) * padded_length(c, 2) * c.groups * fours(c.C / c.groups) : 0;
}

// Copies x to `to` with its padding around it and each group's channels padded by zeros; c becomes the convolution of that
void pad(wnn_ctx *ctx, Conv &c, uint8_t zero, uint8_t *to) {
  const int64_t C = c.C / c.groups, wide = fours(C), pixel = c.groups * wide, size[3] = {padded_length(c, 0), padded_length(c, 1), padded_length(c, 2)};
  const uint8_t *const x = (const uint8_t *)c.x;
  for_tasks(ctx, ctx->num_threads, c.N * size[0] * size[1], [&](int64_t row) {
    const int64_t h = row % size[1] - c.pad[1], d = row / size[1] % size[0] - c.pad[0], n = row / size[1] / size[0];
    const bool in = h >= 0 && h < c.in[1] && d >= 0 && d < c.in[0];
    const int64_t begin = in ? c.pad[2] : size[2], end = in ? begin + c.in[2] : size[2];
    const uint8_t *from = x + ((n * c.in[0] + d) * c.in[1] + h) * c.in[2] * c.pixel;
    uint8_t *put = to + row * size[2] * pixel;
    auto copy = [&](int64_t w0, int64_t w1, auto group) {
      for (int64_t w = w0; w < w1; w++)
        for (int64_t g = 0; g < c.groups; g++, put += wide) memset(put + wide - 4, 0, 4), group(from + (w - begin) * c.pixel + g * C);
    };
    auto blank = [&](const uint8_t *) { memset(put, zero, size_t(C)); };
    copy(0, begin, blank);
    if (C == 3) copy(begin, end, [&](const uint8_t *p) { memcpy(put, p, 3); });
    else copy(begin, end, [&](const uint8_t *p) { memcpy(put, p, size_t(C)); });
    copy(end, size[2], blank);
  });
  c.x = (const float *)to, c.C = pixel, c.pixel = pixel;
  for (int i = 0; i < 3; i++) c.in[i] = size[i], c.pad[i] = 0;
}

}  // namespace

size_t conv_quantized_bytes(const void *attrs, const wnn_tensor *x, const wnn_tensor *y) {
  const Conv c(attrs, x, y);
  return Integers::bytes(y) + size_t(ceil_div(c.C, 64) * 64 + copy_bytes(c));
}

int run_conv_quantized(const Tiles &tiles, wnn_ctx *ctx, const void *attrs, const wnn_tensor *const *in, int nin, const wnn_tensor *y) {
  Conv c(attrs, in[X], y);
  const int64_t K = c.taps() * (c.C / c.groups), N = last_dim(y) / c.groups;
  const Integers end(attrs, in, nin - 2, y, (const int32_t *)in[nin - 1]->data, K, ctx->scratch);
  uint8_t *const zeros = (uint8_t *)ctx->scratch + Integers::bytes(y);
  memset(zeros, end.zero, size_t(c.C));
  const bool copied = copies(c);
  if (copied) pad(ctx, c, end.zero, zeros + ceil_div(c.C, 64) * 64);

  const int64_t C = c.C / c.groups;
  const bool run = copied && c.groups == 1 && c.dilation[2] == 1;  // a row of taps is one
  const int64_t width_taps = run ? 1 : c.kernel[2], taps = c.kernel[0] * c.kernel[1] * width_taps, kc = run ? C * c.kernel[2] : C;
  if (taps > max_table) return ctx->api->error(ctx, "[conv_quantized] found %lld taps; expected at most %lld; split the kernel", (long long)taps, (long long)max_table);
  const int8_t *const panels = (const int8_t *)in[nin - 2]->data;
  const int64_t panel = taps * kc * 16, group_panels = ceil_div(N, 16) * panel;
  const uint8_t *const x = (const uint8_t *)c.x;

  const GemmGrid grid = gemm_grid(c.pixels(), N, K / 4, max_of(1, min_of(512, max_table / max_of(1, taps))), ctx->num_threads);
  for_tasks(ctx, ctx->num_threads, grid.tasks() * c.groups, [&](int64_t task) {
    int64_t m0, m1, n0, n1, table[max_table];
    int32_t sums[512];
    grid.at(task / c.groups, &m0, &m1, &n0, &n1);
    const int64_t g = task % c.groups, M = m1 - m0;
    row_table(c, {0, c.kernel[0], 0, c.kernel[1], 0, width_taps}, zeros - x - g * C, m0, M, table);
    if (end.shift)
      for (int64_t m = 0; m < M; m++) {
        sums[m] = 0;
        for (int64_t t = 0; t < taps; t++) sums[m] += tiles.sum(x + g * C + table[t * M + m], kc);
      }
    for (int64_t n = n0, cols; n < n1; n += cols) {
      int by = 0;
      while (tiles.groups[by] * tiles.width >= n1 - n + tiles.width) by++;
      cols = min_of(tiles.groups[by] * tiles.width, n1 - n);
      const int8_t *const b = panels + g * group_panels + n / 16 * panel + n % 16 * 4;
      int size = 0;
      for (int64_t m = 0; m < M; m += tiles.rows[size]) {
        while (tiles.rows[size] > M - m) size++;
        int32_t c_tile[Tiles::most_rows * Tiles::columns];
        tiles.tile[by][size]({x + g * C, table + m, M, taps, kc, b, panel, c_tile});
        tiles.finish(&end, c_tile, Tiles::columns, tiles.rows[size], m0 + m, g * N + n, cols, sums + m);
      }
    }
  });
  return 0;
}
