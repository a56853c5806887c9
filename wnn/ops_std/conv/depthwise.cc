// y = post(depthwise conv(x, w) + bias), channels last, 1 to 3 spatial axes, any stride, padding and dilation.
//   x: (N, *spatial, C) f32, rows      w: (taps, C) f32      bias?: (C,)      y: (N, *out spatial, C) f32, rows
//   attrs: ConvAttrs with groups = C, posts
// A tile is several output pixels of a row by one vector of channels after the other. Kernel rows outside of x are left out.
// Common kernels load each input pixel of a kernel row once, zeros in place of padding. Others go tap by tap, or by four taps,
// and pixel by pixel at the ends of a row. 3x3 kernels make two or four output rows at a time: their input rows are
// loaded once for all, and more sums hide the latency of a multiply-add.
#include "conv.h"

namespace {

constexpr int least_pixels = 4;

struct Row {
  const Conv *c;
  const float *w, *bias, *zeros;
  const float *x[most_rows], *w_row[most_rows];  // of each kernel row: the input row from pixel 0, the weights
  int64_t kernel_rows;
  float *y;
  int64_t ldc;
  float lo = -INFINITY, hi = INFINITY;
};

// ---- any kernel: P pixels from ow on by V vectors of channels from ch on, taps [k0, k1) of each kernel row ----
template <int P, int V> void any_tile(const Row &row, int64_t ow, int64_t ch, int64_t tail, int64_t k0, int64_t k1) {
  const Conv &c = *row.c;
  const int64_t pixel = c.pixel * c.stride[2], x_step = c.dilation[2] * c.pixel;
  const int64_t first = (ow * c.stride[2] - c.pad[2]) * c.pixel + k0 * x_step + ch;
  vf acc[P][V];
#pragma GCC unroll 4
  for (int v = 0; v < V; v++) {
    const vf start = !row.bias ? vf{} : v < V - 1 ? load(row.bias + ch + v * L) : load_n(row.bias + ch + v * L, tail);
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) acc[p][v] = start;
  }
  for (int64_t kh = 0; kh < row.kernel_rows; kh++) {
    const float *w = row.w_row[kh] + k0 * c.C + ch, *x = row.x[kh] + first;
    int64_t k = k0;
    if constexpr (WNN_ISA && P == 8)
      if (tail == L && pixel == x_step)
        for (; k + 4 <= k1; k += 4, x += 4 * x_step, w += 4 * c.C) four_taps<P>(acc[0], x, pixel, w, c.C);
    for (; k < k1; k++, x += x_step, w += c.C) {
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) {
        const bool full = V > 1 || tail == L;
        const vf wv = held(full ? load(w + v * L) : load_n(w, tail));
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) acc[p][v] += wv * (full ? load(x + p * pixel + v * L) : load_n(x + p * pixel, tail));
      }
    }
  }
  const int64_t ldc = row.ldc;
  const float lo = row.lo, hi = row.hi;
  float *to = row.y + ow * ldc + ch;
#pragma GCC unroll 8
  for (int p = 0; p < P; p++, to += ldc)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      if (v < V - 1) store(to + v * L, clamp(acc[p][v], lo, hi));
      else store_n(to + v * L, clamp(acc[p][v], lo, hi), tail);
    }
}
using AnyTile = void (*)(const Row &, int64_t, int64_t, int64_t, int64_t, int64_t);

// One pixel whose window leaves the input
void edge(const Row &row, int64_t ow) {
  const Conv &c = *row.c;
  int64_t k0, k1;
  inside(ow * c.stride[2] - c.pad[2], c.dilation[2], c.in[2], c.kernel[2], &k0, &k1);
  int64_t ch = 0;
  for (; ch + 4 * L <= c.C; ch += 4 * L) any_tile<1, 4>(row, ow, ch, L, k0, k1);
  for (; ch < c.C; ch += L) any_tile<1, 1>(row, ow, ch, min_of(L, c.C - ch), k0, k1);
}

// Output pixels [w0, w1)
void any_stretch(const Row &row, int64_t w0, int64_t w1) {
  const Conv &c = *row.c;
  const int64_t last = c.in[2] - (c.kernel[2] - 1) * c.dilation[2];  // windows that start in [0, last) are whole
  int64_t begin, end;
  inside(w0 * c.stride[2] - c.pad[2], c.stride[2], last, w1 - w0, &begin, &end);
  for (int64_t w = w0; w < w0 + begin; w++) edge(row, w);
  const int64_t pixels = end - begin >= 8 ? 8 : 1;
  const AnyTile tile = pixels == 8 ? any_tile<8, 1> : any_tile<1, 1>;
  for (int64_t w = w0 + begin; w < w0 + end; w += pixels)  // the last tile may cover some pixels once more
    for (int64_t ch = 0; ch < c.C; ch += L) tile(row, min_of(w, w0 + end - pixels), ch, min_of(L, c.C - ch), 0, c.kernel[2]);
  for (int64_t w = w0 + end; w < w1; w++) edge(row, w);
}

