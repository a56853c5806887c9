// wnn: hot
// Panels of 16 columns from a matrix that lies otherwise; pixels from the planes of a picture.
#include "gemm.h"

namespace {

// Columns whose elements lie side by side, as the keys of attention do
void from_columns(int64_t K, int64_t N, const float *b, int64_t b_col, float *panel) {
  for (int64_t n = 0; n < 16; n += L) {
    const float *row[L];
    for (int r = 0; r < L; r++) row[r] = b + min_of(n + r, N - 1) * b_col;
    const int64_t lanes = max_of(0, min_of(L, N - n));
    float *to = panel + n;
    int64_t k = 0;
    for (; k + 4 <= K; k += 4) {
      vf column[4];
      transpose_four(row, k, column);
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++, to += 16) store(to, lanes == L ? column[j] : keep_n(column[j], lanes, vf{}));
    }
    for (; k < K; k++, to += 16)
      for (int r = 0; r < L; r++) to[r] = r < lanes ? row[r][k] : 0;
  }
}

void from_rows(int64_t K, int64_t N, const float *b, int64_t b_row, float *panel) {
  for (int64_t k = 0; k < K; k++, b += b_row, panel += 16)
#pragma GCC unroll 4
    for (int64_t n = 0; n < 16; n += L) store(panel + n, N == 16 ? load(b + n) : load_n(b + n, max_of(0, min_of(L, N - n))));
}

void pack_panel_f32(int64_t K, int64_t N, const float *b, int64_t b_row, int64_t b_col, float *panel) {
  if (b_col == 1) return from_rows(K, N, b, b_row, panel);
  if (b_row == 1) return from_columns(K, N, b, b_col, panel);
  for (int64_t k = 0; k < K; k++, panel += 16)
    for (int64_t n = 0; n < 16; n++) panel[n] = n < N ? b[k * b_row + n * b_col] : 0;
}
HOST_FUNCTION(pack_panel_f32)

#if WNN_ISA == 2
// Part number i of 16 pixels
template <int i> WNN_INLINE vf part(vf r, vf g, vf b) {
  vi two, three;  // which of r and g, then which of these and b
  for (int l = 0; l < L; l++) {
    const int at = i * L + l, pixel = at / 3;
    two[l] = at % 3 ? L + pixel : pixel, three[l] = at % 3 == 2 ? L + pixel : l;
  }
  const __m512 rg = _mm512_permutex2var_ps((__m512)r, (__m512i)two, (__m512)g);
  return (vf)_mm512_permutex2var_ps(rg, (__m512i)three, (__m512)b);
}
WNN_INLINE void pixels(vf r, vf g, vf b, float *to) { store(to, part<0>(r, g, b)), store(to + L, part<1>(r, g, b)), store(to + 2 * L, part<2>(r, g, b)); }
#elif WNN_ISA == 0
WNN_INLINE void pixels(vf r, vf g, vf b, float *to) {
  const vf low = __builtin_shufflevector(r, g, 0, 4, 1, 5), high = __builtin_shufflevector(r, g, 2, 6, 3, 7);
  store(to, __builtin_shufflevector(low, b, 0, 1, 4, 2));
  store(to + 4, __builtin_shufflevector(__builtin_shufflevector(low, b, 3, 5, 3, 5), high, 0, 1, 4, 5));
  store(to + 8, __builtin_shufflevector(high, b, 6, 2, 3, 7));
}
#endif

#if WNN_ISA != 1  // vectors of 8 would gain nothing
// The planes of a picture -> pixels
void interleave(const float *r, const float *g, const float *b, int64_t n, float *to) {
  int64_t i = 0;
  for (; i + L <= n; i += L, to += 3 * L) pixels(load(r + i), load(g + i), load(b + i), to);
  for (; i < n; i++, to += 3) to[0] = r[i], to[1] = g[i], to[2] = b[i];
}
HOST_FUNCTION(interleave)
#endif

}  // namespace
