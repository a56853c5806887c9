// wnn: once
// y = post(conv(x, w) + bias), channels last, 1 to 3 spatial axes, any stride, padding, dilation and groups.
//   x: (N, *spatial, C) f32, rows, or any strides with few channels      w: (groups, taps * C/groups, M/groups) f32, panels of 16 or any strides
//   bias?: (M,)      y: (N, *out spatial, M) f32, rows
//   attrs: ConvAttrs, posts
// A GEMM whose row of A is the taps' rows of x, found through a table of offsets; those of padding lead to a row of zeros.
// Where x has few channels, it is copied with padding first, and a row of taps is then one segment.
#include "conv.h"

namespace {

constexpr int64_t few_channels = 16;

// kernel rows are one segment of kernel width * C
bool runs(const Conv &c) {
  return c.groups == 1 && c.dilation[2] == 1 && c.kernel[2] > 1 && (c.C < few_channels || (!c.padded(2) && c.pixel == c.C));
}
bool dense(const wnn_tensor *x) {
  int64_t step = 1;
  for (int i = x->ndim - 1; i >= 0; step *= x->shape[i--])
    if (x->shape[i] > 1 && x->strides[i] != step) return false;
  return true;
}
bool copies(const Conv &c, const wnn_tensor *x) { return runs(c) && (c.padded(2) || !dense(x)); }
int64_t padded_width(const Conv &c) { return max_of(c.reach(2), c.in[2]) + c.pad[2]; }

// The planes of a picture -> pixels
void interleave(const float *r, const float *g, const float *b, int64_t n, float *to) {
  typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));
  int64_t i = 0;
  for (; i + 4 <= n; i += 4, to += 12) {
    const v4 x = *(const v4 *)(r + i), y = *(const v4 *)(g + i), z = *(const v4 *)(b + i);
    const v4 low = __builtin_shufflevector(x, y, 0, 4, 1, 5), high = __builtin_shufflevector(x, y, 2, 6, 3, 7);
    *(v4 *)to = __builtin_shufflevector(low, z, 0, 1, 4, 2);
    *(v4 *)(to + 4) = __builtin_shufflevector(__builtin_shufflevector(low, z, 3, 5, 3, 5), high, 0, 1, 4, 5);
    *(v4 *)(to + 8) = __builtin_shufflevector(high, z, 6, 2, 3, 7);
  }
  for (; i < n; i++, to += 3) to[0] = r[i], to[1] = g[i], to[2] = b[i];
}

// Copies x, of any strides, into `to` with its padding in width, and makes c the convolution of that
void pad_width(wnn_ctx *ctx, Conv &c, const wnn_tensor *x, float *to) {
  const int64_t W = padded_width(c), C = c.C, rows = c.N * c.in[0] * c.in[1], left = c.pad[2] * C, used = c.in[2] * C;
  const int64_t each = max_of(1, 16384 / max_of(1, W * C)), *s = x->strides;
  const int last = x->ndim - 1;
  for_tasks(ctx, ctx->num_threads, ceil_div(rows, each), [&](int64_t task) {
    for (int64_t i = task * each; i < min_of(rows, (task + 1) * each); i++) {
      const int64_t h = i % c.in[1], d = i / c.in[1] % c.in[0], n = i / c.in[1] / c.in[0];
      const float *from = f32(x) + n * s[0] + (last > 2 ? h * s[last - 2] : 0) + (last > 3 ? d * s[last - 3] : 0);
      float *row = to + i * W * C;
      memset(row, 0, size_t(left) * 4);
      memset(row + left + used, 0, size_t(W * C - left - used) * 4);
      row += left;
      if (s[last - 1] == C && (s[last] == 1 || C == 1)) memcpy(row, from, size_t(used) * 4);
      else if (C == 3 && s[last - 1] == 1) interleave(from, from + s[last], from + 2 * s[last], c.in[2], row);
      else
        for (int64_t ch = 0; ch < C; ch++)
          for (int64_t w = 0; w < c.in[2]; w++) row[w * C + ch] = from[w * s[last - 1] + ch * s[last]];
    }
  });
  c.x = to, c.pixel = C, c.in[2] = W, c.pad[2] = 0;
}

size_t zeros_bytes(const Conv &c) { return size_t(ceil_div(c.C * (runs(c) ? c.kernel[2] : 1), 16)) * 64; }

}  // namespace

SCRATCH(conv_f32) {
  const Conv c(attrs, in[0], out[0]);
  const int64_t padded = copies(c, in[0]) ? c.N * c.in[0] * c.in[1] * padded_width(c) * c.C : 0;
  return zeros_bytes(c) + size_t(weight_floats(in[1]) + padded) * 4;
}

KERNEL_S(conv_f32) {
  Conv c(attrs, in[0], out[0]);
  const PostList posts((const char *)attrs + posts_offset, nin > 2 ? in[2] : nullptr, in);
  float *zeros = (float *)ctx->scratch, *memory = zeros + zeros_bytes(c) / 4, *y = f32(out[0]);
  const float *w = panels(in[1], memory);
  memset(zeros, 0, zeros_bytes(c));
  const bool run = runs(c);
  if (copies(c, in[0])) pad_width(ctx, c, in[0], memory + weight_floats(in[1]));

  const int64_t group_C = c.C / c.groups, group_N = last_dim(out[0]) / c.groups, width_taps = run ? 1 : c.kernel[2];
  const int64_t taps = c.kernel[0] * c.kernel[1] * width_taps, K = c.taps() * group_C;
  const bool rows = c.taps() == 1 && !c.padded(0) && !c.padded(1) && !c.padded(2) && c.stride[0] == 1 && c.stride[1] == 1 && c.stride[2] == 1;
  if (taps > max_table) return ctx->api->error(ctx, "[conv] found %lld taps; expected at most %lld; split the kernel", (long long)taps, (long long)max_table);

  const GemmGrid grid = gemm_grid(c.pixels(), group_N, K, max_of(1, min_of(512, max_table / max_of(1, taps))), ctx->num_threads);
  const int64_t parts = c.groups == 1 ? 1 : min_of(c.groups, ceil_div(4 * ctx->num_threads, grid.tasks()));
  for_tasks(ctx, ctx->num_threads, grid.tasks() * parts, [&](int64_t task) {
    int64_t m0, m1, n0, n1;
    grid.at(task / parts, &m0, &m1, &n0, &n1);
    const int64_t part = task % parts, g0 = c.groups * part / parts, g1 = c.groups * (part + 1) / parts;
    int64_t table[max_table];
    GemmBlock b{};
    b.taps = taps, b.kc = run ? c.kernel[2] * c.C : group_C;
    b.M = m1 - m0, b.n0 = n0, b.n1 = n1, b.row0 = m0, b.ldc = row_stride(out[0]), b.panel = 16 * K;
    if (rows) b.lda = c.pixel;
    else row_table(c, width_taps, apart(zeros, c.x), m0, b.M, table), b.a_rows = table, b.a_step = b.M;
    for (int64_t g = g0; g < g1; g++) {
      const PostList group_posts(posts, g * group_N);
      b.post = group_posts.post, b.n_post = group_posts.n;
      b.a = c.x + (rows ? m0 * c.pixel : 0) + g * group_C, b.b = w + g * panel_floats(K, group_N), b.c = y + g * group_N;
      gemm_block(b);
    }
  });
  return 0;
}
