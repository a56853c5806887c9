// wnn: wide inline
// The convolution of conv.cc along one spatial axis alone, at stride 1, without groups, by Winograd's F(4, 3):
//   Y = A' sum over c of (G g) * (B' d)      for tiles of 4 outputs Y and 6 inputs d, as far apart as the kernel's taps
// A longer kernel is a sum of such ones, three taps each, the last filled with zeros: the six GEMMs have as many times C columns.
#include "winograd.h"

namespace {

using namespace WNN_ISA_SPACE(WNN_ISA);

constexpr int parts = 6;

// A stretch is what 4 * dilation outputs in a row are made of: a tile for each of the first ones. As in winograd.cc, where all
// transformed weights fit into L2 they are made first and shared by tasks that are blocks of stretches; else the transformed inputs
// of a block are, and tasks are chunks of columns, which make weights of three parts at a time.
struct Winograd1d {
  Conv c;
  int64_t N, threes, K, dilation, stretches_w, stretches, block, chunk;
  int64_t in_row, in_step, sum_step, weight_step;  // floats from a tile to the next, from a part to the next
  bool weights_shared;
  const float *zeros = nullptr;

  Winograd1d(const void *attrs, const wnn_tensor *x, const wnn_tensor *y, int threads) : c(attrs, x, y), N(last_dim(y)) {
    constexpr int64_t weights_floats = 160 << 10, block_floats = 160 << 10, chunk_floats = 144 << 10, inputs_floats = 1 << 20;
    int axis = 2;
    for (; axis > 0 && c.kernel[axis] == 1; axis--);
    // a column of pixels is a row with a dilation
    const int64_t inner = axis == 0 ? c.out[1] * c.out[2] : axis == 1 ? c.out[2] : 1;
    c.kernel[2] = c.kernel[axis], dilation = c.dilation[axis] * inner, c.pad[2] = c.pad[axis] * inner;
    c.in[2] = c.in[axis] * inner, c.out[2] = c.out[axis] * inner;
    threes = ceil_div(c.kernel[2], 3), K = threes * c.C;
    in_row = K % 1024 ? K : K + 16;  // not by 4096 bytes
    stretches_w = ceil_div(c.out[2], 4 * dilation), stretches = c.N * (axis > 0 ? c.out[0] : 1) * (axis > 1 ? c.out[1] : 1) * stretches_w;
    const int64_t all = ceil_div(N, 16) * 16;
    weights_shared = parts * K * all <= weights_floats;
    if (weights_shared) {
      chunk = all;
      block = max_of(1, max_of(28, block_floats / (parts * (in_row + all))) / dilation);
      block = ceil_div(stretches, ceil_div(ceil_div(stretches, block), threads) * threads);  // as many for each thread
    } else {
      chunk = min_of(all, max_of(32, chunk_floats / (3 * K) / 32 * 32));
      block = ceil_div(stretches, ceil_div(stretches, max_of(1, inputs_floats / (parts * in_row) / dilation)));
    }
    in_step = block * dilation * in_row + 16, sum_step = block * dilation * chunk + 16, weight_step = chunk * K + 16;
  }
  int64_t inputs() const { return parts * in_step; }
  int64_t weights() const { return (weights_shared ? parts : 3) * weight_step; }
  int64_t shared() const { return weights_shared ? weights() : inputs(); }
  int64_t own() const { return (weights_shared ? inputs() : weights()) + parts * sum_step; }

  // A panel, of three parts -> to
  void transform_weights(const float *w, int first, float *to) const {
    const int64_t tap = 16 * c.C, step = weight_step, taps = c.kernel[2];
    for (int64_t k = 0; k < taps; k += 3, w += 3 * tap, to += tap)
      for (int64_t at = 0; at < tap; at += L) {
        vf out[parts];
        weight_1d(load(w + at), k + 1 < taps ? load(w + tap + at) : vf{}, k + 2 < taps ? load(w + 2 * tap + at) : vf{}, out);
#pragma GCC unroll 3
        for (int p = 0; p < 3; p++) store(to + p * step + at, first ? out[3 + p] : out[p]);
      }
  }

  // The tiles of a stretch -> to[part][tile][threes][C]
  void transform_inputs(int64_t stretch, float *to) const {
    const float *const row = c.x + stretch / stretches_w * c.in[2] * c.pixel;
    const int64_t first = stretch % stretches_w * 4 * dilation - c.pad[2], C = c.C, step = in_step;
    for (int64_t i = first; i < first + dilation; i++, to += in_row)
      for (int64_t three = 0; three < threes; three++) {
        const float *x[parts];
#pragma GCC unroll 6
        for (int64_t j = 0; j < parts; j++) {
          const int64_t at = i + (3 * three + j) * dilation;
          x[j] = uint64_t(at) < uint64_t(c.in[2]) ? row + at * c.pixel : zeros;
        }
        float *const v = to + three * C;
        vectors(C, [=](int64_t ch, int64_t count) {
          vf d[parts], out[parts];
#pragma GCC unroll 6
          for (int j = 0; j < parts; j++) d[j] = load_upto(x[j] + ch, count);
          input_1d(d[0], d[1], d[2], d[3], d[4], d[5], out, 1);
#pragma GCC unroll 6
          for (int p = 0; p < parts; p++) store_upto(v + p * step + ch, out[p], count);
        });
      }
  }

