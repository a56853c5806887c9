// wnn: once hot
// y = f(a, b), element by element with broadcasting, for every dtype: floats in double, the others in int64.
//   a, b: one dtype, any strides    y: contiguous; their dtype, or bool for comparisons
// One kernel f_any for each row of TABLE.
#include "convert.h"
#include "elementwise.h"

namespace {

int64_t wrap(uint64_t x) { return int64_t(x); }
int64_t quotient(int64_t a, int64_t b) { return b == 0 ? 0 : b == -1 ? wrap(0 - uint64_t(a)) : a / b; }
int64_t remainder(int64_t a, int64_t b) { return b == 0 || b == -1 ? 0 : a % b; }
int64_t modulo(int64_t a, int64_t b) {
  const int64_t r = remainder(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
double modulo(double a, double b) {
  const double r = fmod(a, b);
  return r != 0 ? (r < 0) != (b < 0) ? r + b : r : copysign(0.0, b);
}
int64_t power(int64_t a, int64_t b) { return int64_t(pow(double(a), double(b))); }
double least(double a, double b) { return b != b || b < a ? b : a; }
double greatest(double a, double b) { return b != b || b > a ? b : a; }

uint64_t below(uint64_t a, uint64_t b) { return b ? a / b : 0; }

// name, of doubles, of int64s; u_... of uint64s, where signs matter
#define TABLE(F) \
  F(add, a + b, wrap(uint64_t(a) + uint64_t(b))) \
  F(sub, a - b, wrap(uint64_t(a) - uint64_t(b))) \
  F(mul, a * b, wrap(uint64_t(a) * uint64_t(b))) \
  F(div, a / b, quotient(a, b)) \
  F(pow, pow(a, b), power(a, b)) \
  F(min, least(a, b), b < a ? b : a) \
  F(max, greatest(a, b), b > a ? b : a) \
  F(mod, modulo(a, b), modulo(a, b)) \
  F(fmod, fmod(a, b), remainder(a, b)) \
  F(prelu, a < 0 ? a * b : a, a < 0 ? a * b : a) \
  F(equal, a == b, a == b) \
  F(less, a < b, a < b) \
  F(less_equal, a <= b, a <= b) \
  F(greater, a > b, a > b) \
  F(greater_equal, a >= b, a >= b) \
  F(bitwise_and, 0, a & b) \
  F(bitwise_or, 0, a | b) \
  F(bitwise_xor, 0, a ^ b) \
  F(shift_left, 0, uint64_t(b) < 64 ? wrap(uint64_t(a) << b) : 0) \
  F(shift_right, 0, a >> (uint64_t(b) < 64 ? b : 63)) \
  F(u_shift_right, 0, uint64_t(b) < 64 ? wrap(uint64_t(a) >> b) : 0) \
  F(u_div, 0, wrap(below(uint64_t(a), uint64_t(b)))) \
  F(u_mod, 0, wrap(uint64_t(a) - below(uint64_t(a), uint64_t(b)) * uint64_t(b))) \
  F(u_min, 0, uint64_t(b) < uint64_t(a) ? b : a) \
  F(u_max, 0, uint64_t(b) > uint64_t(a) ? b : a) \
  F(u_less, 0, uint64_t(a) < uint64_t(b)) \
  F(u_less_equal, 0, uint64_t(a) <= uint64_t(b)) \
  F(u_greater, 0, uint64_t(a) > uint64_t(b)) \
  F(u_greater_equal, 0, uint64_t(a) >= uint64_t(b))

// Over a block, so that a row is one loop. A comparison's result is an int64 whatever it compares.
#define ROW(name, of_double, of_int64) \
  {[](const double *x, const double *y, double *z, int64_t n) { \
     for (int64_t i = 0; i < n; i++) { [[maybe_unused]] const double a = x[i], b = y[i]; z[i] = double(of_double); } \
   }, \
   [](const int64_t *x, const int64_t *y, int64_t *z, int64_t n) { \
     for (int64_t i = 0; i < n; i++) { const int64_t a = x[i], b = y[i]; z[i] = int64_t(of_int64); } \
   }},
const struct Row {
  void (*f)(const double *, const double *, double *, int64_t);
  void (*i)(const int64_t *, const int64_t *, int64_t *, int64_t);
} rows[] = {TABLE(ROW)};
#define NUMBER(name, of_double, of_int64) row_##name,
enum { TABLE(NUMBER) };

struct Call { Row row; int32_t from, to; };

void block(const void *arg, const void *const *in, void *out, int64_t n) {
  const Call &c = *(const Call *)arg;
  union { double f[256]; int64_t i[256]; } x, y;
  const int64_t size = item_bytes(c.from);
  for (int64_t at = 0; at < n; at += 256) {
    const int64_t m = n - at < 256 ? n - at : 256;
    const char *const a = (const char *)in[0] + at * size, *const b = (const char *)in[1] + at * size;
    char *const to = (char *)out + at * item_bytes(c.to);
    const bool whole = c.from == WNN_I64 || c.from == WNN_U64;
    if (is_float(c.from)) {
      to_f64(c.from, a, m, x.f), to_f64(c.from, b, m, y.f);
      c.row.f(x.f, y.f, x.f, m);
      from_f64(c.to, x.f, m, to);
    } else if (whole && c.to == c.from) {
      c.row.i((const int64_t *)a, (const int64_t *)b, (int64_t *)to, m);
    } else {
      if (!whole) to_i64(c.from, a, m, x.i), to_i64(c.from, b, m, y.i);
      c.row.i(whole ? (const int64_t *)a : x.i, whole ? (const int64_t *)b : y.i, x.i, m);
      from_i64(c.to, x.i, m, to);
    }
  }
}

int run(wnn_ctx *ctx, const wnn_tensor *const *in, wnn_tensor *const *out, const Row &row) {
  const Call c = {row, in[0]->dtype, out[0]->dtype};
  return elementwise(ctx, in, 2, out[0], block, &c);
}

}  // namespace

typedef uint8_t Bytes __attribute__((vector_size(16), aligned(1), may_alias));
#define LOGIC(name, op) \
  static void name##_block(const void *, const void *const *in, void *out, int64_t n) { \
    const uint8_t *const a = (const uint8_t *)in[0], *const b = (const uint8_t *)in[1]; \
    uint8_t *const y = (uint8_t *)out; \
    int64_t i = 0; \
    for (; i + 16 <= n; i += 16) \
      *(Bytes *)(y + i) = Bytes(((*(const Bytes *)(a + i) != 0) op (*(const Bytes *)(b + i) != 0)) & 1); \
    for (; i < n; i++) y[i] = (a[i] != 0) op (b[i] != 0); \
  } \
  KERNEL(name##_bool) { return elementwise(ctx, in, 2, out[0], name##_block, nullptr); }
LOGIC(and, &)
LOGIC(or, |)
LOGIC(xor, ^)

#define DEFINE(name, of_double, of_int64) KERNEL(name##_any) { return run(ctx, in, out, rows[row_##name]); }
TABLE(DEFINE)
