// wnn: wide inline
// The convolution of conv.cc for 3x3 kernels at stride 1, without dilation or groups, by Winograd's F(4x4, 3x3):
//   Y = A' [sum over c of (G g G') * (B' d B)] A      for tiles of 6x6 inputs d and 4x4 outputs Y
// Lavin and Gray 2016 (arXiv:1509.09308). The sums are 36 GEMMs. Weights are transformed anew in each call: reading them transformed, four
// times the size, takes longer wherever they are large.
#include "winograd.h"

namespace {

using namespace WNN_ISA_SPACE(WNN_ISA);

constexpr int parts = 36;

// Tiles are worked on in blocks, output channels in chunks. Where all transformed weights fit into L2 they are made first and
// shared by tasks that are blocks; else the transformed inputs of a block are, and tasks are chunks, which make weights of six
// parts at a time.
struct Winograd {
  Conv c;
  int64_t N, tiles_h, tiles_w, tiles, block, chunk;
  bool weights_shared;
  const float *zeros = nullptr;

  Winograd(const void *attrs, const wnn_tensor *x, const wnn_tensor *y, int threads) : c(attrs, x, y), N(last_dim(y)) {
    constexpr int64_t weights_floats = 300 << 10, row_floats = 64 << 10, block_floats = 256 << 10, inputs_floats = 1 << 20, sums_floats = 256 << 10;
    tiles_h = ceil_div(c.out[1], 4), tiles_w = ceil_div(c.out[2], 4), tiles = c.N * tiles_h * tiles_w;
    const int64_t all = ceil_div(N, 16) * 16;
    weights_shared = parts * c.C * all <= weights_floats;
    if (weights_shared) {
      chunk = all;
      block = min_of(block_floats / (parts * (c.C + all)), ceil_div(tiles, 4 * threads - 3));
      block = max_of(14, min_of(block, 112));
      block = ceil_div(tiles, ceil_div(ceil_div(tiles, block), threads) * threads);  // as many for each thread
    } else {
      chunk = min_of(all, max_of(16, row_floats / (6 * c.C) / 16 * 16));
      block = max_of(14, min_of(inputs_floats / (parts * c.C), sums_floats / (parts * chunk)));
    }
    block = max_of(1, min_of(block, tiles));
  }
  // Floats from one of the 36 matrices to the next: never a multiple of 4096 bytes
  int64_t inputs_step() const { return ceil_div(block * c.C, 16) * 16 + 16; }
  int64_t weights_step() const { return chunk * c.C + 16; }
  int64_t sums_step() const { return block * chunk + 16; }
  int64_t inputs() const { return parts * inputs_step(); }
  int64_t weights() const { return (weights_shared ? parts : 6) * weights_step(); }
  int64_t sums() const { return parts * sums_step(); }
  int64_t shared() const { return weights_shared ? weights() : inputs(); }
  int64_t own() const { return (weights_shared ? inputs() : weights()) + sums(); }

  // Tiles t0 .. t1 -> to[part][t - t0][C]
  void transform_inputs(int64_t t0, int64_t t1, float *to) const {
    for (int64_t t = t0; t < t1; t++, to += c.C) {
      const int64_t iw = t % tiles_w * 4 - c.pad[2], ih = t / tiles_w % tiles_h * 4 - c.pad[1], n = t / tiles_w / tiles_h;
      const float *x[parts];
      for (int64_t i = 0; i < 6; i++) {
        const float *const row = c.x + ((n * c.in[1] + ih + i) * c.in[2] + iw) * c.pixel;
        const bool in = ih + i >= 0 && ih + i < c.in[1];
#pragma GCC unroll 6
        for (int64_t j = 0; j < 6; j++) x[6 * i + j] = in && uint64_t(iw + j) < uint64_t(c.in[2]) ? row + j * c.pixel : zeros;
      }
      vectors(c.C, [&](int64_t ch, int64_t count) {
        vf rows[parts], out[parts];
        for (int j = 0; j < 6; j++)
          input_1d(load_upto(x[j] + ch, count), load_upto(x[6 + j] + ch, count), load_upto(x[12 + j] + ch, count), load_upto(x[18 + j] + ch, count),
                   load_upto(x[24 + j] + ch, count), load_upto(x[30 + j] + ch, count), rows + j, 6);
        for (int i = 0; i < parts; i += 6) {
          input_1d(rows[i], rows[i + 1], rows[i + 2], rows[i + 3], rows[i + 4], rows[i + 5], out, 1);
#pragma GCC unroll 6
          for (int j = 0; j < 6; j++) store_upto(to + (i + j) * inputs_step() + ch, out[j], count);
        }
      });
    }
  }

  // Channels c0 .. c1 of the chunk of columns from n on -> six of the parts, those of row i, as panels of 16
  void transform_weights(const float *w, int i, int64_t n, int64_t c0, int64_t c1, float *to) const {
    const int64_t tap = 16 * c.C;
    for (int64_t j = 0; j < min_of(chunk, ceil_div(N, 16) * 16 - n); j += 16)
      for (int64_t at = c0 * 16; at < c1 * 16; at += L) {
        const float *const g = w + (n + j) * 9 * c.C + at;
        vf row[3], out[6];
        for (int k = 0; k < 3; k++) row[k] = G[i][0] * load(g + k * tap) + G[i][1] * load(g + (3 + k) * tap) + G[i][2] * load(g + (6 + k) * tap);
        weight_1d(row[0], row[1], row[2], out);
#pragma GCC unroll 6
        for (int l = 0; l < 6; l++) store(to + l * weights_step() + j * c.C + at, out[l]);
      }
  }

