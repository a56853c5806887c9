// wnn: avx2
// Boxes by falling score, without those that overlap one taken before too much: see non_max_suppression.py.
//   boxes : (N, B, 4)    scores : (N, classes, B), f32, contiguous      y : (room, 3), number : (1,), i64
//   attrs: struct { int32_t centred, given; }: bits of `given` say whether overlap and least are there
#include "heap.h"

namespace {

struct Box { float begin[2], end[2], area; };

Box box_of(const float *b, bool centred) {
  Box box;
  for (int i = 0; i < 2; i++) {
    const float half = b[i + 2] / 2;
    box.begin[i] = centred ? b[i] - half : fminf(b[i], b[i + 2]);
    box.end[i] = centred ? b[i] + half : fmaxf(b[i], b[i + 2]);
  }
  box.area = (box.end[0] - box.begin[0]) * (box.end[1] - box.begin[1]);
  return box;
}

// Boxes taken, in strips of the picture by where they begin along one axis. Two boxes whose intersection is more than t of their
// union begin near each other: of one from x to x + w the other's begin is between x - w (1/t - 1) and x + w (1 - t).
struct Taken {
  static constexpr int64_t most_strips = 1024, room = 32;
  struct Part { int64_t count; Part *next; float at[5][room]; };  // begins, ends, areas of some boxes of a strip
  Part *parts, **strips;
  int64_t n_strips, n_parts = 0, n = 0;
  int axis = 0;
  double low = 0, scale = 0;  // strip = (begin - low) * scale

  static int64_t strips_for(int64_t most) { return most < 512 ? 1 : most / 16 < most_strips ? most / 16 : most_strips; }
  static size_t bytes(int64_t most) { return (most / room + 1 + strips_for(most)) * sizeof(Part) + strips_for(most) * sizeof(Part *); }

  Taken(char *memory, int64_t most) : parts((Part *)memory), n_strips(strips_for(most)) {
    strips = (Part **)(parts + most / room + 1 + n_strips);
    for (int64_t i = 0; i < n_strips; i++) strips[i] = nullptr;
  }
  // Lays the strips for boxes that begin between these; there is one where they begin at no number
  void lay(const double (&from)[2], const double (&to)[2], float overlap) {
    axis = to[1] - from[1] > to[0] - from[0];
    low = from[axis], scale = n_strips / (to[axis] - low);
    if (!(overlap > 0 && scale > 0 && scale < INFINITY)) n_strips = 1, scale = 0;
  }
  int64_t strip(double begin) const {
    const double i = (begin - low) * scale;
    return i > 0 ? i < double(n_strips - 1) ? int64_t(i) : n_strips - 1 : 0;
  }

  // Whether a box overlaps none too much; if so it is taken as well.
  bool take(const Box &box, float overlap) {
    const double x = box.begin[axis], w = box.end[axis] - x, t = overlap * 0.9999;  // less, as sums are rounded
    const bool some = n_strips > 1;
    const int64_t end = some ? strip(x + w * (1 - t)) : 0;
    for (int64_t i = some ? strip(x - w * (1 / t - 1)) : 0; i <= end; i++)
      for (const Part *part = strips[i]; part; part = part->next) {
        const float excess = reduce_max(part->count, [&](auto v, int64_t j) {
          const auto side = [&](int axis) {
            const vf begin = at_least(v(part->at[axis] + j), splat(box.begin[axis]));
            return at_least(at_most(v(part->at[axis + 2] + j), splat(box.end[axis])) - begin, vf{});
          };
          const vf shared = side(0) * side(1);
          return shared - overlap * (v(part->at[4] + j) + box.area - shared);
        });
        if (excess > 0) return false;
      }
    Part *&own = strips[strip(x)];
    if (!own || own->count == room) {
      Part *const part = parts + n_parts++;
      part->count = 0, part->next = own, own = part;
    }
    const float row[] = {box.begin[0], box.begin[1], box.end[0], box.end[1], box.area};
    for (int i = 0; i < 5; i++) own->at[i][own->count] = row[i];
    own->count++, n++;
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
  return size_t(scores->shape[0] * scores->shape[1] + num_threads * scores->shape[2]) * 8 + num_threads * Taken::bytes(most_of(in, out[0]));
}
KERNEL_S(non_max_suppression) {
  const wnn_tensor *const scores = in[1];
  const int64_t classes = scores->shape[1], B = scores->shape[2], lists = scores->shape[0] * classes;
  const bool centred = attr<int32_t>(attrs, 0);
  const int given = attr<int32_t>(attrs, 4);
  const float overlap = given & 1 ? *(const float *)in[3]->data : 0, least = given & 2 ? *(const float *)in[4]->data : -INFINITY;
  const int64_t most = most_of(in, out[0]);
  int64_t *const y = (int64_t *)out[0]->data, *const found = (int64_t *)ctx->scratch, *const heaps = found + lists;
  char *const memory = (char *)(heaps + ctx->num_threads * B);
  parallel_for(ctx, lists, [&](int64_t list, int worker) {
    const float *const from = (const float *)in[0]->data + list / classes * B * 4;
    const float *const score = (const float *)scores->data + list * B;
    int64_t *const heap = heaps + worker * B, n = 0;
    for (int64_t i = 0; i < B; i++)
      if (score[i] > least || !(given & 2)) heap[n++] = ~key_of(score[i], i, true);
    heapify(heap, n);
    Taken taken(memory + worker * Taken::bytes(most), most);
    if (taken.n_strips > 1) {
      double low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY};
      for (int64_t i = 0; i < n; i++) {
        const Box box = box_of(from + place_of(~heap[i]) * 4, centred);
        for (int a = 0; a < 2; a++) {
          low[a] = fmin(low[a], box.begin[a]), high[a] = fmax(high[a], box.begin[a]);
          if (!(box.area < INFINITY && box.begin[a] <= box.end[a])) low[a] = -INFINITY;
        }
      }
      taken.lay(low, high, overlap);
    }
    for (int64_t *row = y + list * most * 3; n && taken.n < most;) {
      const int64_t i = place_of(~heap[0]);
      n--;
      sink(heap, n, 0, heap[n]);
      if (!taken.take(box_of(from + i * 4, centred), overlap)) continue;
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
