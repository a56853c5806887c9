// y = f(conv(x - x_zero, w + shift) + bias), channels last, by sums of products of bytes that are exact on every CPU.
//   tensors and attrs as in integer.h      w: (groups, taps * C/groups, M/groups) i8
//   after the inputs: its panels (groups, panels, K/4, 16, 4), where each tap's channels are padded to fours; its columns' sums
// A GEMM like that of float convolution, four rows of weights at a time. x_zero is taken off the sums afterwards, so padding
// is a row of it. Where channels of a group are no multiple of four, x is copied with its padding first.
#include "integer.h"

namespace {

constexpr int64_t tile_columns = 64;

struct Tile {
  const uint8_t *a;
  const int64_t *rows;  // tap t of row r begins at a + rows[t*step + r]
  int64_t step, taps, kc;
  const int8_t *b;      // the first of the tile's panels
  int64_t panel;
  int32_t *c;
};

// Four bytes of a row against four rows of columns: `parts` vectors of sums make L columns
#if WNN_ISA
struct Vnni {  // u8 by i8, summed by fours
  static constexpr int parts = 1;
  static WNN_MEMBER vi left(const uint8_t *a) { int32_t four; memcpy(&four, a, 4); return four - vi{}; }
  static WNN_MEMBER vi right(const int8_t *b) { return *(const vi_u *)b; }
  static WNN_MEMBER vi add(vi sum, vi a, vi b) {  // GCC 12 spills around the intrinsic
#if WNN_ISA == 2
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#else
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
#endif
    return sum;
  }
  static WNN_MEMBER vi columns(const vi *sums) { return sums[0]; }
};
#endif
struct Madd {  // widened to 16 bits, summed by twos: lanes 2j and 2j + 1 are column j
  static constexpr int parts = 2;
  typedef int16_t half __attribute__((vector_size(L * 4)));
  // GCC 12 makes many instructions of conversions in its vector extensions
  static WNN_MEMBER half left(const uint8_t *a) {
    int32_t four;
    memcpy(&four, a, 4);
#if WNN_ISA == 2
    return (half)_mm512_cvtepu8_epi16(_mm256_set1_epi32(four));
#elif WNN_ISA == 1
    return (half)_mm256_cvtepu8_epi16(_mm_set1_epi32(four));
#elif defined(__SSE2__)
    return (half)_mm_unpacklo_epi8(_mm_set1_epi32(four), _mm_setzero_si128());
#else
    return half{a[0], a[1], a[2], a[3], a[0], a[1], a[2], a[3]};
#endif
  }
  static WNN_MEMBER half right(const int8_t *b) {
#if WNN_ISA == 2
    return (half)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)b));
#elif WNN_ISA == 1
    return (half)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)b));
#elif defined(__SSE2__)
    const __m128i bytes = _mm_loadl_epi64((const __m128i *)b);
    return (half)_mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8);
#else
    return half{b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]};
