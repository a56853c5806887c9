// The tiles of conv.cc: rows of bytes by panels of weights, and what becomes of their sums.
#include "conv_tiles.h"
#include "integer.h"

namespace {

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
    for (int g = 0; g < G; g++) *(vi_u *)(t.c + r * Tiles::columns + g * L) = D::columns(sum[r][g]);
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

void finish(const void *end, int32_t *tile, int64_t ld, int64_t rows, int64_t row0, int64_t n0, int64_t cols, const int32_t *row_sums) {
  ((const Integers *)end)->finish(tile, ld, rows, row0, n0, cols, row_sums);
}

#define BY_ROWS(D, R, G) {tile<D, R, G>, tile<D, R / 2, G>, tile<D, 1, G>}
#define TILES(D, R, G) {{R, R / 2, 1}, {G, 2, 1}, {BY_ROWS(D, R, G), BY_ROWS(D, R, 2), BY_ROWS(D, R, 1)}, L, sum_bytes, finish}
#if WNN_ISA
const Tiles vnni = TILES(Vnni, 6, WNN_ISA == 2 ? 4 : 2);
#endif
const Tiles madd = TILES(Madd, 3, 2);
const Tiles &tiles_for([[maybe_unused]] uint32_t features) {
#if WNN_ISA
  if (features & (WNN_ISA == 2 ? WNN_CPU_VNNI : WNN_CPU_AVX_VNNI)) return vnni;
#endif
  return madd;
}

}  // namespace

SCRATCH(conv_quantized) { return conv_quantized_bytes(attrs, in[X], out[0]); }
KERNEL_S(conv_quantized) { return run_conv_quantized(tiles_for(ctx->api->cpu_features), ctx, attrs, in, nin, out[0]); }
