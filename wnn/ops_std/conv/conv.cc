// wnn: once
// y = post(conv(x, w) + bias), channels last, 1 to 3 spatial axes, any stride, padding, dilation and groups.
//   x: (N, *spatial, C) f32, rows, or any strides with few channels      w: (groups, taps * C/groups, M/groups) f32, panels of 16 or any strides
//   bias?: (M,)      y: (N, *out spatial, M) f32, rows
//   attrs: ConvAttrs, posts
// A GEMM whose row of A is the taps' rows of x, found through a table of offsets; those of padding lead to a row of zeros.
// Taps that are padding for many rows are left out there: of large dilations, of small pictures.
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
      else if (C == 3 && s[last - 1] == 1) wnn_interleave(from, from + s[last], from + 2 * s[last], c.in[2], row);
      else
        for (int64_t ch = 0; ch < C; ch++)
          for (int64_t w = 0; w < c.in[2]; w++) row[w * C + ch] = from[w * s[last - 1] + ch * s[last]];
    }
  });
  c.x = to, c.pixel = C, c.in[2] = W, c.pad[2] = 0;
}

// The taps that are padding for some output only
Taps live_taps(const Conv &c, bool run) {
  Taps t = {0, c.kernel[0], 0, c.kernel[1], 0, run ? 1 : c.kernel[2]};
  const auto dead = [&](int64_t kw) {
    int64_t begin, end;
    inside(kw * c.dilation[2] - c.pad[2], c.stride[2], c.in[2], c.out[2], &begin, &end);
    return begin == end;
  };
  while (!run && t.w0 < t.w1 && dead(t.w0)) t.w0++;
  while (!run && t.w0 < t.w1 && dead(t.w1 - 1)) t.w1--;
  return t;
}

// f(from, to, taps) for parts of the outputs [m0, m1), each with the taps that are not all padding there; or for all at once, where
// that takes as long. Reading a tap's weights takes as long as its products for 8 outputs; a part of fewer takes as long as one of 8.
template <class F> void each_part(const Conv &c, const Taps &all, int64_t m0, int64_t m1, F f) {
  if (!c.padded(0) && !c.padded(1)) return f(m0, m1, all);
  const auto parts = [&](auto g) {
    for (int64_t m = m0, end; m < m1; m = end) {
      const Taps t = within(c, all, m / c.out[2]);
      for (end = (m / c.out[2] + 1) * c.out[2]; end < m1 && within(c, all, end / c.out[2]) == t;) end += c.out[2];
      g(m, end = min_of(end, m1), t);
    }
  };
  int64_t cost = 0;
  parts([&](int64_t from, int64_t to, const Taps &t) { cost += t.count() * max_of(to - from + 8, 16); });
  if (cost * 20 < all.count() * max_of(m1 - m0 + 8, 16) * 19) parts(f);
  else f(m0, m1, all);
}

size_t zeros_bytes(const Conv &c) { return zeros_bytes(c.C * (runs(c) ? c.kernel[2] : 1)); }

}  // namespace

ConvSizes conv_sizes(const void *attrs, const wnn_tensor *tx, const wnn_tensor *ty) {
  const ConvAttrs a = attr<ConvAttrs>(attrs, 0);
  const int spatial = tx->ndim - 2;
  ConvSizes c;
  c.N = tx->shape[0], c.C = last_dim(tx), c.groups = a.groups, c.pixel = row_stride(tx), c.x = f32(tx);
  for (int i = 0; i < 3; i++) {
    const int axis = i - 3 + spatial;
    c.in[i] = axis < 0 ? 1 : tx->shape[1 + axis], c.out[i] = axis < 0 ? 1 : ty->shape[1 + axis];
    c.kernel[i] = a.kernel[i], c.stride[i] = a.stride[i], c.pad[i] = a.pad[i], c.dilation[i] = a.dilation[i];
  }
  return c;
}

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

  const int64_t group_C = c.C / c.groups, group_N = last_dim(out[0]) / c.groups, K = c.taps() * group_C, kc = run ? c.kernel[2] * c.C : group_C;
  const Taps all = live_taps(c, run);
  const int64_t width_taps = run ? 1 : c.kernel[2], taps = c.kernel[0] * c.kernel[1] * width_taps;
  const bool rows = c.taps() == 1 && !c.padded(0) && !c.padded(1) && !c.padded(2) && c.stride[0] == 1 && c.stride[1] == 1 && c.stride[2] == 1;
  if (taps > max_table) return ctx->api->error(ctx, "[conv] found %lld taps; expected at most %lld; split the kernel", (long long)taps, (long long)max_table);

  const GemmGrid grid = gemm_grid(c.pixels(), group_N, K, max_of(1, min_of(512, max_table / max_of(1, taps))), ctx->num_threads);
  const int64_t parts = c.groups == 1 ? 1 : min_of(c.groups, ceil_div(4 * ctx->num_threads, grid.tasks()));
  for_tasks(ctx, ctx->num_threads, grid.tasks() * parts, [&](int64_t task) {
    int64_t m0, m1;
    GemmBlock b{};
    grid.at(task / parts, &m0, &m1, &b.n0, &b.n1);
    const int64_t part = task % parts, g0 = c.groups * part / parts, g1 = c.groups * (part + 1) / parts;
    int64_t table[max_table], b_rows[max_table];
    b.ldc = row_stride(out[0]), b.panel = 16 * K;
    const auto run_part = [&](int64_t from, int64_t to, const Taps &t) {
      b.M = to - from, b.row0 = from, b.taps = t.count(), b.kc = b.taps ? kc : 0;
      if (rows) b.lda = c.pixel;
      else row_table(c, t, apart(zeros, c.x), from, b.M, table), b.a_rows = table, b.a_step = b.M;
      int64_t n = 0;
      for (int64_t kd = t.d0; kd < t.d1; kd++)
        for (int64_t kh = t.h0; kh < t.h1; kh++)
          for (int64_t kw = t.w0; kw < t.w1; kw++) b_rows[n++] = ((kd * c.kernel[1] + kh) * width_taps + kw) * kc;
      const bool adjoin = !n || b_rows[n - 1] - b_rows[0] == (n - 1) * kc;
      b.b_rows = adjoin ? nullptr : b_rows;
      for (int64_t g = g0; g < g1; g++) {
        const PostList group_posts(posts, g * group_N);
        b.post = group_posts.post, b.n_post = group_posts.n;
        b.a = c.x + (rows ? from * c.pixel : 0) + g * group_C, b.c = y + g * group_N;
        b.b = w + g * panel_floats(K, group_N) + (adjoin && n ? 16 * b_rows[0] : 0);
        gemm_block(b);
      }
    };
    each_part(c, all, m0, m1, run_part);
  });
  return 0;
}
