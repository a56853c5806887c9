// wnn: once
// y = x with elements put around it, or cut off.
//   x, y: any dtype, contiguous      value?: one element of that dtype, 0 if absent
//   attrs: struct { int64_t mode, before[ndim]; }; mode: 0 constant, 1 edge, 2 reflect, 3 wrap
// Trailing axes without padding are one block of bytes; y is made row by row of the last axis that has some.
#include "move.h"

namespace {

// Where an element of a padded axis comes from: [0, n), or -1
int64_t source(int64_t at, int64_t first, int64_t last, int64_t mode) {
  if (at >= first && at <= last) return at;
  if (mode == 0) return -1;
  if (mode == 1) return at < first ? first : last;
  if (mode == 2) return at < first ? 2 * first - at : 2 * last - at;
  const int64_t n = last - first + 1, shift = (at - first) % n;
  return first + (shift < 0 ? shift + n : shift);
}

}  // namespace

KERNEL(pad) {
  const wnn_tensor *x = in[0], *y = out[0];
  const int64_t mode = attr<int64_t>(attrs, 0), size = item_bytes(x->dtype);
  int64_t before[WNN_MAX_DIMS], first[WNN_MAX_DIMS], last[WNN_MAX_DIMS];  // x's elements that are kept
  int axis = -1, top = -1;  // the last axis with padding, the first
  for (int d = 0; d < x->ndim; d++) {
    before[d] = attr<int64_t>(attrs, 8 + 8 * d);
    const int64_t after = y->shape[d] - x->shape[d] - before[d];
    first[d] = before[d] < 0 ? -before[d] : 0;
    last[d] = x->shape[d] - 1 + (after < 0 ? after : 0);
    if (before[d] || after) axis = d, top = top < 0 ? d : top;
  }
  const int64_t zero[2] = {}, total = count(y);
  const void *value = nin > 2 && in[2] ? in[2]->data : zero;
  if (total == 0) return 0;
  if (axis < 0) return memcpy(y->data, x->data, size_t(total * size)), 0;
  const int64_t items = product(x, axis + 1, x->ndim), block = items * size, n = y->shape[axis];
  const int64_t lead = before[axis] > 0 ? smaller(before[axis], n) : 0;
  const int64_t end = smaller(n, before[axis] + last[axis] + 1);  // of what is copied straight
  for_rows(ctx, product(y, 0, axis), n * block, [&](int64_t row) {
    char *to = (char *)y->data + row * n * block;
    int64_t base = 0, rest = row, step = 1;
    for (int d = axis - 1; d >= top && base >= 0; rest /= y->shape[d--]) {
      const int64_t at = source(rest % y->shape[d] - before[d], first[d], last[d], mode);
      base = at < 0 ? -1 : base + at * step;
      step *= x->shape[d];
    }
    if (base < 0) return fill(to, n * items, value, size);
    const char *from = (const char *)x->data + (base + rest * step) * x->shape[axis] * block;
    if (mode == 0) {
      fill(to, lead * items, value, size);
      fill(to + (end > lead ? end : lead) * block, (n - (end > lead ? end : lead)) * items, value, size);
    } else {
      for (int64_t i = 0; i < n; i++) {
        if (i == lead) i = end > lead ? end : lead;
        if (i < n) copy_item(to + i * block, from + source(i - before[axis], first[axis], last[axis], mode) * block, block);
      }
    }
    if (end > lead) memcpy(to + lead * block, from + (lead - before[axis]) * block, size_t((end - lead) * block));
  });
  return 0;
}
