// wnn: avx2
// Reductions of f32 over any axes: y = finish(join over the reduced axes of f(x)); TABLE lists them.
//   x : any shape, contiguous      y : one element for each combination of the kept axes, contiguous
//   attrs: int64, bit k set where axis k is reduced
// Neighbouring axes of one kind are taken as one. What is innermost makes a matrix of rows: of all kept columns, or of 4
// vectors of a reduced run. Its rows are joined as a binary tree over groups of 16, so that errors grow with the logarithm.
#include "vecmath.h"

namespace {

constexpr int64_t TASK = 16384;  // elements
constexpr int64_t LEAF = 16;     // rows
constexpr int64_t SHORT = 2 * L;  // elements of a run
constexpr int WIDE = 4;          // vectors to a row

struct Identity { WNN_MEMBER vf operator()(vf x, vf) const { return x; } };
struct Abs { WNN_MEMBER vf operator()(vf x, vf) const { return vabs(x); } };
struct Square { WNN_MEMBER vf operator()(vf x, vf) const { return x * x; } };
struct Exp { WNN_MEMBER vf operator()(vf x, vf shift) const { return vexp(x - shift); } };

struct Add { static constexpr float start = 0; WNN_MEMBER vf operator()(vf a, vf b) const { return a + b; } };
struct Mul { static constexpr float start = 1; WNN_MEMBER vf operator()(vf a, vf b) const { return a * b; } };
struct Max {  // NaN wins
  static constexpr float start = -INFINITY;
  WNN_MEMBER vf operator()(vf a, vf b) const { return (b > a) | (b != b) ? b : a; }
};
struct Min {
  static constexpr float start = INFINITY;
  WNN_MEMBER vf operator()(vf a, vf b) const { return (b < a) | (b != b) ? b : a; }
};
enum Finish { PLAIN, MEAN, ROOT, LOG };
vf finished(vf y, Finish how, float n, vf shift) {
  return how == MEAN ? y / n : how == ROOT ? vsqrt(y) : how == LOG ? vlog(y) + shift : y;
}

template <int V> struct Row { vf v[V]; };

// What a reduction does: f and join over at most LEAF rows, `step` apart, the last vector of each with `tail` lanes; and join
struct Fold {
  Row<WIDE> (*wide)(const float *x, int64_t rows, int64_t step, int64_t tail, const Row<WIDE> &shift);
  Row<1> (*narrow)(const float *x, int64_t rows, int64_t step, int64_t tail, const Row<1> &shift);
  vf (*join)(vf, vf);
  float start;
};

template <int V, class F, class J> Row<V> leaf(const float *x, int64_t rows, int64_t step, int64_t tail, const Row<V> &shift) {
  vf y[V], m[V];
#pragma GCC unroll 4
  for (int k = 0; k < V; k++) y[k] = splat(J::start), m[k] = shift.v[k];
  for (int64_t i = 0; i < rows; i++, x += step)
#pragma GCC unroll 4
    for (int k = 0; k < V; k++) y[k] = J{}(y[k], F{}(k < V - 1 ? load(x + k * L) : load_n(x + k * L, tail), m[k]));
  Row<V> out;
#pragma GCC unroll 4
  for (int k = 0; k < V; k++) out.v[k] = y[k];
  return out;
}
template <class F, class J> constexpr Fold fold_of = {leaf<WIDE, F, J>, leaf<1, F, J>, [](vf a, vf b) { return J{}(a, b); }, J::start};

Row<WIDE> leaf_of(const Fold &f, const float *x, int64_t rows, int64_t step, int64_t tail, const Row<WIDE> &shift) {
  return f.wide(x, rows, step, tail, shift);
}
Row<1> leaf_of(const Fold &f, const float *x, int64_t rows, int64_t step, int64_t tail, const Row<1> &shift) {
  return f.narrow(x, rows, step, tail, shift);
}

// The columns' results over any number of rows
template <int V> Row<V> tree(const Fold &f, const float *x, int64_t rows, int64_t step, int64_t tail, const Row<V> &shift) {
  if (rows <= LEAF) return leaf_of(f, x, rows, step, tail, shift);
  const int64_t half = (rows / 2 + LEAF - 1) / LEAF * LEAF;
  Row<V> a = tree(f, x, half, step, tail, shift);
  const Row<V> b = tree(f, x + half * step, rows - half, step, tail, shift);
  for (int k = 0; k < V; k++) a.v[k] = f.join(a.v[k], b.v[k]);
  return a;
}

// n contiguous elements as one
float run(const Fold &f, const float *x, int64_t n, float shift) {
  const vf m = splat(shift);
  vf y = splat(f.start);
  int64_t i = 0;
  if (n >= WIDE * L) {
    const Row<WIDE> r = tree(f, x, n / (WIDE * L), WIDE * L, L, Row<WIDE>{m, m, m, m});
    y = f.join(f.join(r.v[0], r.v[1]), f.join(r.v[2], r.v[3]));
    i = n - n % (WIDE * L);
  }
  if (n - i >= L) {
    y = f.join(y, f.narrow(x + i, (n - i) / L, L, L, {m}).v[0]);
    i = n - n % L;
  }
  if (i < n) y = f.join(y, keep_n(f.narrow(x + i, 1, L, n - i, {m}).v[0], n - i, splat(f.start)));
  float lanes[2 * L] = {};
  store(lanes, y);
  for (int64_t w = L / 2; w; w /= 2) store(lanes, f.join(load(lanes), load(lanes + w)));
  return lanes[0];
}

struct Axis { int64_t n, stride; };
int64_t offset(int64_t index, const Axis *axes, int rank) {
  int64_t at = 0;
  for (int i = rank - 1; i > 0; index /= axes[i--].n) at += index % axes[i].n * axes[i].stride;
  return rank ? at + index * axes[0].stride : 0;
}

struct Shape {
  int64_t columns, rows, outputs, folds;  // the innermost matrix; how many kept and how many reduced indices lie outside it
  Axis kept[WNN_MAX_DIMS], reduced[WNN_MAX_DIMS];
  int kept_rank, reduced_rank;
  bool contiguous;                        // a reduced run of `rows` elements, no columns

