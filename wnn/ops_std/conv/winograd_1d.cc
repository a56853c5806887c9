// wnn: wide inline
// The convolution of conv.cc along one spatial axis alone, at stride 1, without groups, by Winograd's F(4, 3):
//   Y = A' sum over c of (G g) * (B' d)      for tiles of 4 outputs Y and 6 inputs d, as far apart as the kernel's taps
// A longer kernel is a sum of shorter ones, some of four taps by F(4, 4) and some of three, the last filled with zeros: the GEMMs
// have as many times C columns. The points of F(4, 4) are those of F(4, 3) and one more, for which there is a seventh GEMM.
#include "winograd.h"

namespace {

using namespace WNN_ISA_SPACE(WNN_ISA);

constexpr int most_parts = 7;

constexpr float fourth = 2.75f;  // the point that F(4, 4) has besides: of those that were tried the one with the least error

// As weight_1d, of four taps: each point's is divided by its distance from the new one
WNN_INLINE void weight_four(const vf *g, vf *t) {
  constexpr float p = fourth;
  const vf e = (g[0] + 0.5f * g[2]) * (-2.0f / 3), f = (g[1] + 0.5f * g[3]) * (-2.0f / 3 * a);
  const vf h = (g[0] + 2.0f * g[2]) * (1.0f / 6), k = (g[1] + 2.0f * g[3]) * (b / 6);
  t[0] = g[0] * (-1 / p);
  t[1] = (e + f) * (1 / (a - p)), t[2] = (e - f) * (-1 / (a + p));
  t[3] = (h + k) * (1 / (b - p)), t[4] = (h - k) * (-1 / (b + p));
  t[5] = g[3];
  t[6] = (g[0] + p * (g[1] + p * (g[2] + p * g[3]))) * (1 / (p * (p * p - 0.5f) * (p * p - 2)));
}

// A stretch is what 4 * dilation outputs in a row are made of: a tile for each of the first ones. As in winograd.cc, where all
// transformed weights fit into L2 they are made first and shared by tasks that are blocks of stretches; else the transformed inputs
// of a block are, and tasks are chunks of columns, which make weights of three parts at a time.
struct Winograd1d {
  Conv c;
  int64_t N, fours, groups, K, dilation, stretches_w, stretches, block, chunk;
  int parts;
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
    fours = fours_of(c.kernel[2]), groups = fours + max_of(0, ceil_div(c.kernel[2] - 4 * fours, 3)), K = groups * c.C;
    parts = fours ? 7 : 6;
    in_row = K % 1024 ? K : K + 16;  // not by 4096 bytes
    stretches_w = ceil_div(c.out[2], 4 * dilation), stretches = c.N * (axis > 0 ? c.out[0] : 1) * (axis > 1 ? c.out[1] : 1) * stretches_w;
    const int64_t all = ceil_div(N, 16) * 16;
    weights_shared = parts * K * all <= weights_floats;
    if (weights_shared) {
      chunk = all;
      block = max_of(1, max_of(28, block_floats / (parts * (in_row + all))) / dilation);
      block = ceil_div(stretches, ceil_div(ceil_div(stretches, block), threads) * threads);  // as many for each thread
    } else {
      const int64_t chunks = ceil_div(ceil_div(all, max_of(32, chunk_floats / (3 * K) / 32 * 32)), threads) * threads;  // as above
      chunk = ceil_div(all, 16 * chunks) * 16;
      block = ceil_div(stretches, ceil_div(stretches, max_of(1, inputs_floats / (parts * in_row) / dilation)));
    }
    in_step = block * dilation * in_row + 16, sum_step = block * dilation * chunk + 16, weight_step = chunk * K + 16;
  }
  // What takes the fewest multiplications: seven for four taps, six for three
  static int64_t fours_of(int64_t taps) {
    int64_t best = 0, least = 6 * ceil_div(taps, 3);
    for (int64_t n = 1; 4 * (n - 1) < taps; n++)
      if (const int64_t cost = 7 * n + 6 * max_of(0, ceil_div(taps - 4 * n, 3)); cost < least) least = cost, best = n;
    return best;
  }
  int64_t tap(int64_t group) const { return 3 * group + min_of(group, fours); }  // the first one
  int64_t columns_of(int part) const { return part < 6 ? K : fours * c.C; }
  int64_t inputs() const { return parts * in_step; }
  int64_t weights() const { return (weights_shared ? parts : parts - 3) * weight_step; }
  int64_t shared() const { return weights_shared ? weights() : inputs(); }
  int64_t own() const { return (weights_shared ? inputs() : weights()) + parts * sum_step; }