WNN_INLINE int64_t steps(int64_t n, int64_t apart) { return apart == 1 ? n : ceil_div(n, apart); }  // dividing takes long

// ---- kernels of K columns at stride S, or of any dilation at stride 1, of at least L channels, padded by at most half of them: P pixels
// from ow on, each a dilation further, of channels [c0, c1), of which the last vector may cover some once more ----
template <int K, int S, int P> void tile(const Row &row, int64_t ow, int64_t c0, int64_t c1) {
  constexpr int X = (P - 1) * S + K, most_pad = K / 2;
  const Conv &c = *row.c;
  const int64_t apart = c.dilation[2], first = ow * S - c.pad[2], begin = steps(-first, apart), end = steps(c.in[2] - first, apart);  // of the pixels read, those in x
  const int64_t pixel = apart * c.pixel, ldc = apart * row.ldc;
  const float lo = row.lo, hi = row.hi;
  for (int64_t from = c0; from < c1; from += L) {
    const int64_t ch = min_of(from, c.C - L);
    vf acc[P];
    const vf start = row.bias ? load(row.bias + ch) : vf{};
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) acc[p] = start;
    for (int64_t kh = 0; kh < row.kernel_rows; kh++) {
      const float *x = row.x[kh] + first * c.pixel + ch, *const w = row.w_row[kh] + ch;
      vf wv[K];
#pragma GCC unroll 8
      for (int k = 0; k < K; k++) wv[k] = load(w + k * c.C);
#pragma GCC unroll 24
      for (int i = 0; i < X; i++, x += pixel) {
        asm("" : "+r"(x));  // else GCC keeps an address for each
        const vf xv = held(load((i < most_pad && i < begin) || (i >= X - most_pad && i >= end) ? row.zeros + ch : x));
#pragma GCC unroll 8
        for (int p = 0; p < P; p++)
          if (i - p * S >= 0 && i - p * S < K) acc[p] += wv[i - p * S] * xv;
      }
    }
    float *y = row.y + ow * row.ldc + ch;
#pragma GCC unroll 8
    for (int p = 0; p < P; p++, y += ldc) store(y, clamp(acc[p], lo, hi));
  }
}
using Tile = void (*)(const Row &, int64_t, int64_t, int64_t);
struct Known { int64_t kernel, stride; Tile four, seven, eight; };  // the last two: or null
#define TILES(K, S) tile<K, S, 4>, tile<K, S, 7>, WNN_ISA == 2 ? tile<K, S, 8> : nullptr
const Known known[] = {{3, 1, TILES(3, 1)}, {3, 2, tile<3, 2, 4>, nullptr, nullptr}, {5, 1, TILES(5, 1)}, {5, 2, TILES(5, 2)}, {7, 1, TILES(7, 1)}};

const Known *find(const Conv &c) {
  if (WNN_ISA == 0) return nullptr;
  const int64_t apart = c.dilation[2];
  if ((apart == 1 || c.stride[2] == 1) && c.out[2] >= least_pixels * apart && c.C >= L && max_of(c.pad[2], c.reach(2) - c.in[2]) <= c.kernel[2] / 2 * apart)
    for (const Known &k : known)
      if (c.kernel[2] == k.kernel && c.stride[2] == k.stride) return &k;
  return nullptr;
}

void stretch(const Row &row, const Known *k, int64_t w0, int64_t w1, int64_t c0, int64_t c1) {
  if (!k) return any_stretch(row, w0, w1);
  const int64_t apart = row.c->dilation[2];
  for (int64_t from = w0; from < w0 + apart; from++) {
    const int64_t n = steps(w1 - from, apart);
    const int64_t P = k->eight && n >= 8 && ceil_div(n, 8) * 9 <= ceil_div(n, 7) * 8 ? 8 : k->seven && n >= 7 ? 7 : 4;
    // the last tile may cover some pixels once more
    for (int64_t i = 0; i < n; i += P) (P == 8 ? k->eight : P == 7 ? k->seven : k->four)(row, from + min_of(i, n - P) * apart, c0, c1);
  }
}