  Shape(const wnn_tensor *x, int64_t mask) {
    Axis axes[WNN_MAX_DIMS];
    bool gone[WNN_MAX_DIMS];
    int rank = 0;
    int64_t stride = 1;
    for (int i = x->ndim - 1; i >= 0; stride *= x->shape[i--]) {
      const bool g = mask >> i & 1;
      if (x->shape[i] == 1) continue;
      if (rank && gone[rank - 1] == g) axes[rank - 1].n *= x->shape[i];
      else axes[rank] = {x->shape[i], stride}, gone[rank++] = g;
    }
    int at = 0;  // axes[0] is the innermost
    contiguous = rank && gone[0];
    columns = contiguous || !rank ? 1 : axes[at++].n;
    rows = at < rank ? axes[at++].n : 1;
    outputs = folds = 1;
    kept_rank = reduced_rank = 0;
    for (int i = rank - 1; i >= at; i--) {
      if (gone[i]) reduced[reduced_rank++] = axes[i], folds *= axes[i].n;
      else kept[kept_rank++] = axes[i], outputs *= axes[i].n;
    }
  }
};

// V vectors of columns
template <int V> void block(const Shape &s, const Fold &f, const float *x, float *y, int64_t tail, bool shifted, Finish how) {
  Row<V> shift{}, r;
  for (int k = 0; k < V; k++) {
    r.v[k] = splat(f.start);
    if (shifted) shift.v[k] = k < V - 1 ? load(y + k * L) : load_n(y + k * L, tail);
  }
  if (s.folds > 0) r = tree(f, x, s.rows, s.columns, tail, shift);
  for (int64_t i = 1; i < s.folds; i++) {
    const Row<V> part = tree(f, x + offset(i, s.reduced, s.reduced_rank), s.rows, s.columns, tail, shift);
    for (int k = 0; k < V; k++) r.v[k] = f.join(r.v[k], part.v[k]);
  }
  for (int k = 0; k < V; k++) {
    const vf v = how == PLAIN ? r.v[k] : finished(r.v[k], how, float(s.rows * s.folds), shift.v[k]);
    k < V - 1 || tail == L ? store(y + k * L, v) : store_n(y + k * L, v, tail);
  }
}

// Runs of few elements, one behind the other: as columns of a transposed copy, so that a vector holds results of many
void short_runs(const Shape &s, const Fold &f, const float *x, float *y, int64_t count, bool shifted, Finish how) {
  float columns[SHORT * L];
  for (int64_t o = 0; o < count; o += L, x += s.rows * L, y += L) {
    const int64_t n = count - o < L ? count - o : L;
    for (int64_t l = 0; l < n; l++)
      for (int64_t i = 0; i < s.rows; i++) columns[i * L + l] = x[l * s.rows + i];
    const vf shift = shifted ? load_n(y, n) : vf{};
    const vf r = tree(f, columns, s.rows, L, n, Row<1>{shift}).v[0];
    store_n(y, finished(r, how, float(s.rows), shift), n);
  }
}

// shifted: y holds what f is given beside x
void reduce(wnn_ctx *ctx, const Shape &s, const Fold &f, const float *x, float *y, bool shifted, Finish how) {
  constexpr int64_t width = WIDE * L;
  const int64_t blocks = (s.columns + width - 1) / width, all = s.outputs * blocks;
  const int64_t work = s.rows * s.folds * (s.columns < width ? s.columns : width);
  const int64_t each = work >= TASK ? 1 : TASK / (work ? work : 1);
  parallel_for(ctx, (all + each - 1) / each, [&](int64_t task, int) {
    if (s.contiguous && s.rows <= SHORT && s.reduced_rank == 0)
      return short_runs(s, f, x + task * each * s.rows, y + task * each, all - task * each < each ? all - task * each : each, shifted, how);
    for (int64_t b = task * each; b < all && b < (task + 1) * each; b++) {
      const int64_t o = b / blocks, from = b % blocks * width, to = s.columns - from < width ? s.columns : from + width;
      const float *const at = x + offset(o, s.kept, s.kept_rank);
      float *const out = y + o * s.columns;
      if (s.contiguous) {
        const float shift = shifted ? *out : 0;
        vf r = splat(f.start);
        for (int64_t i = 0; i < s.folds; i++) r = f.join(r, splat(run(f, at + offset(i, s.reduced, s.reduced_rank), s.rows, shift)));
        *out = finished(r, how, float(s.rows * s.folds), splat(shift))[0];
      } else if (to - from == width) {
        block<WIDE>(s, f, at + from, out + from, L, shifted, how);
      } else {
        for (int64_t c = from; c < to; c += L) block<1>(s, f, at + c, out + c, to - c < L ? to - c : L, shifted, how);
      }
    }
  });
}

int start(wnn_ctx *ctx, const void *attrs, const wnn_tensor *x, const wnn_tensor *y, const Fold &f, Finish how) {
  if (count(y)) reduce(ctx, Shape(x, attr<int64_t>(attrs, 0)), f, f32(x), f32(y), false, how);
  return 0;
}

}  // namespace

