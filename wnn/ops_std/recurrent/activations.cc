// The activations that ONNX's recurrent layers know, by the numbers of layers.py.
#include "recurrent.h"

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