// ---- 3x3 kernels at stride S, without dilation, of at least L channels, padded by at most one: the same of R rows ----
struct Band {
  const Row &row;
  const float *x[6];   // the input rows from pixel 0; those outside of x are zeros
  int64_t pixel[6];    // and from one of their pixels to the next, then 0
};

template <int S, int P, int R> void band_tile(const Band &band, int64_t ow, int64_t c0, int64_t c1) {
  constexpr int K = 3, X = (P - 1) * S + K, rows = (R - 1) * S + K;
  const Row &row = band.row;
  const Conv &c = *row.c;
  const int64_t first = ow * S - c.pad[2], ldc = row.ldc, step = c.out[2] * ldc;
  const bool left = first < 0, right = first + X > c.in[2];
  const float lo = row.lo, hi = row.hi;
  float *const y = row.y + ow * ldc;
  for (int64_t from = c0; from < c1; from += L) {
    const int64_t ch = min_of(from, c.C - L);
    vf wv[K * K], acc[R][P];
    const vf start = row.bias ? load(row.bias + ch) : vf{};
#pragma GCC unroll 9
    for (int k = 0; k < K * K; k++) wv[k] = load(row.w + k * c.C + ch);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 7
      for (int p = 0; p < P; p++) acc[r][p] = start;
#pragma GCC unroll 6
    for (int j = 0; j < rows; j++) {
      const int64_t pixel = band.pixel[j];
      const float *x = band.x[j] + first * pixel + ch;
#pragma GCC unroll 16
      for (int i = 0; i < X; i++, x += pixel) {
        asm("" : "+r"(x));  // else GCC keeps an address for each
        const vf xv = held(load((i == 0 && left) || (i == X - 1 && right) ? row.zeros + ch : x));
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
#pragma GCC unroll 7
          for (int p = 0; p < P; p++)
            if (i - p * S >= 0 && i - p * S < K && j - r * S >= 0 && j - r * S < K) acc[r][p] += wv[(j - r * S) * K + i - p * S] * xv;
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      float *to = y + r * step + ch;
#pragma GCC unroll 7
      for (int p = 0; p < P; p++, to += ldc) store(to, clamp(acc[r][p], lo, hi));
    }
  }
}

// How many output rows are made at a time from pixels of `width`
int64_t band_rows(const Conv &c, int64_t width) {
  const bool able = WNN_ISA && c.kernel[0] == 1 && c.kernel[1] == 3 && c.kernel[2] == 3 && c.stride[1] == c.stride[2] && c.stride[1] <= 2 &&
                    c.dilation[1] == 1 && c.dilation[2] == 1 && c.pad[2] <= 1 && c.reach(2) <= c.in[2] + 1 && width >= least_pixels && c.C >= L;
  // tiles of four rows are of five pixels: unless they would cover much more than the width
  return !able ? 1 : L == 16 && c.stride[2] == 1 && width >= 5 && ceil_div(width, 5) * 5 * 20 <= ceil_div(width, 7) * 7 * 21 ? 4 : 2;
}

// R output rows from number `index` on, of one plane: pixels [w0, w1), channels [c0, c1)
void band_stretch(Row &row, float *y, int64_t R, int64_t index, int64_t w0, int64_t w1, int64_t c0, int64_t c1) {
  const Conv &c = *row.c;
  const int64_t S = c.stride[2], h = index % c.out[1] * S - c.pad[1], plane = index / c.out[1];
  const int64_t n = plane / c.out[0], d = plane % c.out[0] * c.stride[0] - c.pad[0];
  Band band{row, {}, {}};
  for (int64_t j = 0; j < (R - 1) * S + 3; j++) {
    const bool in = h + j >= 0 && h + j < c.in[1] && d >= 0 && d < c.in[0];
    band.x[j] = in ? c.x + ((n * c.in[0] + d) * c.in[1] + h + j) * c.in[2] * c.pixel : row.zeros, band.pixel[j] = in ? c.pixel : 0;
  }
  row.y = y + index * c.out[2] * row.ldc;
  // seven pixels where they fit in registers, beside 9 weights, and in the width: fewer are nearly as fast
  const int64_t width = w1 - w0, seven = S == 1 && L == 16 && width >= 7 && ceil_div(width, 7) * 7 * 20 <= ceil_div(width, 4) * 4 * 21;
  const int64_t P = R == 4 ? 5 : seven ? 7 : 4;
  auto tile = S == 2 ? band_tile<2, 4, 2> : band_tile<1, 4, 2>;
#if WNN_ISA == 2
  if (P > 4) tile = P == 5 ? band_tile<1, 5, 4> : band_tile<1, 7, 2>;
#endif
  for (int64_t w = w0; w < w1; w += P) tile(band, min_of(w, w1 - P), c0, c1);  // the last may cover some pixels once more
}

// Points the row at the input rows of output row number `index`
void place(Row &row, float *y, int64_t index) {
  const Conv &c = *row.c;
  row.kernel_rows = 0;
  kernel_rows(c, index, [&](int64_t in_row, int64_t kernel_row) {
    row.x[row.kernel_rows] = c.x + in_row * c.in[2] * c.pixel;
    row.w_row[row.kernel_rows++] = row.w + kernel_row * c.kernel[2] * c.C;
  });
  row.y = y + index * c.out[2] * row.ldc;
}

}  // namespace

