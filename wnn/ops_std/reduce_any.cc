// wnn: once
// The reductions of reduce.cc for every other dtype: floats in double, the rest in int64.
//   x : any shape, contiguous      y : one element for each combination of the kept axes, contiguous
//   attrs: int64, bit k set where axis k is reduced
#include "convert.h"
#include "elementwise.h"

namespace {

enum Op { SUM, MEAN, MAX, MIN, PROD, L1, L2, SUM_SQUARE, LOG_SUM, LOG_SUM_EXP };
constexpr int64_t BLOCK = 256, TASK = 4096;

template <class T> T larger(T a, T b) { return b > a || b != b ? b : a; }
template <class T> T smaller(T a, T b) { return b < a || b != b ? b : a; }

// One result, of a stream of elements
struct Running {
  Op op;
  int64_t n = 0, i;
  double f, top = -HUGE_VAL;
  Running(Op op, int64_t lowest, int64_t highest) : op(op) {
    i = op == MAX ? lowest : op == MIN ? highest : op == PROD;
    f = op == MAX ? -HUGE_VAL : op == MIN ? HUGE_VAL : op == PROD;
  }
  void add(double x) {
    n++;
    switch (op) {
      case MAX: f = larger(f, x); break;
      case MIN: f = smaller(f, x); break;
      case PROD: f *= x; break;
      case L1: f += fabs(x); break;
      case L2: case SUM_SQUARE: f += x * x; break;
      case LOG_SUM_EXP: {
        const double m = larger(top, x), zero = fabs(m) < HUGE_VAL ? m : 0;
        f = (f ? f * exp((fabs(top) < HUGE_VAL ? top : 0) - zero) : 0) + exp(x - zero);
        top = m;
        break;
      }
      default: f += x;
    }
  }
  void add(int64_t x) {
    n++;
    const uint64_t u = uint64_t(x);
    switch (op) {
      case MAX: i = larger(i, x); break;
      case MIN: i = smaller(i, x); break;
      case PROD: i = int64_t(uint64_t(i) * u); break;
      case L1: i = int64_t(uint64_t(i) + (x < 0 ? 0 - u : u)); break;
      case L2: case SUM_SQUARE: i = int64_t(uint64_t(i) + u * u); break;
      case LOG_SUM_EXP: n--, add(double(x)); break;
      default: i = int64_t(uint64_t(i) + u);
    }
  }
  double of_double() const {
    switch (op) {
      case MEAN: return f / double(n);
      case L2: return sqrt(f);
      case LOG_SUM: return log(f);
      case LOG_SUM_EXP: return log(f) + (fabs(top) < HUGE_VAL ? top : 0);
      default: return f;
    }
  }
  int64_t of_int64() const {
    switch (op) {
      case MEAN: return n ? i / n : 0;
      case L2: return int64_t(sqrt(double(i)));
      case LOG_SUM: return int64_t(log(double(i)));
      case LOG_SUM_EXP: return int64_t(of_double());
      default: return i;
    }
  }
};

struct Axis { int64_t n, stride; };
int64_t offset(int64_t index, const Axis *axes, int rank) {
  int64_t at = 0;
  for (int i = rank - 1; i >= 0; index /= axes[i--].n) at += index % axes[i].n * axes[i].stride;
  return at;
}

int reduce(wnn_ctx *ctx, const void *attrs, const wnn_tensor *x, const wnn_tensor *y, Op op) {
  const int64_t mask = attr<int64_t>(attrs, 0), size = item_bytes(x->dtype), results = count(y);
  Axis kept[WNN_MAX_DIMS], gone[WNN_MAX_DIMS];
  int kept_rank = 0, gone_rank = 0;
  int64_t folds = 1, run = 1, stride = 1;  // run: elements side by side
  for (int i = 0; i < x->ndim; i++) {
    stride = 1;
    for (int k = i + 1; k < x->ndim; k++) stride *= x->shape[k];
    (mask >> i & 1 ? gone[gone_rank++] : kept[kept_rank++]) = {x->shape[i], stride};
  }
  if (gone_rank && gone[gone_rank - 1].stride == 1) run = gone[--gone_rank].n;
  for (int i = 0; i < gone_rank; i++) folds *= gone[i].n;
  int64_t lowest = 0, highest = 1;
  if (x->dtype != WNN_BOOL) {
    const bool is_signed = x->dtype == WNN_I8 || x->dtype == WNN_I16 || x->dtype == WNN_I32 || x->dtype == WNN_I64;
    const int bits = int(size) * 8 - is_signed;
    highest = int64_t((uint64_t(1) << (bits - 1)) * 2 - 1);
    lowest = is_signed ? -highest - 1 : 0;
  }
  const int64_t each = TASK / (run * folds + 1) + 1;
  parallel_for(ctx, (results + each - 1) / each, [&](int64_t task, int) {
    union { double f[BLOCK]; int64_t i[BLOCK]; } values;
    for (int64_t o = task * each; o < results && o < (task + 1) * each; o++) {
      Running r(op, lowest, highest);
      for (int64_t k = 0; k < folds; k++) {
        const char *from = (const char *)x->data + (offset(o, kept, kept_rank) + offset(k, gone, gone_rank)) * size;
        for (int64_t at = 0; at < run; at += BLOCK, from += BLOCK * size) {
          const int64_t n = run - at < BLOCK ? run - at : BLOCK;
          if (is_float(x->dtype)) {
            to_f64(x->dtype, from, n, values.f);
            for (int64_t i = 0; i < n; i++) r.add(values.f[i]);
          } else {
            to_i64(x->dtype, from, n, values.i);
            for (int64_t i = 0; i < n; i++) r.add(values.i[i]);
          }
        }
      }
      char *const to = (char *)y->data + o * size;
      const double f = r.of_double();
      const int64_t i = r.of_int64();
      if (is_float(x->dtype)) from_f64(x->dtype, &f, 1, to);
      else from_i64(x->dtype, &i, 1, to);
    }
  });
  return 0;
}

}  // namespace

#define DEFINE(name, op) \
  KERNEL(reduce_##name##_any) { return reduce(ctx, attrs, in[0], out[0], op); }
DEFINE(sum, SUM) DEFINE(mean, MEAN) DEFINE(max, MAX) DEFINE(min, MIN) DEFINE(prod, PROD) DEFINE(l1, L1) DEFINE(l2, L2)
DEFINE(sum_square, SUM_SQUARE) DEFINE(log_sum, LOG_SUM) DEFINE(log_sum_exp, LOG_SUM_EXP)
