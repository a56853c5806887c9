// wnn: wide
// y = post(conv(x, w) + bias) of groups of 2, 4 or 8 outputs from at most as many inputs each, channels last, any geometry.
//   x: (N, *spatial, C) f32, rows      w: not read      bias?: (M,)      y: (N, *out spatial, M) f32, rows, M at least 16
//   attrs: ConvAttrs, posts            last input: w as (taps, C/groups, M)
// A vector of outputs takes whole groups. Their inputs lie in one vector, too: a permutation gives each output the j-th of its
// group, and no sum is made in vain, where products of 16 columns would make 2 to 8 times as many.
#include "conv.h"

namespace {

constexpr int P = L == 16 ? 8 : 6;  // output pixels that fit in registers with their inputs

struct Row {
  const Conv *c;
  int64_t M, group_C, group_M, ldc, kernel_rows;
  const float *w, *bias, *x[most_rows], *w_row[most_rows];
  float *y;
  float lo = -INFINITY, hi = INFINITY;
};

// x's lanes by number
WNN_INLINE vf permuted(vf x, vi at) {
#if WNN_ISA == 2
  return (vf)_mm512_permutexvar_ps((__m512i)at, (__m512)x);
#elif WNN_ISA == 1
  return (vf)_mm256_permutevar8x32_ps((__m256)x, (__m256i)at);
#else
  vf y;
  for (int l = 0; l < L; l++) y[l] = x[at[l]];
  return y;
#endif
}

// T output pixels from ow on, a vector of channels from ch on, taps [k0, k1) of each kernel row
template <int T> void tile(const Row &row, int64_t ow, int64_t ch, int64_t k0, int64_t k1) {
  const Conv &c = *row.c;
  const int64_t pixel = c.pixel * c.stride[2], x_step = c.dilation[2] * c.pixel, first_C = ch / row.group_M * row.group_C;
  const int64_t first = (ow * c.stride[2] - c.pad[2] + k0 * c.dilation[2]) * c.pixel + first_C, lanes = L / row.group_M * row.group_C;
  vi start;
  for (int l = 0; l < L; l++) start[l] = int32_t(l / row.group_M * row.group_C);
  vf acc[T];
#pragma GCC unroll 8
  for (int p = 0; p < T; p++) acc[p] = row.bias ? load(row.bias + ch) : vf{};
  for (int64_t kh = 0; kh < row.kernel_rows; kh++) {
    const float *x = row.x[kh] + first, *w = row.w_row[kh] + k0 * row.group_C * row.M + ch;
    for (int64_t k = k0; k < k1; k++, x += x_step) {
      vf xv[T];
#pragma GCC unroll 8
      for (int p = 0; p < T; p++) xv[p] = held(load_n(x + p * pixel, lanes));
      vi at = start;
      for (int64_t j = 0; j < row.group_C; j++, at += 1, w += row.M) {
        const vf wv = load(w);
#pragma GCC unroll 8
        for (int p = 0; p < T; p++) acc[p] += wv * permuted(xv[p], at);
      }
    }
  }
  const float lo = row.lo, hi = row.hi;
#pragma GCC unroll 8
  for (int p = 0; p < T; p++) store(row.y + (ow + p) * row.ldc + ch, clamp(acc[p], lo, hi));
}

// Output pixels [w0, w1): those whose windows are whole by P, the last of which may cover some once more, the others by one
void stretch(const Row &row, int64_t w0, int64_t w1) {
  const Conv &c = *row.c;
  int64_t begin, end;
  inside(w0 * c.stride[2] - c.pad[2], c.stride[2], c.in[2] - (c.kernel[2] - 1) * c.dilation[2], w1 - w0, &begin, &end);
  const int64_t pixels = end - begin >= P ? P : 1;
  for (int64_t from = 0; from < row.M; from += L) {
    const int64_t ch = min_of(from, row.M - L);
    for (int64_t w = begin; w < end; w += pixels) (pixels == P ? tile<P> : tile<1>)(row, w0 + min_of(w, end - pixels), ch, 0, c.kernel[2]);
    const auto edge = [&](int64_t w, int64_t last) {
      for (; w < last; w++) {
        int64_t k0, k1;
        inside(w * c.stride[2] - c.pad[2], c.dilation[2], c.in[2], c.kernel[2], &k0, &k1);
        tile<1>(row, w, ch, k0, k1);
      }
    };
    edge(w0, w0 + begin), edge(w0 + end, w1);
  }
}

}  // namespace

KERNEL(conv_grouped_f32) {
  const Conv c(attrs, in[0], out[0]);
  const PostList posts((const char *)attrs + posts_offset, nin > 3 ? in[2] : nullptr, in);
  if (c.kernel[0] * c.kernel[1] > most_rows)
    return ctx->api->error(ctx, "[conv] found a grouped kernel of %lld rows; expected at most %d; split the kernel", (long long)(c.kernel[0] * c.kernel[1]), most_rows);
  const int64_t M = last_dim(out[0]), rows = c.N * c.out[0] * c.out[1], width = c.out[2];
  Row shared{};
  shared.c = &c, shared.M = M, shared.group_C = c.C / c.groups, shared.group_M = M / c.groups;
  shared.ldc = row_stride(out[0]), shared.w = f32(in[nin - 1]);
  const wnn_post *const post = take_bias_and_clip(shared, posts), *const end = posts.post + posts.n;

  const int64_t work = max_of(1, width * M * shared.group_C * c.taps());
  const int64_t pieces = rows >= 4 * ctx->num_threads ? 1 : max_of(1, min_of(width / 16, min_of(work >> 17, 8 * ctx->num_threads)));
  for_tasks(ctx, rows * work < 1 << 17 ? 1 : ctx->num_threads, rows * pieces, [&](int64_t task) {
    const int64_t index = task / pieces, w0 = width * (task % pieces) / pieces, w1 = width * (task % pieces + 1) / pieces;
    Row row = shared;
    kernel_rows(c, index, [&](int64_t in_row, int64_t kernel_row) {
      row.x[row.kernel_rows] = c.x + in_row * c.in[2] * c.pixel;
      row.w_row[row.kernel_rows++] = row.w + kernel_row * c.kernel[2] * row.group_C * M;
    });
    row.y = f32(out[0]) + index * width * row.ldc;
    stretch(row, w0, w1);
    post_tile(post, int(end - post), f32(out[0]) + (index * width + w0) * row.ldc, row.ldc, index * width + w0, nullptr, w1 - w0, 0, M);
  });
  return 0;
}
