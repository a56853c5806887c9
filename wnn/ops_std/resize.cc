// wnn: avx2
// y_o = sum_k weight[o, k] * x[index[o, k]] along some axes, one after another.
//   x, y: contiguous; f32 (resize_f32), or any dtype where every sum has one term (resize_nearest)
//   attrs: int64 axes; for each: int64 axis, taps, int32 index[taps][n], float weight[taps][n], each padded to 8 bytes
// The outermost axis comes first: an element of it is a contiguous slab, so that most sums run along rows. What lies
// between two axes is one slab per axis and worker.
#include "move.h"

namespace {

struct Level {
  int axis;
  int64_t taps, from, to;    // lengths of the axis in x and y
  int64_t before;            // elements of x between the previous resampled axis and this one
  int64_t inner_x, inner_y;  // elements behind the axis, in x and y
  const int32_t *index;
  const float *weight;
};

int read_levels(const void *attrs, const wnn_tensor *x, const wnn_tensor *y, Level *levels) {
  const char *p = (const char *)attrs;
  const int n = int(attr<int64_t>(p, 0));
  p += 8;
  for (int i = 0, start = 0; i < n; i++) {
    Level &l = levels[i];
    l.axis = int(attr<int64_t>(p, 0));
    l.taps = attr<int64_t>(p, 8);
    l.from = x->shape[l.axis], l.to = y->shape[l.axis];
    l.before = product(x, start, l.axis);
    l.inner_x = product(x, l.axis + 1, x->ndim), l.inner_y = product(y, l.axis + 1, y->ndim);
    const int64_t bytes = (l.to * l.taps * 4 + 7) / 8 * 8;
    l.index = (const int32_t *)(p + 16);
    l.weight = (const float *)(p + 16 + bytes);
    p += 16 + 2 * bytes;
    start = l.axis + 1;
  }
  return n;
}

// The weighted sum of n elements each of what x(i) is behind number i of an axis; itself where the sum has one term
template <class Slabs> const float *blend(const Level &l, int64_t o, int64_t n, Slabs x, float *slab) {
  const int32_t *index = l.index + o;
  const float *w = l.weight + o;
  const int64_t to = l.to;
  for (int64_t k = 0; k < l.taps; k++)
    if (w[k * to] == 1.0f && l.taps <= 2) return x(index[k * to]);
  if (l.taps == 2) {
    const float *a = x(index[0]), *b = x(index[to]);
    const float wa = w[0], wb = w[to];
    map(slab, n, [=](auto v, int64_t i) { return v(a + i) * wa + v(b + i) * wb; });
    return slab;
  }
  for (int64_t k = 0; k < l.taps; k++) {
    const float *a = x(index[k * to]);
    const float wk = w[k * to];
    if (k == 0) map(slab, n, [=](auto v, int64_t i) { return v(a + i) * wk; });
    else map(slab, n, [=](auto v, int64_t i) { return v(a + i) * wk + v(slab + i); });
  }
  return slab;
}

// n outputs of a row of single elements, from number o on
void resample_each(const Level &l, const float *x, float *y, int64_t o, int64_t n) {
  for (; n > 0; n--, o++) {
    float sum = 0;
    for (int64_t k = 0; k < l.taps; k++) sum += x[l.index[k * l.to + o]] * l.weight[k * l.to + o];
    y[o] = sum;
  }
}

// The last axis of all, with single elements behind it. A vector of outputs of which one vector of x has all that they need is a
// permutation of it for each tap: so is most that grows. Indices rise along the row and from tap to tap.
void resample_row(const Level &l, const float *x, float *y) {
  if (WNN_ISA == 0 || l.to < L) return resample_each(l, x, y, 0, l.to);
#if WNN_ISA
  const int64_t to = l.to, lanes = l.from < L ? l.from : L;
  for (int64_t next = 0; next < to; next += L) {
    const int64_t o = next + L > to ? to - L : next;  // the last may make some once more
    const int64_t base = l.index[o] + lanes > l.from ? l.from - lanes : l.index[o];
    if (l.index[(l.taps - 1) * to + o + L - 1] - base >= L) {
      resample_each(l, x, y, o, L);
      continue;
    }
    const vf v = load_n(x + base, lanes);
    vf sum{};
    for (int64_t k = 0; k < l.taps; k++) {
      const vi at = *(const vi_u *)(l.index + k * to + o) - int32_t(base);
      sum += vf(_mm256_permutevar8x32_ps(__m256(v), __m256i(at))) * load(l.weight + k * to + o);
    }
    store(y + o, sum);
  }
#endif
}

void resample(const Level *l, int left, const float *x, float *y, float *scratch);

void resample_one(const Level *l, int left, int64_t o, const float *x, float *y, float *scratch) {
  const float *slab = blend(*l, o, l->inner_x, [=](int64_t i) { return x + i * l->inner_x; }, left > 1 ? scratch : y);
  if (left > 1) resample(l + 1, left - 1, slab, y, scratch + l->inner_x);
  else if (slab != y) memcpy(y, slab, size_t(l->inner_x) * 4);
}
void resample(const Level *l, int left, const float *x, float *y, float *scratch) {
  for (int64_t b = 0; b < l->before; b++, x += l->from * l->inner_x, y += l->to * l->inner_y) {
    if (left == 1 && l->inner_x == 1) resample_row(*l, x, y);
    else
      for (int64_t o = 0; o < l->to; o++) resample_one(l, left, o, x, y + o * l->inner_y, scratch);
  }
}

// Planes that grow: each row of x is resampled once, for all the rows of y that it is a tap of
constexpr int most_rows = 4;
bool grows(const Level *l, int n) {
  return n == 2 && l->taps <= most_rows && l->from <= l->to && l[1].inner_x == 1 && l[1].before == 1;
}
// The rows [begin, end) of a plane
void grow(const Level *l, const float *x, float *y, int64_t begin, int64_t end, float *rows) {
  const int64_t n = l[1].to;
  int64_t kept[most_rows] = {-1, -1, -1, -1};
  for (int64_t o = begin; o < end; o++) {
    const auto row = [&](int64_t i) {
      const int64_t place = i % l->taps;  // taps follow one another
      if (kept[place] != i) resample_row(l[1], x + i * l->inner_x, rows + place * n), kept[place] = i;
      return rows + place * n;
    };
    const float *made = blend(*l, o, n, row, y + o * n);
    if (made != y + o * n) memcpy(y + o * n, made, size_t(n) * 4);
  }
}

int64_t scratch_floats(const Level *levels, int n) {
  int64_t total = grows(levels, n) ? levels->taps * levels[1].to : 0;
  for (int i = 0; i + 1 < n; i++) total += levels[i].inner_x;
  return (total + 15) / 16 * 16;
}

template <class T> void pick(const Level *l, int left, const T *x, T *y) {
  for (int64_t b = 0; b < l->before; b++, x += l->from * l->inner_x, y += l->to * l->inner_y) {
    if (left == 1 && l->inner_x == 1) {
      for (int64_t o = 0; o < l->to; o++) y[o] = x[l->index[o]];
      continue;
    }
    for (int64_t o = 0; o < l->to; o++) {
      const T *from = x + l->index[o] * l->inner_x;
      T *to = y + o * l->inner_y;
      if (left > 1) pick(l + 1, left - 1, from, to);
      else copy_some(from, to, l->inner_x);
    }
  }
}
template <class T> void nearest(wnn_ctx *ctx, Level *l, int n, const wnn_tensor *x, wnn_tensor *y) {
  constexpr int64_t few = 16;  // elements behind the axis
  const bool whole = n == 1 && l->inner_x < few;  // a task: whole axes, else some of their elements
  const int64_t before = l->before, steps = whole ? 1 : l->to;
  l->before = 1;
  for_rows(ctx, before * steps, l->to / steps * l->inner_y * int64_t(sizeof(T)), [=](int64_t row) {
    const T *from = (const T *)x->data + row / steps * l->from * l->inner_x;
    T *to = (T *)y->data + row * l->to / steps * l->inner_y;
    if (whole) return pick(l, n, from, to);
    from += l->index[row % steps] * l->inner_x;
    if (n > 1) pick(l + 1, n - 1, from, to);
    else memcpy(to, from, size_t(l->inner_x) * sizeof(T));
  });
}

}  // namespace

