// wnn: once
// y = a b over broadcast batches of matrices, for the dtypes that matmul.cc does not have: floats in double, the others
// in int64.
//   a : (..., M, K)    b : (..., K, N)    y : (..., M, N), contiguous, one dtype
#include "convert.h"
#include "elementwise.h"

namespace {

constexpr int64_t ROWS = 4, COLUMNS = 64;

void load(int32_t dtype, const void *from, int64_t n, double *to) { to_f64(dtype, from, n, to); }
void load(int32_t dtype, const void *from, int64_t n, int64_t *to) { to_i64(dtype, from, n, to); }
void store(int32_t dtype, const double *from, int64_t n, void *to) { from_f64(dtype, from, n, to); }
void store(int32_t dtype, const int64_t *from, int64_t n, void *to) { from_i64(dtype, from, n, to); }

// rows x columns of y from as many rows of a and columns of b
template <class T> void tile(int32_t dtype, const char *a, const char *b, char *y, int64_t rows, int64_t n, int64_t N, int64_t K, int64_t size) {
  typedef Wrapping<T> W;
  T sum[ROWS][COLUMNS] = {}, left[ROWS][COLUMNS], right[COLUMNS];
  for (int64_t k0 = 0; k0 < K; k0 += COLUMNS) {
    const int64_t ks = K - k0 < COLUMNS ? K - k0 : COLUMNS;
    for (int64_t r = 0; r < rows; r++) load(dtype, a + (r * K + k0) * size, ks, left[r]);
    for (int64_t k = 0; k < ks; k++) {
      load(dtype, b + (k0 + k) * N * size, n, right);
      for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < n; j++) sum[r][j] = T(W(sum[r][j]) + W(left[r][k]) * W(right[j]));
    }
  }
  for (int64_t r = 0; r < rows; r++) store(dtype, sum[r], n, y + r * N * size);
}

// where a batch begins in an operand that broadcasts to y, in matrices
int64_t matrix(const wnn_tensor *x, const wnn_tensor *y, int64_t batch) {
  int64_t at = 0, step = 1;
  for (int d = y->ndim - 3, e = x->ndim - 3; d >= 0; batch /= y->shape[d], d--, e--) {
    if (e < 0) continue;
    if (x->shape[e] != 1) at += batch % y->shape[d] * step;
    step *= x->shape[e];
  }
  return at;
}

}  // namespace

KERNEL(matmul_any) {
  const wnn_tensor *const a = in[0], *const b = in[1], *const y = out[0];
  const int64_t M = y->shape[y->ndim - 2], N = y->shape[y->ndim - 1], K = a->shape[a->ndim - 1], size = item_bytes(y->dtype);
  const int64_t down = (M + ROWS - 1) / ROWS, across = (N + COLUMNS - 1) / COLUMNS;
  parallel_for(ctx, count(y) / (M * N) * down * across, [&](int64_t task, int) {
    const int64_t batch = task / across / down, r = task / across % down * ROWS, c = task % across * COLUMNS;
    const char *const from = (const char *)a->data + (matrix(a, y, batch) * M + r) * K * size;
    const char *const by = (const char *)b->data + (matrix(b, y, batch) * K * N + c) * size;
    char *const to = (char *)y->data + ((batch * M + r) * N + c) * size;
    const int64_t rows = M - r < ROWS ? M - r : ROWS, n = N - c < COLUMNS ? N - c : COLUMNS;
    if (is_float(y->dtype)) tile<double>(y->dtype, from, by, to, rows, n, N, K, size);
    else tile<int64_t>(y->dtype, from, by, to, rows, n, N, K, size);
  });
  return 0;
}
