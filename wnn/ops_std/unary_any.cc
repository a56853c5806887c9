// wnn: once
// y = f(x), element by element, for every dtype that unary.cc does not have: floats in double, the others in int64.
//   x: any strides    y: contiguous; x's dtype, or bool for predicates
//   attrs: struct { double a, b; }
// One kernel f_any for each row of TABLE.
#include "convert.h"
#include "elementwise.h"

namespace {

double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }
double sigmoid(double x) { return 1 / (1 + exp(-x)); }
double softplus(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }
double clip(double x, double a, double b) { return x < a ? (a < b ? a : b) : x > b ? b : x; }
double gelu_tanh(double x) { return x * 0.5 * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x))); }

// name, of a double x, of an int64 x
#define TABLE(F) \
  F(relu, x < 0 ? 0 : x, x < 0 ? 0 : x) \
  F(leaky_relu, x < 0 ? a * x : x, x) \
  F(clip, clip(x, a, b), double(x) < a ? int64_t(a) : double(x) > b ? int64_t(b) : x) \
  F(sigmoid, sigmoid(x), x) \
  F(hard_sigmoid, clip(a * x + b, 0, 1), x) \
  F(silu, x * sigmoid(x), x) \
  F(hard_swish, x * clip(x / 6 + 0.5, 0, 1), x) \
  F(tanh, tanh(x), x) \
  F(gelu, 0.5 * x * (1 + erf(x * 0.70710678118654752)), x) \
  F(gelu_tanh, gelu_tanh(x), x) \
  F(erf, erf(x), x) \
  F(exp, exp(x), x) \
  F(log, log(x), x) \
  F(sqrt, sqrt(x), x) \
  F(reciprocal, 1 / x, x) \
  F(abs, fabs(x), x < 0 ? int64_t(0 - uint64_t(x)) : x) \
  F(neg, -x, int64_t(0 - uint64_t(x))) \
  F(sign, sign(x), (x > 0) - (x < 0)) \
  F(floor, floor(x), x) \
  F(ceil, ceil(x), x) \
  F(round, rint(x), x) \
  F(sin, sin(x), x) \
  F(cos, cos(x), x) \
  F(elu, x < 0 ? a * expm1(x) : x, x) \
  F(selu, b * (x < 0 ? a * expm1(x) : x), x) \
  F(celu, x < 0 ? a * expm1(x / a) : x, x) \
  F(softplus, softplus(x), x) \
  F(mish, x * tanh(softplus(x)), x) \
  F(softsign, x / (1 + fabs(x)), x) \
  F(thresholded_relu, x > a ? x : 0, x) \
  F(shrink, x < -a ? x + b : x > a ? x - b : 0, double(x) < -a ? int64_t(x + b) : double(x) > a ? int64_t(x - b) : 0) \
  F(tan, tan(x), x) \
  F(asin, asin(x), x) \
  F(acos, acos(x), x) \
  F(atan, atan(x), x) \
  F(sinh, sinh(x), x) \
  F(cosh, cosh(x), x) \
  F(asinh, asinh(x), x) \
  F(acosh, acosh(x), x) \
  F(atanh, atanh(x), x) \
  F(isnan, x != x, 0) \
  F(isinf, (a != 0 && x == HUGE_VAL) || (b != 0 && x == -HUGE_VAL), 0) \
  F(bitwise_not, x, ~x)

#define ROW(name, of_double, of_int64) \
  {[]([[maybe_unused]] double x, [[maybe_unused]] double a, [[maybe_unused]] double b) -> double { return of_double; }, \
   []([[maybe_unused]] int64_t x, [[maybe_unused]] double a, [[maybe_unused]] double b) -> int64_t { return of_int64; }},
const struct Row { double (*f)(double, double, double); int64_t (*i)(int64_t, double, double); } rows[] = {TABLE(ROW)};
#define NUMBER(name, of_double, of_int64) row_##name,
enum { TABLE(NUMBER) };

struct Call { Row row; int32_t from, to; double a, b; };

void block(const void *arg, const void *const *in, void *out, int64_t n) {
  const Call &c = *(const Call *)arg;
  union { double f[256]; int64_t i[256]; } x;
  for (int64_t at = 0; at < n; at += 256) {
    const int64_t m = n - at < 256 ? n - at : 256;
    const char *const from = (const char *)in[0] + at * item_bytes(c.from);
    char *const to = (char *)out + at * item_bytes(c.to);
    if (is_float(c.from)) {
      to_f64(c.from, from, m, x.f);
      for (int64_t i = 0; i < m; i++) x.f[i] = c.row.f(x.f[i], c.a, c.b);
      from_f64(c.to, x.f, m, to);
    } else {
      to_i64(c.from, from, m, x.i);
      for (int64_t i = 0; i < m; i++) x.i[i] = c.row.i(x.i[i], c.a, c.b);
      from_i64(c.to, x.i, m, to);
    }
  }
}

int run(wnn_ctx *ctx, const void *attrs, const wnn_tensor *const *in, wnn_tensor *const *out, const Row &row) {
  const Call c = {row, in[0]->dtype, out[0]->dtype, attr<double>(attrs, 0), attr<double>(attrs, 8)};
  return elementwise(ctx, in, 1, out[0], block, &c);
}

}  // namespace

typedef uint8_t Bytes __attribute__((vector_size(16), aligned(1), may_alias));
static void not_block(const void *, const void *const *in, void *out, int64_t n) {
  const uint8_t *const x = (const uint8_t *)in[0];
  uint8_t *const y = (uint8_t *)out;
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) *(Bytes *)(y + i) = Bytes((*(const Bytes *)(x + i) == 0) & 1);
  for (; i < n; i++) y[i] = x[i] == 0;
}
KERNEL(not_bool) { return elementwise(ctx, in, 1, out[0], not_block, nullptr); }

#define DEFINE(name, of_double, of_int64) KERNEL(name##_any) { return run(ctx, attrs, in, out, rows[row_##name]); }
TABLE(DEFINE)
