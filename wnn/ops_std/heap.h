// Elements by their order: keys that say which comes first, and heaps of such numbers.
#pragma once
#include <type_traits>

#include "simd.h"

namespace {

// A value and where it stands, as a number that is greater the earlier it comes: values in order, NaN above all
template <class T> using Key = std::conditional_t<sizeof(T) == 8, __int128, int64_t>;
template <class T> Key<T> key_of(T value, int64_t at, bool largest) {
  Key<T> rank;
  if constexpr (std::is_same_v<T, float>) {
    const float plain = value + 0.0f;  // no -0
    int32_t bits;
    memcpy(&bits, &plain, 4);
    rank = value != value ? INT32_MAX : bits ^ (bits >> 31 & INT32_MAX);
  } else {
    rank = value;
  }
  constexpr int half = sizeof rank * 4;
  return (largest ? rank : ~rank) * (Key<T>(1) << half) + (~at & ((Key<T>(1) << half) - 1));
}
template <class K> int64_t place_of(K key) { return int64_t(~key & ((K(1) << (sizeof key * 4)) - 1)); }

struct Less { template <class K> WNN_MEMBER bool operator()(K a, K b) const { return a < b; } };

// Puts key in place i, or below, of a heap whose root is least
template <class K, class F = Less> void sink(K *heap, int64_t n, int64_t i, K key, F less = {}) {
  for (int64_t child; (child = 2 * i + 1) < n; i = child) {
    child += child + 1 < n && less(heap[child + 1], heap[child]);
    if (!less(heap[child], key)) break;
    heap[i] = heap[child];
  }
  heap[i] = key;
}

// Makes a heap of any order.
template <class K, class F = Less> void heapify(K *heap, int64_t n, F less = {}) {
  for (int64_t i = n / 2 - 1; i >= 0; i--) sink(heap, n, i, heap[i], less);
}

// Orders a heap, the greatest first.
template <class K, class F = Less> void sort(K *heap, int64_t n, F less = {}) {
  for (K last; --n > 0; sink(heap, n, 0, last, less)) last = heap[n], heap[n] = heap[0];
}

}  // namespace
