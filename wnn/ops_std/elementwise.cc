// wnn: once
#include "elementwise.h"

namespace {

constexpr int MAX_INPUTS = 3;
constexpr int64_t BLOCK = 1024, DIRECT_BLOCK = 8192, TASK = 16384;  // elements

struct Axis { int64_t n, stride[MAX_INPUTS]; };  // strides in bytes

// Axes of out, those merged that every input walks as one; returns how many, at least 2. The last two make up the blocks.
int merge_axes(const wnn_tensor *const *in, int nin, const wnn_tensor *out, Axis *axes) {
  int rank = 0;
  for (int d = 0; d < out->ndim; d++) {
    if (out->shape[d] == 1) continue;
    Axis a = {out->shape[d], {}};
    for (int k = 0; k < nin; k++) {
      const int e = d - out->ndim + in[k]->ndim;
      a.stride[k] = e < 0 || in[k]->shape[e] == 1 ? 0 : in[k]->strides[e] * item_bytes(in[k]->dtype);
    }
    bool joins = rank > 0;
    for (int k = 0; joins && k < nin; k++) joins = axes[rank - 1].stride[k] == a.stride[k] * a.n;
    if (joins) a.n *= axes[--rank].n;
    axes[rank++] = a;
  }
  while (rank < 2) {
    for (int i = rank; i > 0; i--) axes[i] = axes[i - 1];
    axes[0] = {1, {}};
    rank++;
  }
  return rank;
}

template <class T> void fill(T x, int64_t n, T *to) {
  constexpr int64_t lanes = 16 / sizeof(T);
  typedef T V __attribute__((vector_size(16)));
  const V v = x - V{};
  if (n < lanes) {
    for (int64_t j = 0; j < n; j++) to[j] = x;
  } else {
    for (int64_t j = 0; j < n; j += lanes) memcpy(to + (j < n - lanes ? j : n - lanes), &v, 16);
  }
}

template <class T> void gather(const char *from, int64_t rows, int64_t row_stride, int64_t n, int64_t stride, T *to) {
  for (int64_t i = 0; i < rows; i++, from += row_stride, to += n) {
    if (stride == sizeof(T)) {
      memcpy(to, from, size_t(n) * sizeof(T));
    } else if (stride == 0) {
      fill(*(const T *)from, n, to);
    } else {
      for (int64_t j = 0; j < n; j++) to[j] = *(const T *)(from + j * stride);
    }
  }
}
void gather(int64_t size, const char *from, int64_t rows, int64_t row_stride, int64_t n, int64_t stride, void *to) {
  if (size == 1) gather(from, rows, row_stride, n, stride, (uint8_t *)to);
  else if (size == 2) gather(from, rows, row_stride, n, stride, (uint16_t *)to);
  else if (size == 4) gather(from, rows, row_stride, n, stride, (uint32_t *)to);
  else gather(from, rows, row_stride, n, stride, (uint64_t *)to);
}

}  // namespace

int elementwise(wnn_ctx *ctx, const wnn_tensor *const *in, int nin, const wnn_tensor *out, wnn_block_fn fn, const void *arg) {
  const int64_t total = count(out);
  if (total == 0) return 0;
  Axis axes[WNN_MAX_DIMS + 2];
  const int outer = merge_axes(in, nin, out, axes) - 2;
  const Axis &row = axes[outer], &column = axes[outer + 1];
  const int64_t out_size = item_bytes(out->dtype);
  int64_t size[MAX_INPUTS];
  bool direct = true;
  for (int k = 0; k < nin; k++) {
    size[k] = item_bytes(in[k]->dtype);
    direct = direct && column.stride[k] == size[k];
  }
  // a block is a part of one row, or several whole rows
  const int64_t most = direct ? DIRECT_BLOCK : BLOCK;
  const int64_t n = column.n < most ? column.n : most;
  const int64_t rows = column.n >= BLOCK / 2 ? 1 : row.n < BLOCK / n ? row.n : BLOCK / n;
  const int64_t pieces = (column.n + n - 1) / n, groups = (row.n + rows - 1) / rows;
  const int64_t blocks = total / (row.n * column.n) * groups * pieces;
  const int64_t each = (TASK + rows * n - 1) / (rows * n), tasks = (blocks + each - 1) / each;

  parallel_for(ctx, tasks, [&](int64_t task, int) {
    alignas(64) char copies[MAX_INPUTS][BLOCK * 8];
    struct { const char *from; int64_t rows, n; } held[MAX_INPUTS] = {};
    const int64_t end = (task + 1) * each < blocks ? (task + 1) * each : blocks;
    for (int64_t b = task * each; b < end; b++) {
      const int64_t c0 = b % pieces * n, r0 = b / pieces % groups * rows;
      const int64_t c = column.n - c0 < n ? column.n - c0 : n, r = row.n - r0 < rows ? row.n - r0 : rows;
      const int64_t plane = b / pieces / groups;
      const void *from[MAX_INPUTS];
      for (int k = 0; k < nin; k++) {
        const char *p = (const char *)in[k]->data + r0 * row.stride[k] + c0 * column.stride[k];
        int64_t rest = plane;
        for (int d = outer - 1; d >= 0; rest /= axes[d--].n) p += rest % axes[d].n * axes[d].stride[k];
        from[k] = p;
        if (column.stride[k] == size[k] && (r == 1 || row.stride[k] == c * size[k])) continue;
        from[k] = copies[k];
        if (held[k].from == p && held[k].rows == r && held[k].n == c) continue;
        gather(size[k], p, r, row.stride[k], c, column.stride[k], copies[k]);
        held[k] = {p, r, c};
      }
      fn(arg, from, (char *)out->data + ((plane * row.n + r0) * column.n + c0) * out_size, r * c);
      leave_vectors(ctx->api);
    }
  });
  return 0;
}
