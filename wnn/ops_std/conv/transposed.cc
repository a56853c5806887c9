// wnn: once
// y = post(transposed conv(x, w) + bias), channels last, 1 to 3 spatial axes.
//   x: (N, *spatial, C) f32, rows      w: (groups, taps * C/groups, M/groups) f32, panels of 16 or any strides
//   bias?: (M,)      y: (N, *out spatial, M) f32, rows
//   attrs: ConvAttrs, posts
// Outputs whose coordinates agree modulo the strides take the same taps: each such phase is a stride-1 convolution, a GEMM over
// a table of offsets whose rows are scattered over y. Every output is written once.
// Where kernels lie side by side (kernel = stride, no pads), an input row gives whole output rows: products without tables.
#include "conv.h"

namespace {

// The taps of one axis that reach outputs o with (o + pad) % stride == phase, and those outputs: first + i * stride
struct Axis {
  int64_t taps[256], n_taps = 0, first, outputs;

  Axis(const Conv &c, int i, int64_t size, int64_t phase) {
    for (int64_t k = 0; k < c.kernel[i]; k++)
      if (k * c.dilation[i] % c.stride[i] == phase) taps[n_taps++] = k;
    first = (phase - c.pad[i] % c.stride[i] + c.stride[i]) % c.stride[i];
    outputs = first >= size ? 0 : ceil_div(size - first, c.stride[i]);
  }
};

struct Phase {
  const Conv &c;      // of x; `out` is y's size
  Axis d, h, w;
  int64_t taps() const { return d.n_taps * h.n_taps * w.n_taps; }
  int64_t pixels() const { return c.N * d.outputs * h.outputs * w.outputs; }

  // Tables of the outputs m0 .. m0 + M: where each tap's input is, and the row of y
  void fill(int64_t zeros, int64_t m0, int64_t M, int64_t *a, int32_t *rows) const {
    for (int64_t m = 0; m < M; m++) {
      int64_t i = m0 + m;
      const int64_t ow = w.first + i % w.outputs * c.stride[2];
      i /= w.outputs;
      const int64_t oh = h.first + i % h.outputs * c.stride[1];
      i /= h.outputs;
      const int64_t od = d.first + i % d.outputs * c.stride[0], n = i / d.outputs;
      rows[m] = int32_t(((n * c.out[0] + od) * c.out[1] + oh) * c.out[2] + ow);
      int64_t *p = a + m;
      for (int64_t x = 0; x < d.n_taps; x++)
        for (int64_t y = 0; y < h.n_taps; y++)
          for (int64_t z = 0; z < w.n_taps; z++, p += M) {
            const int64_t id = od + c.pad[0] - d.taps[x] * c.dilation[0], ih = oh + c.pad[1] - h.taps[y] * c.dilation[1];
            const int64_t iw = ow + c.pad[2] - w.taps[z] * c.dilation[2];
            const bool in = id >= 0 && ih >= 0 && iw >= 0 && id < c.in[0] * c.stride[0] && ih < c.in[1] * c.stride[1] && iw < c.in[2] * c.stride[2];
            *p = in ? (((n * c.in[0] + id / c.stride[0]) * c.in[1] + ih / c.stride[1]) * c.in[2] + iw / c.stride[2]) * c.pixel : zeros;
          }
    }
  }
};

bool side_by_side(const Conv &c) {
  for (int i = 0; i < 3; i++)
    if (c.kernel[i] != c.stride[i] || c.dilation[i] != 1 || c.pad[i] || c.out[i] != c.in[i] * c.stride[i]) return false;
  return c.groups == 1;
}
bool by_pixel(const wnn_post &p) { return p.kind == WNN_POST_ADD || p.kind == WNN_POST_MUL; }

// Of the columns of a kernel row: one product takes them all, or each tap by itself, as weights lie: where a tap has several panels
// to itself, or pixels lie apart
struct Columns {
  int64_t M, N, panel;  // channels; columns of a kernel row; floats of its weights
  bool whole, packed;   // each tap by itself; weights have to be arranged: those of one panel to a tap lie as they should
  Columns(const Conv &c, int64_t m, bool apart) : M(m), N(c.kernel[2] * m), panel(panel_floats(c.C, N)), whole(apart || (M % 16 == 0 && M > 16)), packed(M % 16 && !whole) {}
  size_t floats(const Conv &c) const { return size_t(PostList::most * ceil_div(N, 16) * 16 + (packed ? c.kernel[0] * c.kernel[1] * panel : 0)); }
};

void run_side_by_side(wnn_ctx *ctx, const Conv &c, const PostList &posts, const float *w, float *y, int64_t ld, int64_t M, float *memory) {
  bool apart = ld != M;
  for (int i = 0; i < posts.n; i++) apart = apart || (by_pixel(posts.post[i]) && posts.post[i].ld != M);
  const Columns columns(c, M, apart);
  const int64_t N = columns.N, K = c.taps() * c.C, kernel_rows = c.kernel[0] * c.kernel[1];
  PostList wide = posts;
  for (wnn_post *p = wide.post; p < wide.post + wide.n; p++) {
    if (by_pixel(*p)) p->ld *= c.kernel[2];
    if (!p->data || by_pixel(*p) || columns.whole) continue;
    for (int64_t n = 0; n < N; n++) memory[n] = p->data[n % M];
    p->data = memory, memory += ceil_div(N, 16) * 16;
  }
  if (columns.packed)
    for (int64_t row = 0; row < kernel_rows; row++)
      for (int64_t n = 0; n < columns.panel / c.C; n++) {
        const int64_t m = n % M, tap = row * c.kernel[2] + n / M;
        float *const to = memory + row * columns.panel + n / 16 * 16 * c.C + n % 16;
        for (int64_t k = 0; k < c.C; k++) to[16 * k] = n < N ? w[m / 16 * 16 * K + 16 * (tap * c.C + k) + m % 16] : 0;
      }
  const int64_t in_rows = c.N * c.in[0] * c.in[1], each = max_of(1, (1 << 19) / max_of(1, c.in[2] * K * M));
  for_tasks(ctx, ctx->num_threads, ceil_div(in_rows, each), [&](int64_t task) {
    for (int64_t i = task * each; i < min_of(in_rows, (task + 1) * each); i++)
      for (int64_t row = 0; row < kernel_rows; row++) {
        const int64_t plane = i / c.in[1] * c.kernel[0] + row / c.kernel[1], line = i % c.in[1] * c.kernel[1] + row % c.kernel[1];
        for (int64_t tap = 0; tap < (columns.whole ? c.kernel[2] : 1); tap++) {
          PostList own = wide;
          for (int p = 0; p < own.n; p++)
            if (by_pixel(own.post[p])) own.post[p].data += tap * posts.post[p].ld;
          GemmBlock b{};
          b.a = c.x + i * c.in[2] * c.pixel, b.lda = c.pixel, b.taps = 1, b.kc = c.C, b.M = c.in[2];
          b.b = columns.packed ? memory + row * columns.panel : w + 16 * (row * c.kernel[2] + tap) * c.C, b.panel = 16 * (columns.whole ? K : c.C);
          b.c = y + tap * ld, b.ldc = c.kernel[2] * ld, b.row0 = (plane * c.out[1] + line) * c.in[2], b.n1 = columns.whole ? M : N;
          b.post = own.post, b.n_post = own.n;
          gemm_block(b);
        }
      }
  });
}

}  // namespace

