// recurrent.h: what the kernels of recurrent layers share.
//   x: (T, B, I)   w: (D, G, I, H), r: (D, G, H, H), panels of 16 per gate or any strides   b?: (D, 2, G, H)   lens?: (B,) i32   h0?: (D, B, H)
//   y: (T, D, B, H)   y_h: (D, B, H)   attrs: LayerAttrs
// layers.cc, compiled once, sweeps over time: the products x w are made for many steps at once; each step then adds h r. A row of
// gates is G times `width` floats, a row of states `width`: whole panels. A kind of layer says what its cell does with the products.
#pragma once
#include "gemm.h"

struct Activation { int32_t kind; float alpha, beta; };
struct LayerAttrs { int32_t backward, flags, count; float clip; Activation acts[6]; };  // count: activations of a direction

struct Layer {
  int64_t T, B, I, D, G, H, width;
  const float *x, *w, *r, *b, *h0, *c0, *peepholes;
  const int32_t *lens;
  float *y, *h, *c;  // h, c: where the last states go
};

// One direction at work
struct Cell {
  const Layer &layer;
  int64_t direction;
  int32_t flags;
  const Activation *acts;  // the functions f, g and h of ONNX
  float clip;
  bool usual;              // they are sigmoid, tanh and tanh, without a clip
  const float *r, *r_bias;
  float *u;                // h r, a row of gates for each sequence
  float *memory;           // 2 B + 3 rows of states
  bool back;               // every second step reads r from its end on: what the last one read last is still in the cache
};

struct Kind {
  void (*start)(const Cell &cell);
  void (*recur)(const Cell &cell, const float *h, const float *p);  // u = h r, where p are the rows of x w
  void (*update)(const Cell &cell, int64_t s, const float *p, const float *u, float *h);  // the state of sequence s after a step
  void (*end)(const Cell &cell);
  // columns n0 to n1 of c (M rows, ldc apart) = a (M, K), rows lda apart, * panels + bias; whole panels of 16 columns, perhaps the last first
  void (*gates)(int64_t M, int64_t K, const float *a, int64_t lda, const float *panels, const float *bias, int64_t n0, int64_t n1, float *c, int64_t ldc, bool back);
};

int run_layer(const Kind &kind, wnn_ctx *ctx, const void *attrs, const wnn_tensor *const *in, int nin, wnn_tensor *const *out, int nout);
size_t layer_scratch_bytes(const wnn_tensor *const *in, int nin, const wnn_tensor *const *out, int num_threads);
// Rows of states from given ones (B, H), or zeros, and back
void load_states(const Layer &layer, float *rows, const float *given);
void store_states(const Layer &layer, float *to, const float *rows);

namespace WNN_ISA_SPACE(WNN_ISA) {
vf activate(const Activation &a, vf x);
void gates(int64_t M, int64_t K, const float *a, int64_t lda, const float *panels, const float *bias, int64_t n0, int64_t n1, float *c, int64_t ldc, bool back);
}

namespace {

WNN_INLINE vf act_f(const Cell &c, vf x) { return c.usual ? vsigmoid(x) : activate(c.acts[0], clamp(x, -c.clip, c.clip)); }
WNN_INLINE vf act_g(const Cell &c, vf x) { return c.usual ? vtanh(x) : activate(c.acts[1], clamp(x, -c.clip, c.clip)); }
WNN_INLINE vf act_h(const Cell &c, vf x) { return c.usual ? vtanh(x) : activate(c.acts[2], x); }

// f(k) for the vectors of a row of states
template <class F> WNN_INLINE void each_vector(const Cell &c, F f) {
  for (int64_t k = 0; k < c.layer.width; k += L) f(k);
}
// u = a r for the gates g0 to g1
WNN_INLINE void multiply(const Cell &c, const float *a, int64_t g0, int64_t g1) {
  const int64_t width = c.layer.width;
  gates(c.layer.B, c.layer.H, a, width, c.r, c.r_bias, g0 * width, g1 * width, c.u, c.layer.G * width, c.back);
}
[[maybe_unused]] static void nothing(const Cell &) {}

}  // namespace

#define LAYER(name, start, recur, update, end) \
  SCRATCH(name) { return layer_scratch_bytes(in, nin, out, num_threads); } \
  KERNEL_S(name) { \
    static const Kind kind = {start, recur, update, end, gates}; \
    return run_layer(kind, ctx, attrs, in, nin, out, nout); \
  }
