// wnn: once
// Operators along one axis in double, for the dtypes without a kernel of their own: softmax, log_softmax, hardmax, lp_norm.
//   x, y : the same shape, any float dtype, contiguous; y may be x
//   attrs: int64 axis, p (of lp_norm; of softmax the dtype that each step is rounded to, 0: x's)
#include "convert.h"
#include "elementwise.h"

namespace {

double largest(const double *v, int64_t n) {
  double m = -HUGE_VAL;
  for (int64_t i = 0; i < n; i++) m = v[i] > m ? v[i] : m;
  return m;
}

double rounded(int32_t dtype, double x) {
  int64_t bits;
  if (dtype != WNN_F16 && dtype != WNN_BF16) return x;
  from_f64(dtype, &x, 1, &bits), to_f64(dtype, &bits, 1, &x);
  return x;
}
// In types of 16 bits by the steps that define it in ONNX, each rounded; numpy sums float16 in float32.
void softmax(double *v, int64_t n, int64_t p) {
  const int32_t dtype = int32_t(p);
  const double m = largest(v, n);
  double sum = 0;
  for (int64_t i = 0; i < n; i++) {
    v[i] = rounded(dtype, exp(rounded(dtype, v[i] - m)));
    sum += v[i];
    if (dtype == WNN_BF16) sum = rounded(dtype, sum);
  }
  sum = rounded(dtype, sum);
  for (int64_t i = 0; i < n; i++) v[i] = rounded(dtype, v[i] / sum);
}
void log_softmax(double *v, int64_t n, int64_t) {
  const double m = largest(v, n);
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += exp(v[i] - m);
  for (int64_t i = 0; i < n; i++) v[i] = v[i] - m - log(sum);
}
void hardmax(double *v, int64_t n, int64_t) {
  int64_t best = 0;
  for (int64_t i = 1; i < n; i++)
    if (v[i] > v[best] || (v[i] != v[i] && v[best] == v[best])) best = i;
  for (int64_t i = 0; i < n; i++) v[i] = i == best;
}
void lp_norm(double *v, int64_t n, int64_t p) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += p == 1 ? fabs(v[i]) : v[i] * v[i];
  const double norm = p == 1 ? sum : sqrt(sum);
  for (int64_t i = 0; i < n; i++) v[i] = norm == 0 ? 0 : v[i] / norm;
}

int lines(wnn_ctx *ctx, const void *attrs, const wnn_tensor *x, const wnn_tensor *y, void (*f)(double *, int64_t, int64_t)) {
  const int64_t axis = attr<int64_t>(attrs, 0), given = attr<int64_t>(attrs, 8), p = given ? given : x->dtype, n = x->shape[axis], size = item_bytes(x->dtype);
  int64_t inner = 1;
  for (int i = int(axis) + 1; i < x->ndim; i++) inner *= x->shape[i];
  const int64_t all = n ? count(x) / n : 0, each = 4096 / (n ? n : 1) + 1;
  parallel_for(ctx, (all + each - 1) / each, [&](int64_t task, int worker) {
    double *const v = (double *)ctx->scratch + worker * n;
    for (int64_t l = task * each; l < all && l < (task + 1) * each; l++) {
      const int64_t at = (l / inner * n * inner + l % inner) * size, step = inner * size, run = inner == 1 ? n : 1;
      for (int64_t i = 0; i < n; i += run) to_f64(x->dtype, (const char *)x->data + at + i * step, run, v + i);
      f(v, n, p);
      for (int64_t i = 0; i < n; i += run) from_f64(y->dtype, v + i, run, (char *)y->data + at + i * step);
    }
  });
  return 0;
}

}  // namespace

#define DEFINE(name) \
  SCRATCH(name##_any) { return size_t(num_threads * in[0]->shape[attr<int64_t>(attrs, 0)]) * sizeof(double); } \
  KERNEL_S(name##_any) { return lines(ctx, attrs, in[0], out[0], name); }
DEFINE(softmax) DEFINE(log_softmax) DEFINE(hardmax) DEFINE(lp_norm)
