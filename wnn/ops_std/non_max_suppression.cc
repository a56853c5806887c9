// wnn: avx2
// Boxes by falling score, without those that overlap one taken before too much: see non_max_suppression.py.
//   boxes : (N, B, 4)    scores : (N, classes, B), f32, contiguous      y : (room, 3), number : (1,), i64
//   attrs: struct { int32_t centred, given; }: bits of `given` say whether overlap and least are there
#include "heap.h"

namespace {

// Boxes taken: all y0, all x0, all y1, all x1, all areas
struct Taken {
  float *at;
  int64_t room, n;

  // Whether a box (four numbers) overlaps none too much; if so it is taken as well.
  bool take(const float *b, bool centred, float overlap) {
    float box[5];
    for (int i = 0; i < 2; i++) {
      const float half = b[i + 2] / 2;
      box[i] = centred ? b[i] - half : fminf(b[i], b[i + 2]);
      box[i + 2] = centred ? b[i] + half : fmaxf(b[i], b[i + 2]);
    }
    box[4] = (box[2] - box[0]) * (box[3] - box[1]);
    for (int64_t i = 0; i < n; i += 128) {
      const float excess = reduce_max(n - i < 128 ? n - i : 128, [&](auto v, int64_t j) {
        const float *const other = at + i + j;
        const auto side = [&](int axis) {
          const vf begin = at_least(v(other + axis * room), splat(box[axis]));
          return at_least(at_most(v(other + (axis + 2) * room), splat(box[axis + 2])) - begin, vf{});
        };
        const vf shared = side(0) * side(1);
        return shared - overlap * (v(other + 4 * room) + box[4] - shared);
      });
      if (excess > 0) return false;
    }
    for (int i = 0; i < 5; i++) at[i * room + n] = box[i];
    n++;
    return true;
  }
};

// How many boxes an image and class can give
int64_t most_of(const wnn_tensor *const *in, const wnn_tensor *y) {
  const int64_t lists = in[1]->shape[0] * in[1]->shape[1];
  return lists ? y->shape[0] / lists : 0;
}

}  // namespace

SCRATCH(non_max_suppression) {
  const wnn_tensor *const scores = in[1];
  return size_t(scores->shape[0] * scores->shape[1] + num_threads * scores->shape[2]) * 8 + size_t(num_threads * most_of(in, out[0])) * 20;
}
KERNEL_S(non_max_suppression) {
  const wnn_tensor *const scores = in[1];
  const int64_t classes = scores->shape[1], B = scores->shape[2], lists = scores->shape[0] * classes;
  const bool centred = attr<int32_t>(attrs, 0);
  const int given = attr<int32_t>(attrs, 4);
  const float overlap = given & 1 ? *(const float *)in[3]->data : 0, least = given & 2 ? *(const float *)in[4]->data : -INFINITY;
  const int64_t most = most_of(in, out[0]);
  int64_t *const y = (int64_t *)out[0]->data, *const found = (int64_t *)ctx->scratch, *const heaps = found + lists;
  float *const boxes = (float *)(heaps + ctx->num_threads * B);
  parallel_for(ctx, lists, [&](int64_t list, int worker) {
    const float *const from = (const float *)in[0]->data + list / classes * B * 4;
    const float *const score = (const float *)scores->data + list * B;
    int64_t *const heap = heaps + worker * B, n = 0;
    for (int64_t i = 0; i < B; i++)
      if (score[i] > least || !(given & 2)) heap[n++] = ~key_of(score[i], i, true);
    heapify(heap, n);
    Taken taken = {boxes + worker * most * 5, most, 0};
    for (int64_t *row = y + list * most * 3; n && taken.n < most;) {
      const int64_t i = place_of(~heap[0]);
      n--;
      sink(heap, n, 0, heap[n]);
      if (!taken.take(from + i * 4, centred, overlap)) continue;
      row[0] = list / classes, row[1] = list % classes, row[2] = i;
      row += 3;
    }
    found[list] = taken.n;
  });
  int64_t total = 0;
  for (int64_t list = 0; list < lists; list++) {
    memmove(y + total * 3, y + list * most * 3, size_t(found[list]) * 24);
    total += found[list];
  }
  memset(y + total * 3, 0, size_t(out[0]->shape[0] - total) * 24);
  *(int64_t *)out[1]->data = total;
  return 0;
}