SCRATCH(resize_f32) {
  Level levels[WNN_MAX_DIMS];
  return size_t(num_threads) * size_t(scratch_floats(levels, read_levels(attrs, in[0], out[0], levels))) * 4;
}

KERNEL_S(resize_f32) {
  Level l[WNN_MAX_DIMS];
  const int n = read_levels(attrs, in[0], out[0], l);
  const float *x = f32(in[0]);
  float *y = f32(out[0]);
  if (n == 0) return memcpy(y, x, size_t(count(out[0])) * 4), 0;
  const int64_t floats = scratch_floats(l, n);
  if (n == 1 && l->inner_x == 1) {
    for_rows(ctx, l->before, l->to * 4, [&](int64_t b) { resample_row(*l, x + b * l->from, y + b * l->to); });
    return 0;
  }
  if (grows(l, n)) {
    constexpr int64_t band = 32;
    const int64_t bands = (l->to + band - 1) / band;
    parallel_for(ctx, l->before * bands, [&](int64_t task, int worker) {
      const int64_t b = task / bands, o = task % bands * band;
      grow(l, x + b * l->from * l->inner_x, y + b * l->to * l->inner_y, o, o + band < l->to ? o + band : l->to, (float *)ctx->scratch + worker * floats);
    });
    return 0;
  }
  parallel_for(ctx, l->before * l->to, [&](int64_t row, int worker) {
    const int64_t b = row / l->to, o = row % l->to;
    resample_one(l, n, o, x + b * l->from * l->inner_x, y + row * l->inner_y, (float *)ctx->scratch + worker * floats);
  });
  return 0;
}

KERNEL(resize_nearest) {
  Level l[WNN_MAX_DIMS];
  const int n = read_levels(attrs, in[0], out[0], l);
  const int64_t size = item_bytes(in[0]->dtype);
  if (n == 0) return memcpy(out[0]->data, in[0]->data, size_t(count(out[0]) * size)), 0;
  switch (size) {
    case 1: return nearest<uint8_t>(ctx, l, n, in[0], out[0]), 0;
    case 2: return nearest<uint16_t>(ctx, l, n, in[0], out[0]), 0;
    case 4: return nearest<uint32_t>(ctx, l, n, in[0], out[0]), 0;
    default: return nearest<uint64_t>(ctx, l, n, in[0], out[0]), 0;
  }
}
