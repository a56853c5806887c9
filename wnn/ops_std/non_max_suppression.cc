// wnn: once
// Boxes by falling score, without those that overlap one taken before too much: see non_max_suppression.py.
//   boxes : (N, B, 4)    scores : (N, classes, B), f32, contiguous      y : (room, 3), number : (1,), i64
//   attrs: struct { int32_t centred, given; }: bits of `given` say whether overlap and least are there
#include "elementwise.h"

namespace {

struct Box { float y0, x0, y1, x1, area; };
Box box_at(const float *b, bool centred) {
  const float half[2] = {b[2] / 2, b[3] / 2};
  Box r = centred ? Box{b[0] - half[0], b[1] - half[1], b[0] + half[0], b[1] + half[1], 0}
                  : Box{fminf(b[0], b[2]), fminf(b[1], b[3]), fmaxf(b[0], b[2]), fmaxf(b[1], b[3]), 0};
  r.area = (r.y1 - r.y0) * (r.x1 - r.x0);
  return r;
}
bool overlaps(const Box &a, const Box &b, float most) {
  const float h = fminf(a.y1, b.y1) - fmaxf(a.y0, b.y0), w = fminf(a.x1, b.x1) - fmaxf(a.x0, b.x0);
  const float shared = fmaxf(h, 0) * fmaxf(w, 0);
  return !(shared <= most * (a.area + b.area - shared));
}

// The boxes of one image and class, as a heap whose root has the highest score, of equal ones the first
struct Heap {
  const float *score;
  int64_t *at, n;
  bool before(int64_t a, int64_t b) const { return score[a] != score[b] ? score[a] > score[b] : a < b; }
  void sink(int64_t i) {
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
      if (child + 1 < n && before(at[child + 1], at[child])) child++;
      if (!before(at[child], at[i])) return;
      const int64_t swap = at[i];
      at[i] = at[child], at[child] = swap;
    }
  }
  int64_t pop() {
    const int64_t best = at[0];
    at[0] = at[--n];
    sink(0);
    return best;
  }
};

}  // namespace

SCRATCH(non_max_suppression) {
  const int64_t lists = in[1]->shape[0] * in[1]->shape[1];
  return size_t(lists + num_threads * in[0]->shape[1]) * 8;
}
KERNEL_S(non_max_suppression) {
  const wnn_tensor *const scores = in[1];
  const int64_t classes = scores->shape[1], B = scores->shape[2], lists = scores->shape[0] * classes;
  const bool centred = attr<int32_t>(attrs, 0);
  const int given = attr<int32_t>(attrs, 4);
  const float most = given & 1 ? *(const float *)in[3]->data : 0, least = given & 2 ? *(const float *)in[4]->data : -INFINITY;
  const int64_t room = out[0]->shape[0], each = lists ? room / lists : 0;
  int64_t *const y = (int64_t *)out[0]->data, *const found = (int64_t *)ctx->scratch;
  parallel_for(ctx, lists, [&](int64_t list, int worker) {
    const float *const boxes = (const float *)in[0]->data + list / classes * B * 4;
    Heap heap = {(const float *)scores->data + list * B, found + lists + worker * B, 0};
    for (int64_t i = 0; i < B; i++)
      if (heap.score[i] > least || !(given & 2)) heap.at[heap.n++] = i;
    for (int64_t i = heap.n / 2 - 1; i >= 0; i--) heap.sink(i);
    int64_t *const rows = y + list * each * 3, n = 0;
    for (; heap.n && n < each;) {
      const int64_t i = heap.pop();
      const Box b = box_at(boxes + i * 4, centred);
      int64_t k = 0;
      while (k < n && !overlaps(box_at(boxes + rows[k * 3 + 2] * 4, centred), b, most)) k++;
      if (k < n) continue;
      rows[n * 3] = list / classes, rows[n * 3 + 1] = list % classes, rows[n++ * 3 + 2] = i;
    }
    found[list] = n;
  });
  int64_t total = 0;
  for (int64_t list = 0; list < lists; list++) {
    memmove(y + total * 3, y + list * each * 3, size_t(found[list]) * 24);
    total += found[list];
  }
  memset(y + total * 3, 0, size_t(room - total) * 24);
  *(int64_t *)out[1]->data = total;
  return 0;
}