#define TABLE(D) \
  D(sum, PLAIN, Identity, Add) D(mean, MEAN, Identity, Add) D(max, PLAIN, Identity, Max) D(min, PLAIN, Identity, Min) \
  D(prod, PLAIN, Identity, Mul) D(l1, PLAIN, Abs, Add) D(l2, ROOT, Square, Add) D(sum_square, PLAIN, Square, Add) \
  D(log_sum, LOG, Identity, Add)
#define DEFINE(name, how, f, join) \
  KERNEL(reduce_##name##_f32) { return start(ctx, attrs, in[0], out[0], fold_of<f, join>, how); }
TABLE(DEFINE)

// ln sum e^x = ln sum e^(x - m) + m, m the maximum, or 0 where that is not finite
KERNEL(reduce_log_sum_exp_f32) {
  const int64_t n = count(out[0]);
  float *const y = f32(out[0]);
  if (n == 0) return 0;
  const Shape s(in[0], attr<int64_t>(attrs, 0));
  reduce(ctx, s, fold_of<Identity, Max>, f32(in[0]), y, false, PLAIN);
  map(y, n, [=](auto v, int64_t i) { const vf m = v(y + i); return vabs(m) < INFINITY ? m : vf{}; });
  reduce(ctx, s, fold_of<Exp, Add>, f32(in[0]), y, true, LOG);
  return 0;
}
