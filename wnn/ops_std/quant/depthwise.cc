// wnn: avx2
// y = f(depthwise conv(x - x_zero, w) + bias), channels last.
//   tensors and attrs as in integer.h      w: (taps, C) f32 that holds integers      after the inputs: its columns' sums
// A tile is several pixels of a row, of which the last tile repeats some. Sums stay below 2^24 and are exact in f32. x_zero is taken off them afterwards, so padding is a row of it.
#include "integer.h"

namespace {

constexpr int64_t tile_columns = 64;
constexpr int most_known_rows = 7, most_pointers = 512;

struct Row {
  const Conv *c;
  const float *w;
  const uint8_t *zeros, *x[256];  // of each kernel row, the input row from pixel 0, or null in padding
};

// P pixels from ow on, by the kernel of K columns at stride S and by at least L channels; or, K = 0, one pixel by any
template <int K, int S, int P> void tile(const Row &row, const Integers &end, int64_t ow, int64_t row0) {
  const Conv &c = *row.c;
  const int64_t rows = c.kernel[0] * c.kernel[1], columns = K ? K : c.kernel[2], X = K ? (P - 1) * S + K : columns;
  const uint8_t *at[most_pointers];
  for (int64_t kh = 0; kh < rows; kh++)
    for (int64_t i = 0; i < X; i++) {
      const int64_t iw = ow * c.stride[2] - c.pad[2] + i * (K ? 1 : c.dilation[2]);
      at[kh * X + i] = row.x[kh] && iw >= 0 && iw < c.in[2] ? row.x[kh] + iw * c.pixel : row.zeros;
    }
  constexpr int64_t ld = L + tile_columns;  // the last vector begins up to L before its block
  int32_t sums[P * ld];
  for (int64_t c0 = 0; c0 < c.C; c0 += tile_columns) {
    const int64_t cols = min_of(tile_columns, c.C - c0);
    for (int64_t j = 0; j < cols; j += L) {
      int64_t ch = c0 + j;
      vf acc[P];
#pragma GCC unroll 8
      for (int p = 0; p < P; p++) acc[p] = vf{};
      if constexpr (K == 0) {
        const int64_t n = min_of(L, cols - j);
        for (int64_t t = 0; t < rows * X; t++) acc[0] += load_n(row.w + t * c.C + ch, n) * load_float(at[t] + ch, n);
      } else {
        ch = min_of(ch, c.C - L);
        for (int64_t kh = 0; kh < rows; kh++) {
          const uint8_t *const *const x = at + kh * X;
          const float *const w = row.w + kh * K * c.C + ch;
          vf wv[K];
#pragma GCC unroll 8
          for (int k = 0; k < K; k++) wv[k] = load(w + k * c.C);
#pragma GCC unroll 24
          for (int i = 0; i < (P - 1) * S + K; i++) {
            const vf xv = load_float(x[i] + ch);
#pragma GCC unroll 8
            for (int p = 0; p < P; p++)
              if (i - p * S >= 0 && i - p * S < K) acc[p] += wv[i - p * S] * xv;
          }
        }
      }
#pragma GCC unroll 8
      for (int p = 0; p < P; p++) *(vi_u *)(sums + p * ld + L + ch - c0) = __builtin_convertvector(acc[p], vi);
    }
    end.finish(sums + L, ld, P, row0 + ow, c0, cols, nullptr);
  }
}

using TileFn = void (*)(const Row &, const Integers &, int64_t, int64_t);
struct Known { int64_t kernel, stride; TileFn four, seven; };  // seven: or null
#define KNOWN(K, S) {K, S, tile<K, S, 4>, tile<K, S, 7>}
#if WNN_ISA
const Known known[] = {KNOWN(3, 1), KNOWN(3, 2), {5, 1, tile<5, 1, 4>, nullptr}, {5, 2, tile<5, 2, 4>, nullptr}};
#else
const Known known[] = {KNOWN(3, 1)};
#endif

const Known *find(const Conv &c) {
  if (c.dilation[2] == 1 && c.out[2] >= 4 && c.C >= L && c.kernel[0] * c.kernel[1] <= most_known_rows)
    for (const Known &k : known)
      if (c.kernel[2] == k.kernel && c.stride[2] == k.stride) return &k;
  return nullptr;
}

// Points the row at the input rows of output row number `index`
void place(Row &row, int64_t index) {
  const Conv &c = *row.c;
  const int64_t oh = index % c.out[1], od = index / c.out[1] % c.out[0], n = index / c.out[1] / c.out[0];
  const uint8_t **to = row.x;
  for (int64_t kd = 0; kd < c.kernel[0]; kd++)
    for (int64_t kh = 0; kh < c.kernel[1]; kh++) {
      const int64_t id = od * c.stride[0] - c.pad[0] + kd * c.dilation[0], ih = oh * c.stride[1] - c.pad[1] + kh * c.dilation[1];
      const bool in = id >= 0 && id < c.in[0] && ih >= 0 && ih < c.in[1];
      *to++ = in ? (const uint8_t *)c.x + ((n * c.in[0] + id) * c.in[1] + ih) * c.in[2] * c.pixel : nullptr;
    }
}

}  // namespace

SCRATCH(conv_depthwise_quantized) { return Integers::bytes(out[0]) + size_t(last_dim(in[X])); }

KERNEL_S(conv_depthwise_quantized) {
  const Conv c(attrs, in[X], out[0]);
  const Integers end(attrs, in, nin - 1, out[0], (const int32_t *)in[nin - 1]->data, c.taps(), ctx->scratch);
  uint8_t *const zeros = (uint8_t *)memset((char *)ctx->scratch + Integers::bytes(out[0]), end.zero, size_t(c.C));
  const Known *const kernel = find(c);
  const int64_t rows = c.N * c.out[0] * c.out[1], width = c.out[2], row_work = max_of(1, width * c.C * c.taps());
  const int64_t each = max_of(1, min_of((1 << 18) / row_work, ceil_div(rows, 4 * ctx->num_threads)));
  for_tasks(ctx, rows * row_work < 1 << 17 ? 1 : ctx->num_threads, ceil_div(rows, each), [&](int64_t task) {
    Row row;
    row.c = &c, row.w = f32(in[W]), row.zeros = zeros;
    for (int64_t r = task * each; r < min_of(rows, (task + 1) * each); r++) {
      place(row, r);
      if (!kernel)
        for (int64_t w = 0; w < width; w++) tile<0, 1, 1>(row, end, w, r * width);
      else if (width < 7 || !kernel->seven)
        for (int64_t w = 0; w < width; w += 4) kernel->four(row, end, min_of(w, width - 4), r * width);
      else
        for (int64_t w = 0; w < width; w += 7) kernel->seven(row, end, min_of(w, width - 7), r * width);
    }
  });
  return 0;
}