  // Some parts, the first of them in `weights`
  void multiply(int first, int n_parts, const float *inputs, const float *weights, int64_t count, int64_t columns, float *sums) const {
    GemmBlock g{};
    g.lda = c.C, g.taps = 1, g.kc = c.C, g.panel = 16 * c.C, g.ldc = chunk, g.M = count, g.n1 = columns;
    for (int p = first; p < first + n_parts; p++) {
      g.a = inputs + p * inputs_step(), g.b = weights + (p - first) * weights_step(), g.c = sums + p * sums_step();
      gemm_block(g);
    }
  }

  // from[part][t - t0][columns from n on] -> y
  void transform_sums(const float *from, int64_t t0, int64_t t1, int64_t n, int64_t columns, float *y, int64_t ldc, const PostList &posts) const {
    Finish finish;
    const wnn_post *const post = take_bias_and_clip(finish, posts), *const end = posts.post + posts.n;
    const float *const bias = finish.bias ? finish.bias + n : nullptr;
    const float lo = finish.lo, hi = finish.hi;
    for (int64_t t = t0; t < t1; t++, from += chunk) {
      const int64_t ow = t % tiles_w * 4, oh = t / tiles_w % tiles_h * 4, image = t / tiles_w / tiles_h;
      const int64_t height = min_of(4, c.out[1] - oh), width = min_of(4, c.out[2] - ow), pixel = (image * c.out[1] + oh) * c.out[2] + ow;
      float *const to = y + pixel * ldc + n;
      vectors(columns, [&](int64_t ch, int64_t count) {
        vf rows[24], out[4];
        const float *m = from + ch;
        for (int j = 0; j < 6; j++, m += sums_step())
          output_1d(load(m), load(m + 6 * sums_step()), load(m + 12 * sums_step()), load(m + 18 * sums_step()), load(m + 24 * sums_step()),
                    load(m + 30 * sums_step()), rows + j, 6);
        const vf start = bias ? load_upto(bias + ch, count) : vf{};
        for (int64_t i = 0; i < height; i++) {
          const vf *r = rows + 6 * i;
          output_1d(r[0], r[1], r[2], r[3], r[4], r[5], out, 1);
          for (int64_t j = 0; j < width; j++) store_upto(to + (i * c.out[2] + j) * ldc + ch, clamp(out[j] + start, lo, hi), count);
        }
      });
      if (post < end)
        for (int64_t i = 0; i < height; i++)
          post_tile(post, int(end - post), to + i * c.out[2] * ldc, ldc, pixel + i * c.out[2], nullptr, width, n, columns);
    }
  }
};

}  // namespace

SCRATCH(conv_winograd_f32) {
  const Winograd p(attrs, in[0], out[0], num_threads);
  return zeros_bytes(p.c.C) + size_t(weight_floats(in[1]) + p.shared() + p.own() * num_threads) * 4;
}

KERNEL_S(conv_winograd_f32) {
  Winograd p(attrs, in[0], out[0], ctx->num_threads);
  const PostList posts((const char *)attrs + posts_offset, nin > 2 ? in[2] : nullptr, in);
  float *const zeros = (float *)ctx->scratch, *const plain = zeros + zeros_bytes(p.c.C) / 4, *const shared = plain + weight_floats(in[1]);
  float *const first = shared + p.shared(), *const y = f32(out[0]);
  memset(zeros, 0, zeros_bytes(p.c.C));
  p.zeros = zeros;
  const float *const w = panels(in[1], plain);
  const int64_t ldc = row_stride(out[0]), threads = ctx->num_threads;

  if (p.weights_shared) {
    const int64_t each = ceil_div(p.c.C, 4 * threads);
    for_tasks(ctx, threads, ceil_div(p.c.C, each), [&](int64_t task) {
      for (int i = 0; i < 6; i++) p.transform_weights(w, i, 0, task * each, min_of(p.c.C, (task + 1) * each), shared + 6 * i * p.weights_step());
    });
    parallel_for(ctx, ceil_div(p.tiles, p.block), [&](int64_t i, int worker) {
      float *const inputs = first + worker * p.own(), *const sums = inputs + p.inputs();
      const int64_t t0 = i * p.block, t1 = min_of(p.tiles, t0 + p.block);
      p.transform_inputs(t0, t1, inputs);
      p.multiply(0, parts, inputs, shared, t1 - t0, p.N, sums);
      p.transform_sums(sums, t0, t1, 0, p.N, y, ldc, posts);
    });
    return 0;
  }
  for (int64_t t0 = 0; t0 < p.tiles; t0 += p.block) {
    const int64_t t1 = min_of(p.tiles, t0 + p.block);
    for_tasks(ctx, threads, ceil_div(t1 - t0, 4), [&](int64_t i) { p.transform_inputs(t0 + 4 * i, min_of(t1, t0 + 4 * i + 4), shared + 4 * i * p.c.C); });
    parallel_for(ctx, ceil_div(p.N, p.chunk), [&](int64_t i, int worker) {
      float *const weights = first + worker * p.own(), *const sums = weights + p.weights();
      const int64_t n = i * p.chunk, columns = min_of(p.chunk, p.N - n);
      for (int row = 0; row < 6; row++) {
        p.transform_weights(w, row, n, 0, p.c.C, weights);
        p.multiply(6 * row, 6, shared, weights, t1 - t0, columns, sums);
      }
      p.transform_sums(sums, t0, t1, n, columns, y, ldc, posts);
    });
  }
  return 0;
}
