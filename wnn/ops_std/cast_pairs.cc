// wnn: avx2 wide
// cast between the dtypes of which models have many elements, eight at a time: see cast.py.
#include <type_traits>

#include "elementwise.h"

namespace {

enum Half : uint16_t {};
enum Bool : uint8_t {};

template <class S, class T> void eights(const char *from, char *to, int64_t n) {
  const S *x = (const S *)from;
  T *y = (T *)to;
  for (; n > 0; n--, x += 8, y += 8) {
    if constexpr (std::is_same_v<S, Half>) store(y, (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x)));
    else if constexpr (std::is_same_v<T, Half>) _mm_storeu_si128((__m128i *)y, _mm256_cvtps_ph((__m256)load(x), _MM_FROUND_TO_NEAREST_INT));
    else if constexpr (std::is_same_v<T, Bool>) store_int((uint8_t *)y, (load(x) != 0.0f) & 1);
    else if constexpr (sizeof(S) == 8 && std::is_same_v<T, float>)  // of zero: else each waits for the last one's register
      for (int k = 0; k < 8; k++) y[k] = _mm_cvtss_f32(_mm_cvtsi64_ss(_mm_setzero_ps(), x[k]));
    else if constexpr (sizeof(S) == 8 || sizeof(T) == 8)
      for (int k = 0; k < 8; k++) y[k] = T(x[k]);
    else if constexpr (std::is_same_v<T, float>) store(y, load_float(x));
    else if constexpr (sizeof(T) == 1) store_int(y, __builtin_convertvector(load(x), vi) & 255);
    else *(vi_u *)y = __builtin_convertvector(load(x), vi);
  }
}

struct Pair { int32_t from, to; void (*eights)(const char *from, char *to, int64_t n); };
constexpr Pair pairs[] = {
  {WNN_F32, WNN_F16, eights<float, Half>},     {WNN_F16, WNN_F32, eights<Half, float>},     {WNN_F32, WNN_BOOL, eights<float, Bool>},
  {WNN_F32, WNN_U8, eights<float, uint8_t>},   {WNN_U8, WNN_F32, eights<uint8_t, float>},   {WNN_BOOL, WNN_F32, eights<uint8_t, float>},
  {WNN_F32, WNN_I32, eights<float, int32_t>},  {WNN_I32, WNN_F32, eights<int32_t, float>},  {WNN_F32, WNN_I64, eights<float, int64_t>},
  {WNN_I64, WNN_F32, eights<int64_t, float>},  {WNN_I64, WNN_I32, eights<int64_t, int32_t>}, {WNN_I32, WNN_I64, eights<int32_t, int64_t>},
};

void block(const void *arg, const void *const *in, void *out, int64_t n) {
  const Pair &p = *(const Pair *)arg;
  const int64_t whole = n & ~7, size = item_bytes(p.from), made_size = item_bytes(p.to);
  p.eights((const char *)in[0], (char *)out, n / 8);
  if (n == whole) return;
  char from[64] = {}, made[64];
  memcpy(from, (const char *)in[0] + whole * size, size_t((n - whole) * size));
  p.eights(from, made, 1);
  memcpy((char *)out + whole * made_size, made, size_t((n - whole) * made_size));
}

}  // namespace

KERNEL(cast_pairs) {
  for (const Pair &p : pairs)
    if (p.from == in[0]->dtype && p.to == out[0]->dtype) return elementwise(ctx, in, 1, out[0], block, &p);
  return ctx->api->error(ctx, "[cast] found dtypes %d and %d; expected a pair of cast_pairs.cc; correct cast.py", in[0]->dtype, out[0]->dtype);
}