  // Panel number j of `to`, from w: the first three parts or the others
  void transform_weights(const float *w, int64_t j, bool first, float *to) const {
    const int64_t taps = c.kernel[2], step = weight_step, size = 16 * c.C;
    for (int64_t group = 0; group < groups; group++) {
      const bool four = group < fours;
      const float *const g = w + tap(group) * size;
      float *const u = to + (j * K * 16 + group * size), *const seventh = to + 3 * step + (j * columns_of(6) * 16 + group * size);
      for (int64_t at = 0; at < size; at += L) {
        vf t[4], out[most_parts];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) t[i] = i < 3 + four && tap(group) + i < taps ? load(g + i * size + at) : vf{};
        if (four) weight_four(t, out);
        else weight_1d(t[0], t[1], t[2], out);
#pragma GCC unroll 3
        for (int p = 0; p < 3; p++) store(u + p * step + at, first ? out[p] : out[3 + p]);
        if (four && !first) store(seventh + at, out[6]);
      }
    }
  }

  // The tiles of a stretch -> to[part][tile][group][C]
  void transform_inputs(int64_t stretch, float *to) const {
    const float *const row = c.x + stretch / stretches_w * c.in[2] * c.pixel;
    const int64_t first = stretch % stretches_w * 4 * dilation - c.pad[2], C = c.C, step = in_step;
    for (int64_t i = first; i < first + dilation; i++, to += in_row)
      for (int64_t group = 0; group < groups; group++) {
        const float *x[most_parts];
#pragma GCC unroll 7
        for (int64_t j = 0; j < most_parts; j++) {
          const int64_t at = i + (tap(group) + j) * dilation;
          x[j] = uint64_t(at) < uint64_t(c.in[2]) ? row + at * c.pixel : zeros;
        }
        float *const v = to + group * C;
        const bool four = group < fours;
        vectors(C, [=](int64_t ch, int64_t count) {
          vf d[most_parts], out[most_parts], next[6];
#pragma GCC unroll 6
          for (int j = 0; j < 6; j++) d[j] = load_upto(x[j] + ch, count);
          input_1d(d[0], d[1], d[2], d[3], d[4], d[5], out, 1);
          if (four) {
            input_1d(d[1], d[2], d[3], d[4], d[5], load_upto(x[6] + ch, count), next, 1);
            store_upto(v + 6 * step + ch, out[5], count);
#pragma GCC unroll 6
            for (int p = 0; p < 6; p++) out[p] = next[p] - fourth * out[p];
          }
#pragma GCC unroll 6
          for (int p = 0; p < 6; p++) store_upto(v + p * step + ch, out[p], count);
        });
      }
  }

  // Some parts, the first of them in `weights`
  void multiply(int first, int n_parts, const float *inputs, const float *weights, int64_t count, int64_t columns, float *sums) const {
    GemmBlock g{};
    g.lda = in_row, g.taps = 1, g.ldc = chunk, g.M = count * dilation, g.n1 = columns;
    for (int p = first; p < first + n_parts; p++) {
      g.kc = columns_of(p), g.panel = 16 * g.kc;
      g.a = inputs + p * in_step, g.b = weights + (p - first) * weight_step, g.c = sums + p * sum_step;
      gemm_block(g);
    }
  }

  // from[part][tile][columns from n on] of a stretch -> y
  void transform_sums(const float *from, int64_t stretch, int64_t n, int64_t columns, float *y, int64_t ldc, const PostList &posts) const {
    Finish finish;
    const wnn_post *const post = take_bias_and_clip(finish, posts), *const end = posts.post + posts.n;
    const float *const bias = finish.bias ? finish.bias + n : nullptr;
    const float lo = finish.lo, hi = finish.hi;
    const int64_t first = stretch % stretches_w * 4 * dilation, pixel = stretch / stretches_w * c.out[2] + first, left = c.out[2] - first;
    const int64_t tiles = dilation, step = sum_step;
    const bool seventh = fours;
    float *to = y + pixel * ldc + n;
    for (int64_t i = 0; i < min_of(tiles, left); i++, from += chunk, to += ldc)
      vectors(columns, [=](int64_t ch, int64_t count) {
        const float *m = from + ch;
        const vf start = bias ? load_upto(bias + ch, count) : vf{};
        vf out[4];
        output_1d(load(m), load(m + step), load(m + 2 * step), load(m + 3 * step), load(m + 4 * step), load(m + 5 * step), out, 1);
        if (seventh) {
          vf more = load(m + 6 * step);
#pragma GCC unroll 4
          for (int j = 0; j < 4; j++, more *= fourth) out[j] += more;
        }
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
      p.transform_weights(w + j * panel, j, true, shared);
      p.transform_weights(w + j * panel, j, false, shared + 3 * p.weight_step);
    });
    parallel_for(ctx, ceil_div(p.stretches, p.block), [&](int64_t i, int worker) {
      float *const inputs = first + worker * p.own(), *const sums = inputs + p.inputs();
      const int64_t s0 = i * p.block, count = min_of(p.block, p.stretches - s0);
      for (int64_t s = 0; s < count; s++) p.transform_inputs(s0 + s, inputs + s * tiles * p.in_row);
      p.multiply(0, p.parts, inputs, shared, count, p.N, sums);
      for (int64_t s = 0; s < count; s++) p.transform_sums(sums + s * tiles * p.chunk, s0 + s, 0, p.N, y, ldc, posts);
    });
    return 0;
  }
  for (int64_t s0 = 0; s0 < p.stretches; s0 += p.block) {
    const int64_t count = min_of(p.block, p.stretches - s0), each = max_of(1, 4096 / (tiles * p.in_row));
    for_tasks(ctx, threads, ceil_div(count, each), [&](int64_t i) {
      for (int64_t s = i * each; s < min_of(count, (i + 1) * each); s++) p.transform_inputs(s0 + s, shared + s * tiles * p.in_row);
    });
    parallel_for(ctx, ceil_div(p.N, p.chunk), [&](int64_t i, int worker) {
      float *const weights = first + worker * p.own(), *const sums = weights + p.weights();
      const int64_t n = i * p.chunk, columns = min_of(p.chunk, p.N - n);
      for (int part = 0; part < p.parts; part += part ? p.parts : 3) {
        for (int64_t j = 0; j < columns; j += 16) p.transform_weights(w + (n + j) / 16 * panel, j / 16, part == 0, weights);
        p.multiply(part, part ? p.parts - 3 : 3, shared, weights, count, columns, sums);
      }
      for (int64_t s = 0; s < count; s++) p.transform_sums(sums + s * tiles * p.chunk, s0 + s, n, columns, y, ldc, posts);
    });
  }
  return 0;
}
