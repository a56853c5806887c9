// wnn: hot
// The rate of independent multiply-adds in registers: what no kernel can exceed.
#include "simd.h"

static int64_t fma_peak(int64_t iterations) {
  constexpr int CHAINS = 12;
  volatile float factor = 0.999f;  // known only when it runs: else a chain that never changes is left out
  vf sums[CHAINS], a = splat(factor), b = splat(1e-3f);
  // all three loops unrolled, or the sums would live in memory
#pragma GCC unroll 16
  for (int i = 0; i < CHAINS; i++) sums[i] = splat(float(i));
  for (int64_t n = 0; n < iterations; n++) {
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * a + b;
    asm volatile("" : "+r"(n));
  }
  vf total{};
#pragma GCC unroll 16
  for (int i = 0; i < CHAINS; i++) total += sums[i];
  volatile float keep = total[0];
  (void)keep;
  return iterations * CHAINS * L * 2;
}
HOST_FUNCTION(fma_peak)
