// wnn: once
// topk: the k first elements along an axis by value, ties by position, and where they stand.
//   x: contiguous      k: as y says      values, indices (i64): contiguous      attrs: struct { int64_t axis, largest; }
// arg_max, arg_min: where the extreme along an axis stands (i64); NaN counts as one.
//   x: contiguous      attrs: struct { int64_t axis, last; }: of equal ones the last
#include "heap.h"
#include "move.h"

namespace {

template <class T> int topk_of(wnn_ctx *ctx, const void *attrs, const wnn_tensor *x, wnn_tensor *const *out) {
  typedef Key<T> K;
  const int axis = int(attr<int64_t>(attrs, 0));
  const bool largest = attr<int64_t>(attrs, 8);
  const int64_t n = x->shape[axis], k = out[0]->shape[axis], inner = product(x, axis + 1, x->ndim),
                lanes = product(x, 0, axis) * inner;
  if (k == 0) return 0;
  parallel_for(ctx, lanes, [&](int64_t lane, int worker) {
    K *const heap = (K *)ctx->scratch + worker * k;
    const T *const from = (const T *)x->data + lane / inner * n * inner + lane % inner;
    const auto value = [=](K key) { return from[place_of(key) * inner]; };
    for (int64_t i = 0; i < k; i++) heap[i] = key_of(from[i * inner], i, largest);
    heapify(heap, k);
    T worst = value(heap[0]);
    for (int64_t i = k; i < n; i++) {
      const T v = from[i * inner];
      if (largest ? v <= worst : v >= worst) continue;
      const K key = key_of(v, i, largest);
      if (key > heap[0]) sink(heap, k, 0, key), worst = value(heap[0]);
    }
    sort(heap, k);
    const int64_t base = lane / inner * k * inner + lane % inner;
    for (int64_t i = 0; i < k; i++) {
      ((T *)out[0]->data)[base + i * inner] = value(heap[i]);
      ((int64_t *)out[1]->data)[base + i * inner] = place_of(heap[i]);
    }
  });
  return 0;
}

// The first (last) of the n elements that equals x, which one of them does
int64_t find(const float *p, int64_t n, float x, bool last) {
  typedef int32_t V __attribute__((vector_size(16)));
  if (last) {
    while (p[n - 1] != x) n--;
    return n - 1;
  }
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const vf w = splat(x);
    const V hit = (load(p + i) == w) | (load(p + i + 4) == w) | (load(p + i + 8) == w) | (load(p + i + 12) == w);
    const auto halves = (uint64_t __attribute__((vector_size(16))))hit;
    if (halves[0] | halves[1]) break;
  }
  while (p[i] != x) i++;
  return i;
}
// Where a row has no NaN, its extreme is found by vectors and then looked for
bool extreme_of_row(const float *p, int64_t n, float sign, bool last, int64_t *at) {
  const float nan = reduce_sum(n, [=](auto v, int64_t i) { return v(p + i) * 0.0f; });
  if (nan != 0.0f) return false;
  const float x = sign * reduce_max(n, [=](auto v, int64_t i) { return sign * v(p + i); });
  *at = find(p, n, x, last);
  return true;
}

// Of each of up to L columns that begin `step` apart, with n elements `inner` apart, where the extreme stands
void extremes_of_columns(const float *p, int64_t n, int64_t inner, int64_t step, int64_t columns, float sign, bool last, int64_t *at) {
  vf found = splat(-INFINITY);
  vi place = (last ? int32_t(n) - 1 : 0) - vi{};
  int64_t from[L];
  for (int c = 0; c < L; c++) from[c] = smaller(c, columns - 1) * step;
  for (int64_t i = 0; i < n; i++) {
    const int64_t here = last ? n - 1 - i : i;
    vf v = {};
    if (step == 1) v = load_n(p + here * inner, columns);
    else
#pragma GCC unroll 4
      for (int c = 0; c < L; c++) v[c] = p[here * inner + from[c]];
    v *= sign;
    const vi better = (v > found) | ((v != v) & (found == found));
    found = better ? v : found, place = better ? int32_t(here) - vi{} : place;
  }
  for (int64_t c = 0; c < columns; c++) at[c] = place[c];
}

template <class T> int extreme(wnn_ctx *ctx, const void *attrs, const wnn_tensor *x, wnn_tensor *y, bool largest) {
  const int axis = int(attr<int64_t>(attrs, 0));
  const bool last = attr<int64_t>(attrs, 8);
  const int64_t n = x->shape[axis], inner = product(x, axis + 1, x->ndim);
  const float sign = largest ? 1.0f : -1.0f;
  const int64_t outer = product(x, 0, axis), step = inner > 1 ? 1 : n, across = inner > 1 ? inner : outer;
  if (x->dtype == WNN_F32 && (inner > 1 || n <= 64)) {  // columns, or short rows
    const int64_t blocks = (across + L - 1) / L;
    for_rows(ctx, (inner > 1 ? outer : 1) * blocks, n * L * 4, [&](int64_t block) {
      const int64_t o = block / blocks, c = block % blocks * L;
      extremes_of_columns(f32(x) + o * n * inner + c * step, n, inner, step, smaller(L, across - c), sign, last, (int64_t *)y->data + o * inner + c);
    });
    return 0;
  }
  for_rows(ctx, product(x, 0, axis) * inner, n * int64_t(sizeof(T)), [&](int64_t lane) {
    const T *p = (const T *)x->data + lane / inner * n * inner + lane % inner;
    if (x->dtype == WNN_F32 && extreme_of_row((const float *)p, n, sign, last, (int64_t *)y->data + lane)) return;
    int64_t at = last ? n - 1 : 0;
    T found = p[at * inner];
    for (int64_t i = 1; i < n && found == found; i++) {
      const int64_t here = last ? n - 1 - i : i;
      const T v = p[here * inner];
      if ((largest ? v > found : v < found) || v != v) found = v, at = here;
    }
    ((int64_t *)y->data)[lane] = at;
  });
  return 0;
}
int extreme_of(wnn_ctx *ctx, const void *attrs, const wnn_tensor *x, wnn_tensor *y, bool largest) {
  switch (x->dtype) {
    case WNN_F32: return extreme<float>(ctx, attrs, x, y, largest);
    case WNN_I64: return extreme<int64_t>(ctx, attrs, x, y, largest);
    case WNN_I32: return extreme<int32_t>(ctx, attrs, x, y, largest);
    default: return extreme<uint8_t>(ctx, attrs, x, y, largest);
  }
}

}  // namespace

SCRATCH(topk) { return size_t(num_threads) * size_t(out[0]->shape[attr<int64_t>(attrs, 0)]) * 16; }

KERNEL_S(topk) {
  switch (in[0]->dtype) {
    case WNN_F32: return topk_of<float>(ctx, attrs, in[0], out);
    case WNN_I64: return topk_of<int64_t>(ctx, attrs, in[0], out);
    case WNN_I32: return topk_of<int32_t>(ctx, attrs, in[0], out);
    default: return topk_of<uint8_t>(ctx, attrs, in[0], out);
  }
}
KERNEL(arg_max) { return extreme_of(ctx, attrs, in[0], out[0], true); }
KERNEL(arg_min) { return extreme_of(ctx, attrs, in[0], out[0], false); }
