// wnn: inline
// The post-operations of GEMM and convolution: one pass over a finished tile for each, while it is in L1.
#include "gemm.h"

namespace {
struct Tile { float *c; int64_t ldc, row0; const int32_t *c_rows; int64_t rows, cols; };

// c = f(c, v, data, j), data the post's vector or, with a row stride, the row of its matrix
template <class F> void each(const Tile &t, const float *data, int64_t ld, F f) {
  for (int64_t i = 0; i < t.rows; i++) {
    const int64_t row = t.c_rows ? t.c_rows[t.row0 + i] : t.row0 + i;
    if (row < 0) continue;
    float *const c = t.c + i * t.ldc;
    const float *const d = data + row * ld;
    map(c, t.cols, [=](auto v, int64_t j) { return f(v(c + j), v, d + j); });
  }
}
// c = f(c), with f once in the code
template <class F> void each(const Tile &t, F f) {
  for (int64_t i = 0; i < t.rows; i++) {
    if (t.c_rows && t.c_rows[t.row0 + i] < 0) continue;
    float *const c = t.c + i * t.ldc;
    for (int64_t j = 0; j < t.cols; j += L) {
      const int64_t left = t.cols - j;
      const vf y = f(left < L ? load_n(c + j, left) : load(c + j));
      left < L ? store_n(c + j, y, left) : store(c + j, y);
    }
  }
}
}  // namespace

void WNN_ISA_SPACE(WNN_ISA)::post_tile(const wnn_post *post, int n_post, float *c, int64_t ldc, int64_t row0, const int32_t *c_rows,
                                       int64_t rows, int64_t col0, int64_t cols) {
  for (const wnn_post *p = post; p < post + n_post; p++) {
    const float a = p->a, b = p->b, *d = p->data + col0;
    const bool matrix = p->kind == WNN_POST_ADD || p->kind == WNN_POST_MUL || p->kind == post_both;
    const int64_t ld = matrix ? p->ld : 0;
    const bool dense = !c_rows && ldc == cols && (matrix ? ld == cols : !p->data);
    const Tile t = {c, ldc, row0, c_rows, dense ? 1 : rows, dense ? rows * cols : cols};
    switch (p->kind) {
      case WNN_POST_BIAS: case WNN_POST_ADD: each(t, d, ld, [](vf x, auto v, const float *d) { return x + v(d); }); break;
      case WNN_POST_MUL: case WNN_POST_CHANNEL_MUL: each(t, d, ld, [](vf x, auto v, const float *d) { return x * v(d); }); break;
      case post_both:
        for (int64_t i = 0; i < t.rows; i++) {
          const float *const from = c + i * ldc;
          float *const to = const_cast<float *>(d) + (t.row0 + i) * ld;
          map(to, t.cols, [=](auto v, int64_t j) { return v(to + j) + v(from + j); });
        }
        each(t, d + p->reserved, ld, [](vf x, auto v, const float *d) { return x + v(d); });
        break;
      case WNN_POST_PRELU: each(t, d, 0, [](vf x, auto v, const float *d) { return x < 0.0f ? x * v(d) : x; }); break;
      case WNN_POST_RELU: each(t, [](vf x) { return vrelu(x); }); break;
      case WNN_POST_CLIP: each(t, [=](vf x) { return clamp(x, a, b); }); break;
      case WNN_POST_LEAKY: each(t, [=](vf x) { return x < 0.0f ? x * a : x; }); break;
      case WNN_POST_SIGMOID: each(t, [](vf x) { return vsigmoid(x); }); break;
      case WNN_POST_TANH: each(t, [](vf x) { return vtanh(x); }); break;
      case WNN_POST_SILU: each(t, [](vf x) { return vsilu(x); }); break;
      case WNN_POST_GELU: each(t, [](vf x) { return vgelu(x); }); break;
      case WNN_POST_GELU_TANH: each(t, [](vf x) { return vgelu_tanh(x); }); break;
      case WNN_POST_HARD_SWISH: each(t, [](vf x) { return vhard_swish(x); }); break;
      case WNN_POST_HARD_SIGMOID: each(t, [=](vf x) { return vhard_sigmoid(x, a, b); }); break;
      case WNN_POST_SCALE: each(t, [=](vf x) { return x * a + b; }); break;
    }
  }
}
