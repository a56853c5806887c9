// wnn: once
// Which rows of x are different: see unique.py.
//   x : (n, m) f32, f64 or i64, contiguous      first, inverse, counts : (n,)    number : (1,), all i64
//   attrs: int64, whether the different rows are in order, else as they come
#include "heap.h"

namespace {

template <class T> int compare(T a, T b) { return a < b || (b != b && a == a) ? -1 : a > b || (a != a && b == b); }

template <class T> struct Rows {
  const T *x;
  int64_t m;
  int order(int64_t a, int64_t b) const {
    for (int64_t i = 0; i < m; i++)
      if (const int c = compare(x[a * m + i], x[b * m + i])) return c;
    return 0;
  }
  bool before(int64_t a, int64_t b) const {
    const int c = order(a, b);
    return c ? c < 0 : a < b;
  }
};

template <class T> void run(const wnn_tensor *x, bool sorted, int64_t *at, int64_t *first, int64_t *inverse, int64_t *counts, int64_t *number) {
  const int64_t n = x->shape[0];
  const Rows<T> rows = {(const T *)x->data, x->shape[1]};
  for (int64_t i = 0; i < n; i++) at[i] = i, first[i] = counts[i] = 0;
  const auto behind = [&](int64_t a, int64_t b) { return rows.before(b, a); };
  heapify(at, n, behind);
  sort(at, n, behind);
  int64_t k = 0;
  for (int64_t i = 0; i < n; i++) {
    if (i == 0 || rows.order(at[i - 1], at[i])) first[k++] = at[i];
    inverse[at[i]] = k - 1;
    counts[k - 1]++;
  }
  *number = k;
  if (sorted) return;
  int64_t *const as_they_come = at, *const old = at + n;  // of each different row the number, and those in order
  memcpy(old, counts, size_t(n) * 8);
  int64_t next = 0;
  for (int64_t i = 0; i < n; i++) {
    const int64_t r = inverse[i];
    if (first[r] == i) as_they_come[r] = next++;
    inverse[i] = as_they_come[r];
  }
  for (int64_t r = 0; r < k; r++) counts[as_they_come[r]] = old[r];
  memcpy(old, first, size_t(n) * 8);
  for (int64_t r = 0; r < k; r++) first[as_they_come[r]] = old[r];
}

}  // namespace

SCRATCH(unique) { return size_t(in[0]->shape[0]) * 16; }
KERNEL_S(unique) {
  int64_t *y[4];
  for (int i = 0; i < 4; i++) y[i] = (int64_t *)out[i]->data;
  const auto f = in[0]->dtype == WNN_F32 ? run<float> : in[0]->dtype == WNN_F64 ? run<double> : run<int64_t>;
  f(in[0], attr<int64_t>(attrs, 0), (int64_t *)ctx->scratch, y[0], y[1], y[2], y[3]);
  return 0;
}