SCRATCH(conv_depthwise_f32) { return size_t(ceil_div(last_dim(in[0]), 16)) * 64; }

KERNEL_S(conv_depthwise_f32) {
  const Conv c(attrs, in[0], out[0]);
  const PostList posts((const char *)attrs + posts_offset, nin > 2 ? in[2] : nullptr, in);
  if (c.kernel[0] * c.kernel[1] > most_rows)
    return ctx->api->error(ctx, "[conv_depthwise] found a kernel of %lld rows; expected at most %d; split the kernel", (long long)(c.kernel[0] * c.kernel[1]), most_rows);
  Row shared{};
  shared.c = &c, shared.w = f32(in[1]), shared.ldc = row_stride(out[0]);
  shared.zeros = (float *)memset(ctx->scratch, 0, size_t(c.C) * 4);
  const wnn_post *const post = take_bias_and_clip(shared, posts), *const end = posts.post + posts.n;

  // a task: some output rows by a stretch of pixels
  const Known *const kernel = find(c);
  const int64_t rows = c.N * c.out[0] * c.out[1], width = c.out[2], row_work = max_of(1, width * c.C * c.taps());
  const int64_t pieces = rows >= 4 * ctx->num_threads ? 1 : max_of(1, min_of(width / (16 * c.dilation[2]), min_of(row_work >> 17, 8 * ctx->num_threads)));
  const int64_t band = band_rows(c, width / pieces);
  // Where x is used often, channels in parts for which a window's rows stay in L1, so that the next output rows find theirs there;
  // of fewer than four lines, pixels would come from further away than prefetching can hide
  constexpr int64_t near_floats = 6144, least_rows = 8, least_channels = 64;
  const int64_t vectors = ceil_div(c.C, L), vector = ((c.kernel[1] + max_of(1, band - 1) * c.stride[1]) * c.in[2] + c.taps()) * L;
  const int64_t part = !kernel || (c.kernel[2] <= 3 ? vector * least_channels / L > near_floats : vector > 2 * near_floats) ? c.C : ceil_div(vectors, ceil_div(vectors, max_of(least_channels / L, near_floats / vector))) * L;
  const int64_t some = max_of(part < c.C ? least_rows : 1, (1 << 18) / row_work), even = max_of(1, min_of(some, ceil_div(rows, 4 * ctx->num_threads)));
  const int64_t each = ceil_div(even, band) * band;
  // From the last row to the first: where x was written first to last and is larger than the cache, its end is still there, and
  // where y is read first to last, its beginning will be.
  for_tasks(ctx, rows * row_work < 1 << 17 ? 1 : ctx->num_threads, ceil_div(rows, each) * pieces, [&](int64_t task) {
    const int64_t piece = task % pieces, w0 = width * piece / pieces, w1 = width * (piece + 1) / pieces, from = rows - task / pieces * each;
    Row row = shared;
    // part by part of the channels, and then what remains of the posts
    for (int64_t c0 = 0, c1; c0 < c.C + (post < end); c0 = c1) {
      c1 = c0 < c.C ? min_of(c.C, c0 + part) : c0 + 1;
      for (int64_t r = from - 1, made; r >= max_of(0, from - each); r -= made) {
        const int64_t left = min_of(r % c.out[1], r - max_of(0, from - each)) + 1;
        made = left >= band ? band : left >= 2 && band > 1 ? 2 : 1;
        const int64_t first = r - made + 1;
        if (c0 == c.C)
          for (int64_t i = first; i <= r; i++)
            post_tile(post, int(end - post), f32(out[0]) + (i * width + w0) * row.ldc, row.ldc, i * width + w0, nullptr, w1 - w0, 0, c.C);
        else if (WNN_ISA && made > 1) band_stretch(row, f32(out[0]), made, first, w0, w1, c0, c1);
        else place(row, f32(out[0]), r), stretch(row, kernel, w0, w1, c0, c1);
      }
    }
  });
  return 0;
}
