// wnn: hot
// Panels of 16 columns from a matrix that lies otherwise.
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

}  // namespace