#endif
  }
  static WNN_MEMBER vi add(vi sum, half a, half b) {
#if WNN_ISA == 2
    return sum + (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif WNN_ISA == 1
    return sum + (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    typedef int16_t v8 __attribute__((vector_size(16)));
    return sum + (vi)__builtin_ia32_pmaddwd128((v8)a, (v8)b);
#else
    for (int i = 0; i < L; i++) sum[i] += a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
    return sum;
#endif
  }
  static WNN_MEMBER vi columns(const vi *sums) {
    vi even, odd;
#pragma GCC unroll 16
    for (int i = 0; i < L; i++) even[i] = 2 * i, odd[i] = 2 * i + 1;
    return __builtin_shuffle(sums[0], sums[1], even) + __builtin_shuffle(sums[0], sums[1], odd);
  }
};

// R rows by G times L columns
template <class D, int R, int G> void tile(const Tile &t) {
  vi sum[R][G][D::parts];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++)
#pragma GCC unroll 2
      for (int p = 0; p < D::parts; p++) sum[r][g][p] = vi{};
  const int8_t *b = t.b;
  for (int64_t tap = 0; tap < t.taps; tap++) {
    const uint8_t *a[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) a[r] = t.a + t.rows[tap * t.step + r];
    for (int64_t k = 0; k < t.kc; k += 4, b += 64) {
      auto right = [&](int g, int p) { return D::right(b + g * L / 16 * t.panel + g * L % 16 * 4 + p * L * 2); };
      if constexpr (R < G * D::parts) {  // what is fewer is kept in registers
        decltype(D::left(a[0])) av[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) av[r] = D::left(a[r] + k);
#pragma GCC unroll 4
        for (int g = 0; g < G; g++)
#pragma GCC unroll 2
          for (int p = 0; p < D::parts; p++) {
            const auto bv = right(g, p);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) sum[r][g][p] = D::add(sum[r][g][p], av[r], bv);
          }
      } else {
        decltype(D::right(b)) bv[G][D::parts];
#pragma GCC unroll 4
        for (int g = 0; g < G; g++)
#pragma GCC unroll 2
          for (int p = 0; p < D::parts; p++) bv[g][p] = right(g, p);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          const auto av = D::left(a[r] + k);
#pragma GCC unroll 4
          for (int g = 0; g < G; g++)
#pragma GCC unroll 2
            for (int p = 0; p < D::parts; p++) sum[r][g][p] = D::add(sum[r][g][p], av, bv[g][p]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) *(vi_u *)(t.c + r * tile_columns + g * L) = D::columns(sum[r][g]);
}

using TileFn = void (*)(const Tile &);
constexpr int sizes = 3;
struct Tiles { int rows[sizes], groups[sizes]; TileFn tile[sizes][sizes]; };  // by columns, by rows; from large to small
#define BY_ROWS(D, R, G) {tile<D, R, G>, tile<D, R / 2, G>, tile<D, 1, G>}
#define TILES(D, R, G) {{R, R / 2, 1}, {G, 2, 1}, {BY_ROWS(D, R, G), BY_ROWS(D, R, 2), BY_ROWS(D, R, 1)}}
#if WNN_ISA == 2
const Tiles vnni = TILES(Vnni, 6, 4), madd = TILES(Madd, 3, 2);
#elif WNN_ISA == 1
const Tiles vnni = TILES(Vnni, 6, 2), madd = TILES(Madd, 3, 2);
#else
const Tiles madd = TILES(Madd, 3, 2);
#endif
const Tiles &tiles_for([[maybe_unused]] uint32_t features) {
#if WNN_ISA
  if (features & (WNN_ISA == 2 ? WNN_CPU_VNNI : WNN_CPU_AVX_VNNI)) return vnni;
#endif
  return madd;
}

int32_t sum_bytes(const uint8_t *p, int64_t n) {
  int32_t sum = 0;
  int64_t i = 0;
#if WNN_ISA == 2
  __m512i wide = _mm512_setzero_si512();
  for (; i < n; i += 64) {
    const __mmask64 mask = n - i < 64 ? (__mmask64(1) << (n - i)) - 1 : ~__mmask64(0);
    wide = _mm512_add_epi64(wide, _mm512_sad_epu8(_mm512_maskz_loadu_epi8(mask, p + i), _mm512_setzero_si512()));
  }
  sum = int32_t(_mm512_reduce_add_epi64(wide));
#elif WNN_ISA == 1
  __m256i wide = _mm256_setzero_si256();
  for (; i + 32 <= n; i += 32) wide = _mm256_add_epi64(wide, _mm256_sad_epu8(_mm256_loadu_si256((const __m256i *)(p + i)), _mm256_setzero_si256()));
  for (int k = 0; k < 4; k++) sum += int32_t(((const long long *)&wide)[k]);
#endif
  for (; i < n; i++) sum += p[i];
  return sum;
}

// ---- geometry ----
int64_t fours(int64_t n) { return ceil_div(n, 4) * 4; }
bool copies(const Conv &c) { return c.C / c.groups % 4 != 0; }
int64_t padded_length(const Conv &c, int i) { return max_of(c.reach(i), c.in[i]) + c.pad[i]; }
int64_t copy_bytes(const Conv &c) {
  return copies(c) ? c.N * padded_length(c, 0) * padded_length(c, 1) * padded_length(c, 2) * c.groups * fours(c.C / c.groups) : 0;
}

// Copies x to `to` with its padding around it and each group's channels padded by zeros; c becomes the convolution of that
void pad(wnn_ctx *ctx, Conv &c, uint8_t zero, uint8_t *to) {
  const int64_t C = c.C / c.groups, wide = fours(C), pixel = c.groups * wide, size[3] = {padded_length(c, 0), padded_length(c, 1), padded_length(c, 2)};
  const uint8_t *const x = (const uint8_t *)c.x;
  for_tasks(ctx, ctx->num_threads, c.N * size[0] * size[1], [&](int64_t row) {
    const int64_t h = row % size[1] - c.pad[1], d = row / size[1] % size[0] - c.pad[0], n = row / size[1] / size[0];
    const bool in = h >= 0 && h < c.in[1] && d >= 0 && d < c.in[0];
    const int64_t begin = in ? c.pad[2] : size[2], end = in ? begin + c.in[2] : size[2];
    const uint8_t *from = x + ((n * c.in[0] + d) * c.in[1] + h) * c.in[2] * c.pixel;
    uint8_t *put = to + row * size[2] * pixel;
    auto copy = [&](int64_t w0, int64_t w1, auto group) {
      for (int64_t w = w0; w < w1; w++)
        for (int64_t g = 0; g < c.groups; g++, put += wide) memset(put + wide - 4, 0, 4), group(from + (w - begin) * c.pixel + g * C);
    };
    auto blank = [&](const uint8_t *) { memset(put, zero, size_t(C)); };
    copy(0, begin, blank);
    if (C == 3) copy(begin, end, [&](const uint8_t *p) { memcpy(put, p, 3); });
    else copy(begin, end, [&](const uint8_t *p) { memcpy(put, p, size_t(C)); });
    copy(end, size[2], blank);
  });
  c.x = (const float *)to, c.C = pixel, c.pixel = pixel;
  for (int i = 0; i < 3; i++) c.in[i] = size[i], c.pad[i] = 0;
}

}  // namespace

SCRATCH(conv_quantized) {
  const Conv c(attrs, in[X], out[0]);
  return Integers::bytes(out[0]) + size_t(ceil_div(c.C, 64) * 64 + copy_bytes(c));
}

KERNEL_S(conv_quantized) {
  Conv c(attrs, in[X], out[0]);
  const int64_t K = c.taps() * (c.C / c.groups), N = last_dim(out[0]) / c.groups;
  const Integers end(attrs, in, nin - 2, out[0], (const int32_t *)in[nin - 1]->data, K, ctx->scratch);
  uint8_t *const zeros = (uint8_t *)ctx->scratch + Integers::bytes(out[0]);
  memset(zeros, end.zero, size_t(c.C));
  const bool copied = copies(c);
  if (copied) pad(ctx, c, end.zero, zeros + ceil_div(c.C, 64) * 64);

  const int64_t C = c.C / c.groups;
  const bool run = copied && c.groups == 1 && c.dilation[2] == 1;  // a row of taps is one
  const int64_t width_taps = run ? 1 : c.kernel[2], taps = c.kernel[0] * c.kernel[1] * width_taps, kc = run ? C * c.kernel[2] : C;
  if (taps > max_table) return ctx->api->error(ctx, "[conv_quantized] found %lld taps; expected at most %lld; split the kernel", (long long)taps, (long long)max_table);
  const int8_t *const panels = (const int8_t *)in[nin - 2]->data;
  const int64_t panel = taps * kc * 16, group_panels = ceil_div(N, 16) * panel;
  const Tiles &tiles = tiles_for(ctx->api->cpu_features);
  const uint8_t *const x = (const uint8_t *)c.x;

  const GemmGrid grid = gemm_grid(c.pixels(), N, K / 4, max_of(1, min_of(512, max_table / max_of(1, taps))), ctx->num_threads);
  for_tasks(ctx, ctx->num_threads, grid.tasks() * c.groups, [&](int64_t task) {
    int64_t m0, m1, n0, n1, table[max_table];
    int32_t sums[512];
    grid.at(task / c.groups, &m0, &m1, &n0, &n1);
    const int64_t g = task % c.groups, M = m1 - m0;
    row_table(c, {0, c.kernel[0], 0, c.kernel[1], 0, width_taps}, zeros - x - g * C, m0, M, table);
    if (end.shift)
      for (int64_t m = 0; m < M; m++) {
        sums[m] = 0;
        for (int64_t t = 0; t < taps; t++) sums[m] += sum_bytes(x + g * C + table[t * M + m], kc);
      }
    for (int64_t n = n0, cols; n < n1; n += cols) {
      int by = 0;
      while (tiles.groups[by] * L >= n1 - n + L) by++;
      cols = min_of(tiles.groups[by] * L, n1 - n);
      const int8_t *const b = panels + g * group_panels + n / 16 * panel + n % 16 * 4;
      int size = 0;
      for (int64_t m = 0; m < M; m += tiles.rows[size]) {
        while (tiles.rows[size] > M - m) size++;
        int32_t c_tile[6 * tile_columns];
        tiles.tile[by][size]({x + g * C, table + m, M, taps, kc, b, panel, c_tile});
        end.finish(c_tile, tile_columns, tiles.rows[size], m0 + m, g * N + n, cols, sums + m);
      }
    }
  });
  return 0;
}
