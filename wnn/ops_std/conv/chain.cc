// wnn: once
// Convolutions and depthwise convolutions of two spatial axes, each of what the one before gives, by bands of rows: what
// lies between two of them is never there as a whole, but only so many rows that they stay in the cache.
//   in: the inputs of each in order, x of all but the first null      out: y of the last
//   attrs: int64 count, then for each Head and the attrs of its own kernel, whose bits these are: it is called for each band
#include "conv.h"
#include "executor.h"

namespace {

constexpr int most_links = 4, most_inputs = 3, most_attrs = 256;  // as in chain.py
constexpr int64_t band_floats = 96 << 10;  // of a band's rows of x, between and of y: three eighths of L2

struct Head { const wnn_kernel_entry *kernel; int64_t nin, attrs_bytes, shape[4]; };

struct Link {
  Head head;
  const char *attrs;
  const wnn_tensor *in[most_inputs];
  wnn_tensor y;
  int64_t height, stride, pad, span;  // of x; span: rows that a window covers
  int64_t row, rows;                  // floats of a row of y; rows of y that lie between at once

  int64_t reads(int64_t rows) const { return min_of(height, (rows - 1) * stride + span); }
  // Output rows [first, last) read input rows [*begin, *end)
  void reads(int64_t first, int64_t last, int64_t *begin, int64_t *end) const {
    *begin = max_of(0, first * stride - pad), *end = min_of(height, (last - 1) * stride - pad + span);
  }
};

struct Chain {
  Link links[most_links];
  int n;
  int64_t band = 1, between, scratch = 0;  // rows of the last y at a time; floats of a worker

  Chain(const void *attrs, const wnn_tensor *const *in, const wnn_tensor *out) : n(int(attr<int64_t>(attrs, 0))) {
    const char *from = (const char *)attrs + 8;
    for (int i = 0; i < n; i++) {
      Link &l = links[i];
      l.head = attr<Head>(from, 0), l.attrs = from + sizeof l.head, from = l.attrs + l.head.attrs_bytes;
      for (int j = 0; j < l.head.nin; j++) l.in[j] = *in++;
      if (i) l.in[0] = &links[i - 1].y;
      l.y = *out;
      if (i < n - 1) memcpy(l.y.shape, l.head.shape, sizeof l.head.shape), wnn_tensor_layout(&l.y, 0);
      const ConvAttrs a = attr<ConvAttrs>(l.attrs, 0);
      l.height = l.in[0]->shape[1], l.stride = a.stride[1], l.pad = a.pad[1], l.span = (a.kernel[1] - 1) * a.dilation[1] + 1;
      l.row = l.y.shape[2] * l.y.shape[3];
    }
    while (band < out->shape[1] && floats(band + 1, true) <= band_floats) band++;
    if (band > 2) band = band / 2 * 2;  // depthwise kernels like two rows
    between = floats(band, false);
    for (int i = 0; i < n; i++) {
      Link &l = links[i];
      wnn_tensor x = *l.in[0], y = l.y;
      const wnn_tensor *ins[most_inputs] = {&x, l.in[1], l.in[2]}, *outs = &y;
      x.shape[0] = y.shape[0] = 1, x.shape[1] = l.reads(l.rows), y.shape[1] = l.rows;
      scratch = max_of(scratch, ceil_div(int64_t(l.head.kernel->scratch(l.attrs, ins, int(l.head.nin), &outs, 1, 1)), 64) * 16);
    }
  }
  // The rows between, and of x and y if wanted, for so many of the last y
  int64_t floats(int64_t rows, bool ends) {
    int64_t sum = ends ? rows * links[n - 1].row : 0;
    for (int i = n - 1; i >= 0; rows = links[i--].reads(rows)) {
      links[i].rows = rows;
      if (i < n - 1) sum += ceil_div(rows * links[i].row, 16) * 16;
    }
    return ends ? sum + rows * links[0].in[0]->shape[2] * links[0].in[0]->shape[3] : sum;
  }
  // Output rows [first, last) of one sample, the last band first: the consumer will find the first ones in the cache
  void run(wnn_ctx *ctx, float *memory, int64_t sample, int64_t first, int64_t last) const {
    wnn_ctx alone = *ctx;
    alone.num_threads = 1, alone.scratch = memory + between, alone.scratch_bytes = size_t(scratch) * 4;
    float *data[most_links];  // of y: where row begin[i] is
    int64_t begin[most_links], make[most_links], end[most_links];  // rows [make, end) are to be made
    for (int i = 0; i < n - 1; i++) data[i] = memory, memory += ceil_div(links[i].rows * links[i].row, 16) * 16, begin[i] = INT64_MAX;
    for (int64_t to = last; to > first; to -= band) {
      int i = n - 1;
      begin[i] = make[i] = max_of(first, to - band), end[i] = to;
      data[i] = f32(&links[i].y) + sample * links[i].y.strides[0] + begin[i] * links[i].y.strides[1];
      for (; i > 0 && make[i] < end[i]; i--) {
        int64_t *const b = begin + i - 1, old = *b, *const e = end + i - 1;
        links[i].reads(make[i], end[i], b, e);
        make[i - 1] = *b;
        if (old < *e) memmove(data[i - 1] + (old - *b) * links[i - 1].row, data[i - 1], size_t((*e - old) * links[i - 1].row) * 4), *e = old;
      }
      for (; i < n; i++)
        if (make[i] < end[i]) call(&alone, i, sample, make[i], end[i], i ? data[i - 1] : nullptr, i ? begin[i - 1] : 0, data[i]);
    }
  }
  // Rows [first, last) of link i to y, x being rows from x_begin on
  void call(wnn_ctx *ctx, int i, int64_t sample, int64_t first, int64_t last, float *rows, int64_t x_begin, float *to) const {
    const Link &l = links[i];
    wnn_tensor x = *l.in[0], y = l.y, *outs = &y;
    const wnn_tensor *ins[most_inputs] = {&x, l.in[1], l.in[2]};
    int64_t begin, end;
    l.reads(first, last, &begin, &end);
    x.data = (i ? rows : f32(&x) + sample * x.strides[0]) + (begin - x_begin) * x.strides[1];
    y.data = to;
    x.shape[0] = y.shape[0] = 1, x.shape[1] = end - begin, y.shape[1] = last - first;
    alignas(8) char attrs[most_attrs];
    memcpy(attrs, l.attrs, size_t(l.head.attrs_bytes));
    ((ConvAttrs *)attrs)->pad[1] = int32_t(begin - (first * l.stride - l.pad));
    l.head.kernel->fn(ctx, attrs, ins, int(l.head.nin), &outs, 1);
  }
};

}  // namespace

SCRATCH(conv_chain_f32) {
  const Chain chain(attrs, in, out[0]);
  return size_t((chain.between + chain.scratch) * num_threads) * 4;
}

KERNEL_S(conv_chain_f32) {
  const Chain chain(attrs, in, out[0]);
  const int64_t N = out[0]->shape[0], height = out[0]->shape[1], threads = ctx->num_threads;
  const int64_t pieces = threads == 1 ? 1 : max_of(1, min_of(height / chain.band, ceil_div(2 * threads, N)));
  parallel_for(ctx, N * pieces, [&](int64_t task, int worker) {
    const int64_t sample = N - 1 - task / pieces, piece = pieces - 1 - task % pieces;
    float *const memory = (float *)ctx->scratch + worker * (chain.between + chain.scratch);
    chain.run(ctx, memory, sample, height * piece / pieces, height * (piece + 1) / pieces);
  });
  return 0;
}
