// What attention.cc does with rows of scores, in vectors.
#include <float.h>

#include "attention.h"
#include "vecmath.h"

namespace {

// Four rows of s: s = exp2(factor * (s - max)), over columns [0, n); sums[r] their sums. What is lost in rounding
// factor * max is the same for all of a row.
void softmax_four(float *s, int64_t ld, int64_t n, float factor, float *sums) {
  const auto max = [](auto x, auto y) { return x > y ? x : y; };
  const auto add = [](auto x, auto y) { return x + y; };
  vf a[4];
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) a[r] = splat(-INFINITY);
  int64_t j = 0;
  for (; j + L <= n; j += L)
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) a[r] = max(load(s + r * ld + j), a[r]);
  vf top[4], sum[4];
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) {
    if (j < n) a[r] = max(keep_n(load(s + r * ld + j), n - j, splat(-INFINITY)), a[r]);
    float most = fold(a[r], max);
    if (most == -INFINITY) most = -FLT_MAX;  // then the sum is 0, unless there is a NaN
    if (fabsf(most) > 1e38f && fabsf(most) < INFINITY) {  // as where all keys are masked by -FLT_MAX: times factor it overflows
      map(s + r * ld, n, [=](auto v, int64_t i) { return v(s + r * ld + i) - most; });
      most = 0;
    }
    top[r] = splat(factor * most);
    sum[r] = vf{};
  }
  for (j = 0; j < n; j += L)
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
      const vf p = vexp2_negative(load(s + r * ld + j) * factor - top[r]);
      store(s + r * ld + j, p);
      sum[r] += n - j < L ? keep_n(p, n - j, vf{}) : p;
    }
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) sums[r] = fold(sum[r], add);
}

void softmax(float *s, int64_t ld, int64_t rows, int64_t n, float factor, float *sums) {
  for (int64_t i = 0; i < rows; i += 4) softmax_four(s + i * ld, ld, n, factor, sums + i);
}

void scale_and_mask(float *s, int64_t ld, int64_t rows, int64_t n, float scale, const float *mask, int64_t row, int64_t column) {
  for (int64_t i = 0; i < rows; i++, s += ld, mask += row) {
    if (!mask) map(s, n, [=](auto v, int64_t j) { return v(s + j) * scale; });
    else if (column == 1) map(s, n, [=](auto v, int64_t j) { return v(s + j) * scale + v(mask + j); });
    else
      for (int64_t j = 0; j < n; j++) s[j] = s[j] * scale + mask[j * column];
  }
}

void divide(float *y, int64_t ld, int64_t rows, int64_t n, const float *sums, bool guarded, bool hidden) {
  for (int64_t i = 0; i < rows; i++, y += ld) {
    const float inverse = 1.0f / sums[i];
    if ((guarded && !(sums[i] > 0)) || (hidden && sums[i] == 0)) memset(y, 0, size_t(n) * 4);
    else map(y, n, [=](auto v, int64_t j) { return v(y + j) * inverse; });
  }
}

const AttentionRows functions = {softmax, scale_and_mask, divide};
const AttentionRows *attention_rows() { return &functions; }
HOST_FUNCTION(attention_rows)

}  // namespace