SCRATCH(conv_transpose_f32) {
  const Conv c(attrs, in[0], out[0]);
  const size_t more = side_by_side(c) ? Columns(c, last_dim(out[0]), false).floats(c) : 0;
  return zeros_bytes(c.C) + (size_t(weight_floats(in[1])) + more) * 4;
}

KERNEL_S(conv_transpose_f32) {
  const Conv c(attrs, in[0], out[0]);
  const PostList posts((const char *)attrs + posts_offset, nin > 2 ? in[2] : nullptr, in);
  constexpr int64_t max_taps = 1024;
  if (c.kernel[0] > 256 || c.kernel[1] > 256 || c.kernel[2] > 256 || c.taps() > max_taps)
    return ctx->api->error(ctx, "[conv_transpose] found %lld taps; expected at most %lld; split the kernel", (long long)c.taps(), (long long)max_taps);
  float *zeros = (float *)ctx->scratch;
  memset(zeros, 0, zeros_bytes(c.C));
  const float *weights = panels(in[1], zeros + zeros_bytes(c.C) / 4);
  if (side_by_side(c))
    return run_side_by_side(ctx, c, posts, weights, f32(out[0]), row_stride(out[0]), last_dim(out[0]), zeros + zeros_bytes(c.C) / 4 + weight_floats(in[1])), 0;
  const int64_t group_C = c.C / c.groups, group_N = last_dim(out[0]) / c.groups, K = c.taps() * group_C;

  for (int64_t phase = 0; phase < c.stride[0] * c.stride[1] * c.stride[2]; phase++) {
    const Phase p{c, Axis(c, 0, c.out[0], phase / c.stride[2] / c.stride[1]), Axis(c, 1, c.out[1], phase / c.stride[2] % c.stride[1]),
                  Axis(c, 2, c.out[2], phase % c.stride[2])};
    int64_t b_rows[max_taps], taps = 0;
    for (int64_t x = 0; x < p.d.n_taps; x++)
      for (int64_t y = 0; y < p.h.n_taps; y++)
        for (int64_t z = 0; z < p.w.n_taps; z++)
          b_rows[taps++] = ((p.d.taps[x] * c.kernel[1] + p.h.taps[y]) * c.kernel[2] + p.w.taps[z]) * group_C;
    const GemmGrid grid = gemm_grid(p.pixels(), group_N, taps * group_C, min_of(512, max_table / max_of(1, taps)), ctx->num_threads);
    for_tasks(ctx, ctx->num_threads, grid.tasks(), [&](int64_t task) {
      int64_t table[max_table];
      int32_t rows[512];
      int64_t m0, m1;
      GemmBlock b{};
      grid.at(task, &m0, &m1, &b.n0, &b.n1);
      p.fill(apart(zeros, c.x), m0, m1 - m0, table, rows);
      b.a_rows = table, b.a_step = b.M = m1 - m0, b.taps = taps, b.kc = taps ? group_C : 0, b.b_rows = b_rows;
      b.rows = rows, b.ldc = row_stride(out[0]), b.panel = 16 * K;
      for (int64_t g = 0; g < c.groups; g++) {
        const PostList group_posts(posts, g * group_N);
        b.post = group_posts.post, b.n_post = group_posts.n;
        b.a = c.x + g * group_C, b.b = weights + g * panel_floats(K, group_N), b.c = f32(out[0]) + g * group_N;
        gemm_block(b);
      }
    });
  }
  return 0;
}
