// wnn: wide
// y = post(conv(x, w) + bias) for kernels three wide, at stride 1 or 2, padded by at most one, of up to a vector of outputs to a group.
//   x: (N, *spatial, C) f32, rows      w: (groups, taps * C/groups, M/groups) f32, panels of 16 or any strides
//   bias?: (M,)      y: (N, *out spatial, M) f32, rows
//   attrs: ConvAttrs, posts
// A product of one vector reads a number of x for each multiply-add. Here each serves all outputs whose windows it lies in,
// and the weights of three taps are in registers. Only vectors of 16 have enough of them for that.
#include "conv.h"

#if WNN_ISA == 2
namespace {

constexpr int64_t T = 3, many = 14, few = 7;  // many, few: pixels of a tile

// Outputs of one group from one pixel on
struct Tile {
  static constexpr int64_t most_rows = 16;
  int64_t C, M, pixel, ldc, kernel_rows;  // C, M: of a group
  const float *x[most_rows], *w[most_rows];  // of each kernel row: the first pixel of the first window, the weights
  bool left, right;                          // whether that, or the last window's last pixel, is padding
  const float *bias;
  float *y, lo, hi;
};

template <int P, int S> void tile(const Tile &t) {
  constexpr int X = (P - 1) * S + T;
  vf y[P];
  const vf start = t.bias ? load_n(t.bias, t.M) : vf{};
#pragma GCC unroll 14
  for (int p = 0; p < P; p++) y[p] = start;
  for (int64_t row = 0; row < t.kernel_rows; row++) {
    const int64_t C = t.C, pixel = t.pixel;
    const float *x = t.x[row], *w = t.w[row];
    for (int64_t c = 0; c < C; c++, x++, w += L) {
      const vf w0 = load(w), w1 = load(w + C * L), w2 = load(w + 2 * C * L);
      const float *at = x;
#pragma GCC unroll 29
      for (int i = 0; i < X; i++, at += pixel) {
        asm("" : "+r"(at));  // else GCC keeps an address for each
        const vf v = held(splat((i == 0 && t.left) || (i == X - 1 && t.right) ? 0 : *at));
        if (i % S == 0 && i / S < P) y[i / S] += w0 * v;
        if (i % S == 1 % S && i >= 1 && (i - 1) / S < P) y[(i - 1) / S] += w1 * v;
        if (i % S == 2 % S && i >= 2) y[(i - 2) / S] += w2 * v;
      }
    }
  }
  const int64_t M = t.M, ldc = t.ldc;
  const float lo = t.lo, hi = t.hi;
  float *to = t.y;
#pragma GCC unroll 14
  for (int p = 0; p < P; p++, to += ldc) store_n(to, clamp(y[p], lo, hi), M);
}

struct Threes {
  Conv c;
  int64_t M = 0, ldc = 0;
  const float *w = nullptr, *bias = nullptr;
  float *y = nullptr, lo = -INFINITY, hi = INFINITY;

  // Pixels [w0, w1) of output row `index`, of one group
  void run(int64_t index, int64_t w0, int64_t w1, int64_t group) const {
    const int64_t S = c.stride[2], n = w1 - w0, P = n >= many && ceil_div(n, many) * many * 9 <= ceil_div(n, few) * few * 10 ? many : few;
    Tile t{c.C / c.groups, M, c.pixel, ldc, 0, {}, {}, false, false, bias ? bias + group * M : nullptr, nullptr, lo, hi};
    const float *const group_w = w + group * panel_floats(c.taps() * t.C, M);
    for (int64_t i = w0; i < w1; i += P) {
      const int64_t at = min_of(i, w1 - P), begin = at * S - c.pad[2];  // the last tile may make some pixels once more
      t.left = begin < 0, t.right = begin + (P - 1) * S + T > c.in[2], t.kernel_rows = 0;
      kernel_rows(c, index, [&](int64_t in_row, int64_t kernel_row) {
        t.x[t.kernel_rows] = c.x + (in_row * c.in[2] + begin) * c.pixel + group * t.C;
        t.w[t.kernel_rows++] = group_w + kernel_row * T * t.C * L;
      });
      t.y = y + (index * c.out[2] + at) * ldc + group * M;
      (P == many ? S == 1 ? tile<many, 1> : tile<many, 2> : S == 1 ? tile<few, 1> : tile<few, 2>)(t);
    }
  }
};

}  // namespace

SCRATCH(conv_threes_f32) { return size_t(weight_floats(in[1])) * 4; }

KERNEL_S(conv_threes_f32) {
  const PostList posts((const char *)attrs + posts_offset, nin > 2 ? in[2] : nullptr, in);
  Threes t{Conv(attrs, in[0], out[0])};
  const Conv &c = t.c;
  if (c.kernel[0] * c.kernel[1] > Tile::most_rows || c.kernel[2] != T || c.stride[2] > 2 || c.pad[2] > 1 || c.reach(2) > c.in[2] + 1 || c.out[2] < few)
    return ctx->api->error(ctx, "[conv] found a kernel of %lld rows by %lld columns; expected at most %lld by three, padded by one; use conv_f32",
                           (long long)(c.kernel[0] * c.kernel[1]), (long long)c.kernel[2], (long long)Tile::most_rows);
  t.M = last_dim(out[0]) / c.groups, t.ldc = row_stride(out[0]), t.y = f32(out[0]);
  t.w = panels(in[1], (float *)ctx->scratch);
  const wnn_post *const post = take_bias_and_clip(t, posts), *const end = posts.post + posts.n;
  // a task: some rows, or a piece of one, group by group, so that a group's weights stay in L1
  constexpr int64_t some_rows = 8;
  const int64_t width = c.out[2], rows = c.N * c.out[0] * c.out[1], threads = ctx->num_threads;
  const int64_t pieces = rows >= 4 * threads ? 1 : max_of(1, min_of(width / (4 * many), 4 * threads));
  const int64_t each = max_of(1, min_of(some_rows, threads == 1 ? rows : rows / (4 * threads)));
  for_tasks(ctx, threads, ceil_div(rows, each) * pieces, [&](int64_t task) {
    const int64_t first = task / pieces * each, last = min_of(rows, first + each), piece = task % pieces;
    const int64_t w0 = width * piece / pieces, w1 = width * (piece + 1) / pieces;
    for (int64_t g = 0; g < c.groups; g++)
      for (int64_t row = first; row < last; row++) t.run(row, w0, w1, g);
    for (int64_t row = first; row < last && post < end; row++)
      post_tile(post, int(end - post), t.y + (row * width + w0) * t.ldc, t.ldc, row * width + w0, nullptr, w1 - w0, 0, t.M * c.groups);
  });
  return 0;
}
#endif
