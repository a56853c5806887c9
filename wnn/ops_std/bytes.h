// bytes.h: small integers as vectors of L lanes, and numbers rounded to them.
#pragma once
#include "vecmath.h"
#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace {

template <class T> struct Lanes { typedef T type __attribute__((vector_size(L * sizeof(T)))); };

// Also in small builds: a call would take longer
#define BYTES_INLINE static inline __attribute__((always_inline, unused))

// L numbers from p on
template <class T> BYTES_INLINE vi load_int(const T *p) {
  typename Lanes<T>::type v;
  memcpy(&v, p, sizeof v);
  if constexpr (sizeof(T) == 4) return (vi)v;
#if WNN_ISA == 2
  else if constexpr (sizeof(T) == 1) return (vi)(T(-1) < 0 ? _mm512_cvtepi8_epi32((__m128i)v) : _mm512_cvtepu8_epi32((__m128i)v));
#elif WNN_ISA == 1
  else if constexpr (sizeof(T) == 1) {
    const __m128i bytes = _mm_cvtsi64_si128(int64_t(v));
    return (vi)(T(-1) < 0 ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes));
  }
#elif defined(__SSE2__)
  else if constexpr (T(-1) > 0 && sizeof(T) == 1) {
    const __m128i zero = _mm_setzero_si128(), bytes = _mm_cvtsi32_si128(int32_t(v));
    return (vi)_mm_unpacklo_epi16(_mm_unpacklo_epi8(bytes, zero), zero);
  }
#endif
  else return __builtin_convertvector(v, vi);
}
// n in [1, L] of them; the other lanes are 0
template <class T> WNN_INLINE vi load_few(const T *p, int64_t n) {
  T lanes[L] = {};
  memcpy(lanes, p, size_t(n) * sizeof(T));
  return load_int(lanes);
}
template <class T> BYTES_INLINE vi load_int(const T *p, int64_t n) { return n == L ? load_int(p) : load_few(p, n); }
template <class T> BYTES_INLINE vf load_float(const T *p, int64_t n = L) { return __builtin_convertvector(load_int(p, n), vf); }

// y: numbers that T holds
template <class T> BYTES_INLINE void store_int(T *to, vi y) {
  typename Lanes<T>::type v;
#if WNN_ISA == 2
  if constexpr (sizeof(T) == 1) v = (typename Lanes<T>::type)_mm512_cvtepi32_epi8((__m512i)y);
  else
#elif WNN_ISA == 1
  if constexpr (sizeof(T) == 1) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)y), _mm256_extracti128_si256((__m256i)y, 1));
    const int64_t bytes = _mm_cvtsi128_si64(T(-1) < 0 ? _mm_packs_epi16(words, words) : _mm_packus_epi16(words, words));
    memcpy(&v, &bytes, sizeof v);
  } else
#elif defined(__SSE2__)
  if constexpr (T(-1) > 0 && sizeof(T) == 1) {
    const __m128i words = _mm_packs_epi32((__m128i)y, (__m128i)y);
    const int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    memcpy(&v, &bytes, sizeof v);
  } else
#endif
    v = __builtin_convertvector(y, typename Lanes<T>::type);
  memcpy(to, &v, sizeof v);
}
// n of them are written
template <class T> WNN_INLINE void store_few(T *to, vi y, int64_t n) {
  T lanes[L];
  store_int(lanes, y);
  memcpy(to, lanes, size_t(n) * sizeof(T));
}
template <class T> BYTES_INLINE void store_int(T *to, vi y, int64_t n) { return n == L ? store_int(to, y) : store_few(to, y, n); }

// The nearest integers, ties to even, of numbers below 2^22
WNN_INLINE vi nearest(vf x) { return (vi)(x + round_magic) - (vi)splat(round_magic); }

}  // namespace