  // Some parts, the first of them in `weights`
  void multiply(int first, int n_parts, const float *inputs, const float *weights, int64_t count, int64_t columns, float *sums) const {
    GemmBlock g{};
    g.lda = in_row, g.taps = 1, g.kc = K, g.panel = 16 * K, g.ldc = chunk, g.M = count * dilation, g.n1 = columns;
    for (int p = first; p < first + n_parts; p++) {
      g.a = inputs + p * in_step, g.b = weights + (p - first) * weight_step, g.c = sums + p * sum_step;
      gemm_block(g);
    }
  }

  // from[part][tile][columns from n on] of a stretch -> y
  void transform_sums(const float *from, int64_t stretch, int64_t n, int64_t columns, float *y, int64_t ldc, const PostList &posts) const {
    const wnn_post *post = posts.post, *const end = post + posts.n;
    const float *const bias = post < end && post->kind == WNN_POST_BIAS ? post++->data + n : nullptr;
    float lo = -INFINITY, hi = INFINITY;
    if (post < end && post->kind == WNN_POST_RELU) lo = 0, post++;
    else if (post < end && post->kind == WNN_POST_CLIP) lo = post->a, hi = post++->b;
    const int64_t first = stretch % stretches_w * 4 * dilation, pixel = stretch / stretches_w * c.out[2] + first, left = c.out[2] - first;
    const int64_t tiles = dilation, step = sum_step;
    float *to = y + pixel * ldc + n;
    for (int64_t i = 0; i < min_of(tiles, left); i++, from += chunk, to += ldc)
      vectors(columns, [=](int64_t ch, int64_t count) {
        const float *m = from + ch;
        const vf start = bias ? load_upto(bias + ch, count) : vf{};
        vf out[4];
        output_1d(load(m), load(m + step), load(m + 2 * step), load(m + 3 * step), load(m + 4 * step), load(m + 5 * step), out, 1);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
          if (i + j * tiles < left) store_upto(to + j * tiles * ldc + ch, clamp(out[j] + start, lo, hi), count);
      });
    if (post < end) post_tile(post, int(end - post), y + pixel * ldc + n, ldc, pixel, nullptr, min_of(4 * dilation, left), n, columns);
  }
};

}  // namespace

SCRATCH(conv_winograd_1d_f32) {
  const Winograd1d p(attrs, in[0], out[0], num_threads);
  return zeros_bytes(p.c.C) + size_t(weight_floats(in[1]) + p.shared() + p.own() * num_threads) * 4;
}

KERNEL_S(conv_winograd_1d_f32) {
  Winograd1d p(attrs, in[0], out[0], ctx->num_threads);
  const PostList posts((const char *)attrs + posts_offset, nin > 2 ? in[2] : nullptr, in);
  float *const zeros = (float *)ctx->scratch, *const plain = zeros + zeros_bytes(p.c.C) / 4, *const shared = plain + weight_floats(in[1]);
  float *const first = shared + p.shared(), *const y = f32(out[0]);
  memset(zeros, 0, zeros_bytes(p.c.C));
  p.zeros = zeros;
  const float *const w = panels(in[1], plain);
  const int64_t ldc = row_stride(out[0]), threads = ctx->num_threads, tiles = p.dilation, panel = 16 * p.c.kernel[2] * p.c.C;

  if (p.weights_shared) {
    for_tasks(ctx, threads, ceil_div(p.N, 16), [&](int64_t j) {
      for (int part = 0; part < parts; part += 3) p.transform_weights(w + j * panel, part, shared + part * p.weight_step + j * 16 * p.K);
    });
    parallel_for(ctx, ceil_div(p.stretches, p.block), [&](int64_t i, int worker) {
      float *const inputs = first + worker * p.own(), *const sums = inputs + p.inputs();
      const int64_t s0 = i * p.block, count = min_of(p.block, p.stretches - s0);
      for (int64_t s = 0; s < count; s++) p.transform_inputs(s0 + s, inputs + s * tiles * p.in_row);
      p.multiply(0, parts, inputs, shared, count, p.N, sums);
      for (int64_t s = 0; s < count; s++) p.transform_sums(sums + s * tiles * p.chunk, s0 + s, 0, p.N, y, ldc, posts);
    });
    return 0;
  }
  for (int64_t s0 = 0; s0 < p.stretches; s0 += p.block) {
    const int64_t count = min_of(p.block, p.stretches - s0);
    for_tasks(ctx, threads, count, [&](int64_t s) { p.transform_inputs(s0 + s, shared + s * tiles * p.in_row); });
    parallel_for(ctx, ceil_div(p.N, p.chunk), [&](int64_t i, int worker) {
      float *const weights = first + worker * p.own(), *const sums = weights + p.weights();
      const int64_t n = i * p.chunk, columns = min_of(p.chunk, p.N - n);
      for (int part = 0; part < parts; part += 3) {
        for (int64_t j = 0; j < columns; j += 16) p.transform_weights(w + (n + j) / 16 * panel, part, weights + j * p.K);
        p.multiply(part, 3, shared, weights, count, columns, sums);
      }
      for (int64_t s = 0; s < count; s++) p.transform_sums(sums + s * tiles * p.chunk, s0 + s, n, columns, y, ldc, posts);
    });
  }
  return 0;
}
