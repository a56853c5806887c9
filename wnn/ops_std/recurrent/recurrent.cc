// wnn: avx2
// What recurrent layers call: their products, and the activations that ONNX knows, by the numbers of layers.py.
#include "recurrent.h"

namespace {

// One row: P panels at once, so that the memory that holds them is kept busy
template <int P> WNN_INLINE void row_times_panels(int64_t K, const float *a, const float *panels, const float *bias, float *c) {
  constexpr int V = 16 / L;
  vf sum[P][V];
#pragma GCC unroll 8
  for (int p = 0; p < P; p++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) sum[p][v] = load(bias + 16 * p + v * L);
  for (int64_t k = 0; k < K; k++) {
    const vf x = splat(a[k]);
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) {
      const float *const b = panels + 16 * (p * K + k);
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) sum[p][v] += x * load(b + v * L);
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; p++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) store(c + 16 * p + v * L, sum[p][v]);
}

}  // namespace

void WNN_ISA_SPACE(WNN_ISA)::gates(int64_t M, int64_t K, const float *a, int64_t lda, const float *panels, const float *bias, int64_t n0, int64_t n1, float *c, int64_t ldc, bool back) {
  if (M == 1) {
    constexpr int64_t most = WNN_ISA == 2 ? 8 : WNN_ISA == 1 ? 4 : 2;
    const int64_t wide = (n1 - n0) / (16 * most);
    for (int64_t i = 0; i < wide; i++) {
      const int64_t n = n0 + 16 * most * (back ? wide - 1 - i : i);
      row_times_panels<most>(K, a, panels + n * K, bias + n, c + n);
    }
    for (int64_t n = n0 + wide * 16 * most; n < n1; n += 16) row_times_panels<1>(K, a, panels + n * K, bias + n, c + n);
    return;
  }
  GemmBlock m{};
  wnn_post post = {WNN_POST_BIAS, 0, 0, 0, bias, 0};
  m.a = a, m.lda = lda, m.taps = 1, m.kc = K;
  m.b = panels, m.panel = 16 * K;
  m.c = c, m.ldc = ldc, m.M = M, m.n0 = n0, m.n1 = n1;
  m.post = &post, m.n_post = 1;
  if (M) gemm_block(m);
}

vf WNN_ISA_SPACE(WNN_ISA)::activate(const Activation &a, vf x) {
  switch (a.kind) {
    case 0: return vsigmoid(x);
    case 1: return vtanh(x);
    case 2: return vrelu(x);
    case 3: return a.alpha * x + a.beta;
    case 4: return x >= 0.0f ? x : a.alpha * x;
    case 5: return x > a.alpha ? x : vf{};
    case 6: return a.alpha * vtanh(a.beta * x);
    case 7: return vhard_sigmoid(x, a.alpha, a.beta);
    case 8: return x >= 0.0f ? x : a.alpha * (vexp(x) - 1.0f);
    case 9: return x / (1.0f + vabs(x));
    default: return at_least(x, splat(0.0f)) + vlog(1.0f + vexp(-vabs(x)));
  }
}
