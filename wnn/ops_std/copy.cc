// wnn: avx2
// y = x, between any strides.
//   x, y : the same shape and dtype, any strides; they must not overlap
// Axes are merged where both sides allow and ordered by y's strides, so that writes run along memory. The last two that
// remain are a plane of rows: contiguous on both sides, a repeated value, transposed (x runs along the other axis), or
// strided. Planes are cut into blocks that fit the first cache; blocks are the unit of work, small planes several together.
#include <utility>
#include "move.h"

namespace {

struct Axis { int64_t n, from, to; };

constexpr int64_t BLOCK_BYTES = 16384, TASK_BYTES = 65536;

int64_t magnitude(int64_t x) { return x < 0 ? -x : x; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// N x N elements in registers. Interleaving row i with row i + N/2, for all i, log2(N) times over, transposes them.
template <class T> struct Tile {
  static constexpr int BYTES = sizeof(T) < 4 ? 16 : L * 4, N = BYTES / int(sizeof(T));
  typedef T V __attribute__((vector_size(BYTES)));
  typedef std::make_integer_sequence<int, N> Lanes;

  template <int... I> static V low(V a, V b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (I / 2 + I % 2 * N)...);
  }
  template <int... I> static V high(V a, V b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (N / 2 + I / 2 + I % 2 * N)...);
  }
  // y[i*to + j] = x[i + j*from]
  static void transpose(const T *x, int64_t from, T *y, int64_t to) {
    V rows[N], mixed[N];
#pragma GCC unroll 16
    for (int j = 0; j < N; j++) memcpy(&rows[j], x + j * from, BYTES);
#pragma GCC unroll 4
    for (int step = 1; step < N; step *= 2) {
#pragma GCC unroll 16
      for (int i = 0; i < N / 2; i++) {
        mixed[2 * i] = low(rows[i], rows[i + N / 2], Lanes());
        mixed[2 * i + 1] = high(rows[i], rows[i + N / 2], Lanes());
      }
#pragma GCC unroll 16
      for (int i = 0; i < N; i++) rows[i] = mixed[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; i++) memcpy(y + i * to, &rows[i], BYTES);
  }
};

// y[i*C + c] = x[i + c*from] for N values of i: C rows into one, element by element.
template <class T, int C> struct Weave {
  typedef typename Tile<T>::V V;
  static constexpr int N = Tile<T>::N;

  // Vector k of y with the elements of row c put where they belong; c = 1 puts those of row 0 as well
  template <int k, int c, int... I> static V put(V y, V row, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(y, row, ((k * N + I) % C == c ? N + (k * N + I) / C : c == 1 ? (k * N + I) / C % N : I)...);
  }
  template <int k> static void vector(const V *rows, T *y) {
    V v = put<k, 1>(rows[0], rows[1], typename Tile<T>::Lanes());
    if constexpr (C > 2) v = put<k, 2>(v, rows[2], typename Tile<T>::Lanes());
    if constexpr (C > 3) v = put<k, 3>(v, rows[3], typename Tile<T>::Lanes());
    memcpy(y + k * N, &v, sizeof v);
    if constexpr (k + 1 < C) vector<k + 1>(rows, y);
  }
  // Returns how many i it did: all or none. An overlapping last vector replaces a tail.
  static int64_t run(const T *x, int64_t from, T *y, int64_t n) {
    if (n < N) return 0;
    for (int64_t at = 0; at < n; at += N) {
      const int64_t i = smaller(at, n - N);
      V rows[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) memcpy(&rows[c], x + i + c * from, sizeof(V));
      vector<0>(rows, y + i * C);
    }
    return n;
  }
};

template <class T> void copy_row(const T *x, int64_t from, T *y, int64_t to, int64_t n) {
  if (to == 1 && from == 0) {
    const T v = *x;
    for (int64_t j = 0; j < n; j++) y[j] = v;
  } else {
#pragma GCC unroll 4
    for (int64_t j = 0; j < n; j++) y[j * to] = x[j * from];
  }
}

template <class T> WNN_INLINE void copy_plane(const T *x, Axis rows, Axis columns, T *y) {
  constexpr int N = Tile<T>::N;
  if (columns.from == 1 && columns.to == 1) {
    for (int64_t i = 0; i < rows.n; i++) copy_some(x + i * rows.from, y + i * rows.to, columns.n);
    return;
  }
  int64_t tiled = 0;
  if (rows.from == 1 && columns.to == 1) {
    const bool woven = sizeof(T) == 4 && rows.to == columns.n;
    if (woven && columns.n == 2) tiled = Weave<T, 2>::run(x, columns.from, y, rows.n);
    if (woven && columns.n == 3) tiled = Weave<T, 3>::run(x, columns.from, y, rows.n);
    if (woven && columns.n == 4) tiled = Weave<T, 4>::run(x, columns.from, y, rows.n);
  }
  if (rows.from == 1 && columns.to == 1 && !tiled) {
    tiled = rows.n - rows.n % N;
    const int64_t across = columns.n - columns.n % N;
    for (int64_t i = 0; i < tiled; i += N) {
      for (int64_t j = 0; j < across; j += N)
        Tile<T>::transpose(x + i + j * columns.from, columns.from, y + i * rows.to + j, rows.to);
      for (int64_t j = across; j < columns.n; j++)
#pragma GCC unroll 16
        for (int64_t k = 0; k < N; k++) y[(i + k) * rows.to + j] = x[i + k + j * columns.from];
    }
  }
  for (int64_t i = tiled; i < rows.n; i++)
    copy_row(x + i * rows.from, columns.from, y + i * rows.to, columns.to, columns.n);
}

template <class T> void copy_block(const void *from, Axis planes, Axis rows, Axis columns, void *to) {
  for (int64_t i = 0; i < planes.n; i++) copy_plane((const T *)from + i * planes.from, rows, columns, (T *)to + i * planes.to);
}

// Fills axes, the last two being the plane; returns how many there are: at least 2.
int simplify(const wnn_tensor *x, const wnn_tensor *y, Axis *axes) {
  int rank = 0;
  for (int i = 0; i < x->ndim; i++) {
    if (x->shape[i] == 1) continue;
    const Axis axis = {x->shape[i], x->strides[i], y->strides[i]};
    int at = rank++;
    for (; at > 0 && magnitude(axes[at - 1].to) < magnitude(axis.to); at--) axes[at] = axes[at - 1];
    axes[at] = axis;
  }
  int merged = 0;
  for (int i = 0; i < rank; i++) {
    Axis *outer = merged ? &axes[merged - 1] : nullptr;
    if (outer && outer->from == axes[i].from * axes[i].n && outer->to == axes[i].to * axes[i].n)
      *outer = {outer->n * axes[i].n, axes[i].from, axes[i].to};
    else
      axes[merged++] = axes[i];
  }
  for (int i = merged; i < 2; i++) {
    for (int j = merged; j > 0; j--) axes[j] = axes[j - 1];
    axes[0] = {1, 0, 0};
    merged++;
  }
  const Axis inner = axes[merged - 1];
  if (inner.from != 1)
    for (int i = 0; i < merged - 2; i++)
      if (axes[i].from == 1) std::swap(axes[i], axes[merged - 2]);
  return merged;
}

using CopyBlock = void (*)(const void *, Axis, Axis, Axis, void *);

void copy_all(wnn_ctx *ctx, const wnn_tensor *from, wnn_tensor *to, int64_t item, CopyBlock copy_block) {
  Axis axes[WNN_MAX_DIMS + 2];
  const int outer = simplify(from, to, axes) - 2;
  const Axis rows = axes[outer], columns = axes[outer + 1];
  const Axis none = {1, 0, 0}, last = outer ? axes[outer - 1] : none;
  const bool transposed = columns.from != 1 && rows.from == 1;
  const int64_t wide = transposed ? 64 : BLOCK_BYTES / item, block_columns = smaller(columns.n, wide);
  const int64_t tall = BLOCK_BYTES / item / block_columns, block_rows = smaller(rows.n, tall);
  const int64_t down = ceil_div(rows.n, block_rows), across = ceil_div(columns.n, block_columns);
  int64_t blocks = down * across;
  for (int i = 0; i < outer; i++) blocks *= axes[i].n;
  const int64_t block_bytes = block_rows * block_columns * item;
  const int64_t each = ceil_div(TASK_BYTES, block_bytes), tasks = ceil_div(blocks, each);

  parallel_for(ctx, tasks, [&](int64_t task, int) {
    int64_t place[WNN_MAX_DIMS], rest = task * each;
    const int64_t end = smaller(rest + each, blocks);
    int64_t b = rest, column = rest % across, row = (rest /= across) % down;
    rest /= down;
    const char *x = (const char *)from->data;
    char *y = (char *)to->data;
    for (int i = outer - 1; i >= 0; rest /= axes[i--].n) {
      place[i] = rest % axes[i].n;
      x += place[i] * axes[i].from * item;
      y += place[i] * axes[i].to * item;
    }
    for (int64_t some; b < end; b += some) {
      const int64_t r = row * block_rows, c = column * block_columns;
      some = outer && down * across == 1 ? smaller(end - b, last.n - place[outer - 1]) : 1;
      copy_block(x + (r * rows.from + c * columns.from) * item, Axis{some, last.from, last.to}, Axis{smaller(block_rows, rows.n - r), rows.from, rows.to},
                 Axis{smaller(block_columns, columns.n - c), columns.from, columns.to},
                 y + (r * rows.to + c * columns.to) * item);
      if (++column < across) continue;
      column = 0;
      if (++row < down) continue;
      row = 0;
      for (int64_t i = outer - 1, steps = some; i >= 0; i--, steps = 1) {
        x += steps * axes[i].from * item;
        y += steps * axes[i].to * item;
        if ((place[i] += steps) < axes[i].n) break;
        x -= axes[i].n * axes[i].from * item;
        y -= axes[i].n * axes[i].to * item;
        place[i] = 0;
      }
    }
  });
}

}  // namespace

KERNEL(copy) {
  if (count(in[0]) == 0) return 0;
  switch (in[0]->dtype) {
    case WNN_U8: case WNN_I8: case WNN_BOOL: copy_all(ctx, in[0], out[0], 1, copy_block<uint8_t>); break;
    case WNN_U16: case WNN_I16: case WNN_F16: case WNN_BF16: copy_all(ctx, in[0], out[0], 2, copy_block<uint16_t>); break;
    case WNN_F32: case WNN_I32: case WNN_U32: copy_all(ctx, in[0], out[0], 4, copy_block<uint32_t>); break;
    default: copy_all(ctx, in[0], out[0], 8, copy_block<uint64_t>);
  }
  return 0;
}
