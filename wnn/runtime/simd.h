// simd.h: the vector types and loops that kernels are written in; one source for every ISA.
//
// A kernel file is compiled once per ISA (or once, if its first line says "// wnn: once") with WNN_ISA set to 0, 1 or 2.
// Everything here has internal linkage, so that objects of different ISAs never share a symbol.
// It ships to op packages as source, without an ABI promise.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "wnn_abi.h"

#ifndef WNN_ISA
#define WNN_ISA 0
#endif
#if WNN_ISA
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns of its own _mm512_undefined_ps
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#ifdef WNN_SMALL
#define WNN_INLINE static inline __attribute__((unused))
#define WNN_MEMBER inline
#else
#define WNN_INLINE static inline __attribute__((always_inline, unused))
#define WNN_MEMBER inline __attribute__((always_inline))
#endif
// the namespace of functions that one file of an ISA defines for others: namespace WNN_ISA_SPACE(WNN_ISA) { ... }
#define WNN_ISA_SPACE_(isa) wnn_isa##isa
#define WNN_ISA_SPACE(isa) WNN_ISA_SPACE_(isa)

namespace {

// L floats to a vector: 4 (SSE2, NEON), 8 (AVX2) or 16 (AVX-512)
constexpr int L = WNN_ISA == 2 ? 16 : WNN_ISA == 1 ? 8 : 4;
typedef float vf __attribute__((vector_size(L * 4)));
typedef float vf_u __attribute__((vector_size(L * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(L * 4)));
typedef int32_t vi_u __attribute__((vector_size(L * 4), aligned(4), may_alias));

WNN_INLINE vf load(const float *p) { return *(const vf_u *)p; }
WNN_INLINE void store(float *p, vf v) { *(vf_u *)p = v; }
// v in a register. What was loaded once for several uses, GCC at -Os may else read at each of them.
WNN_INLINE vf held(vf v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#endif
  return v;
}
WNN_INLINE vf splat(float x) { return x - vf{}; }  // folds into the operand; vf{} + x costs an add

// n in [0, L]: lanes from n on read as zero and are not written
#if WNN_ISA == 2
WNN_INLINE __mmask16 mask_n(int64_t n) { return (__mmask16)((1u << n) - 1); }
WNN_INLINE vf load_n(const float *p, int64_t n) { return (vf)_mm512_maskz_loadu_ps(mask_n(n), p); }
WNN_INLINE void store_n(float *p, vf v, int64_t n) { _mm512_mask_storeu_ps(p, mask_n(n), (__m512)v); }
#elif WNN_ISA == 1
WNN_INLINE vi mask_n(int64_t n) { return vi{0, 1, 2, 3, 4, 5, 6, 7} < (int32_t)n; }
WNN_INLINE vf load_n(const float *p, int64_t n) { return (vf)_mm256_maskload_ps(p, (__m256i)mask_n(n)); }
WNN_INLINE void store_n(float *p, vf v, int64_t n) { _mm256_maskstore_ps(p, (__m256i)mask_n(n), (__m256)v); }
#else
WNN_INLINE vf load_n(const float *p, int64_t n) {
  if (n >= 4) return load(p);
  return vf{n > 0 ? p[0] : 0, n > 1 ? p[1] : 0, n > 2 ? p[2] : 0, 0};
}
WNN_INLINE void store_n(float *p, vf v, int64_t n) {
  if (n >= 4) return store(p, v);
  if (n > 0) p[0] = v[0];
  if (n > 1) p[1] = v[1];
  if (n > 2) p[2] = v[2];
}
#endif
// lanes from n on take other
WNN_INLINE vf keep_n(vf v, int64_t n, vf other) {
#if WNN_ISA == 2
  return (vf)_mm512_mask_blend_ps(mask_n(n), (__m512)other, (__m512)v);
#elif WNN_ISA == 1
  return mask_n(n) ? v : other;
#else
  return (vi{0, 1, 2, 3} < (int32_t)n) ? v : other;
#endif
}

// ---- lane arithmetic: where x is NaN the result is NaN, whatever the bound ----
#if WNN_ISA == 2  // GCC makes a comparison and a blend of the conditional
WNN_INLINE vf at_least(vf x, vf bound) { return (vf)_mm512_max_ps((__m512)bound, (__m512)x); }
WNN_INLINE vf at_most(vf x, vf bound) { return (vf)_mm512_min_ps((__m512)bound, (__m512)x); }
#elif WNN_ISA == 1
WNN_INLINE vf at_least(vf x, vf bound) { return (vf)_mm256_max_ps((__m256)bound, (__m256)x); }
WNN_INLINE vf at_most(vf x, vf bound) { return (vf)_mm256_min_ps((__m256)bound, (__m256)x); }
#else
WNN_INLINE vf at_least(vf x, vf bound) { return bound > x ? bound : x; }
WNN_INLINE vf at_most(vf x, vf bound) { return bound < x ? bound : x; }
#endif
WNN_INLINE vf clamp(vf x, float lo, float hi) { return at_most(at_least(x, splat(lo)), splat(hi)); }
WNN_INLINE vf vabs(vf x) { return (vf)((vi)x & 0x7fffffff); }
WNN_INLINE vf vsqrt(vf x) {
#if WNN_ISA == 2
  return (vf)_mm512_sqrt_ps((__m512)x);
#elif WNN_ISA == 1
  return (vf)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < L; i++) x[i] = sqrtf(x[i]);
  return x;
#endif
}
// one number from all lanes; f(vector, vector) is associative and commutative
template <class F> WNN_INLINE float fold(vf x, F f) {
  typedef float v4 __attribute__((vector_size(16)));
#if WNN_ISA == 2
  typedef float v8 __attribute__((vector_size(32)));
  v8 y = f((v8)_mm512_castps512_ps256((__m512)x), (v8)_mm512_extractf32x8_ps((__m512)x, 1));
  v4 z = f((v4)_mm256_castps256_ps128((__m256)y), (v4)_mm256_extractf128_ps((__m256)y, 1));
#elif WNN_ISA == 1
  v4 z = f((v4)_mm256_castps256_ps128((__m256)x), (v4)_mm256_extractf128_ps((__m256)x, 1));
#else
  v4 z = x;
#endif
  z = f(z, __builtin_shufflevector(z, z, 2, 3, 0, 1));
  z = f(z, __builtin_shufflevector(z, z, 1, 0, 3, 2));
  return z[0];
}

// ---- transposing ----
// column[j][r] = row[r][j] for j < 4, r < L: vectors of four elements of rows 0, 4, 8..., of 1, 5, 9..., and so on, in which the
// 128-bit parts are 4x4 transposed
#if WNN_ISA == 2
#define WNN_IN_PARTS(f, a, b, ...) ((vf)_mm512_##f((__m512)(a), (__m512)(b) __VA_ARGS__))
WNN_INLINE vf fours(const float *const row[], int64_t k) {
  const __m512 first = _mm512_insertf32x4(_mm512_castps128_ps512(_mm_loadu_ps(row[0] + k)), _mm_loadu_ps(row[4] + k), 1);
  return (vf)_mm512_insertf32x4(_mm512_insertf32x4(first, _mm_loadu_ps(row[8] + k), 2), _mm_loadu_ps(row[12] + k), 3);
}
#elif WNN_ISA == 1
#define WNN_IN_PARTS(f, a, b, ...) ((vf)_mm256_##f((__m256)(a), (__m256)(b) __VA_ARGS__))
WNN_INLINE vf fours(const float *const row[], int64_t k) {
  return (vf)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row[0] + k)), _mm_loadu_ps(row[4] + k), 1);
}
#else
WNN_INLINE vf fours(const float *const row[], int64_t k) { return load(row[0] + k); }
#endif
WNN_INLINE void transpose_four(const float *const row[L], int64_t k, vf column[4]) {
  const vf a = fours(row, k), b = fours(row + 1, k), c = fours(row + 2, k), d = fours(row + 3, k);
#if WNN_ISA
  const vf ab = WNN_IN_PARTS(unpacklo_ps, a, b), cd = WNN_IN_PARTS(unpacklo_ps, c, d);
  const vf AB = WNN_IN_PARTS(unpackhi_ps, a, b), CD = WNN_IN_PARTS(unpackhi_ps, c, d);
  column[0] = WNN_IN_PARTS(shuffle_ps, ab, cd, , 0x44), column[1] = WNN_IN_PARTS(shuffle_ps, ab, cd, , 0xee);
  column[2] = WNN_IN_PARTS(shuffle_ps, AB, CD, , 0x44), column[3] = WNN_IN_PARTS(shuffle_ps, AB, CD, , 0xee);
#else
  const vf ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const vf AB = __builtin_shufflevector(a, b, 2, 6, 3, 7), CD = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  column[0] = __builtin_shufflevector(ab, cd, 0, 1, 4, 5), column[1] = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
  column[2] = __builtin_shufflevector(AB, CD, 0, 1, 4, 5), column[3] = __builtin_shufflevector(AB, CD, 2, 3, 6, 7);
#endif
}

// ---- loops over a row: f(v, i) is called with a loader v, a vector load or, at the tail, a masked one ----
struct Full { WNN_MEMBER vf operator()(const float *p) const { return load(p); } };
struct Tail { int64_t n; WNN_MEMBER vf operator()(const float *p) const { return load_n(p, n); } };

// y[i] = f(v, i) for i in [0, n); y may be what f reads at i
template <class F> WNN_INLINE void map(float *y, int64_t n, F f) {
  int64_t i = 0;
  for (; i + L <= n; i += L) store(y + i, f(Full{}, i));
  if (i < n) store_n(y + i, f(Tail{n - i}, i), n - i);
}
template <class F, class R> WNN_INLINE float reduce(int64_t n, float start, F f, R join) {
  vf a[4] = {splat(start), splat(start), splat(start), splat(start)};
  int64_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L)
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) a[k] = join(f(Full{}, i + k * L), a[k]);
  for (; i < n; i += L) a[0] = join(keep_n(f(Tail{n - i < L ? n - i : L}, i), n - i < L ? n - i : L, splat(start)), a[0]);
  return fold(join(join(a[0], a[1]), join(a[2], a[3])), join);
}
template <class F> WNN_INLINE float reduce_sum(int64_t n, F f) {
  return reduce(n, 0.0f, f, [](auto x, auto y) { return x + y; });
}
// -inf for n == 0; a NaN may be passed over
template <class F> WNN_INLINE float reduce_max(int64_t n, F f) {
  return reduce(n, -INFINITY, f, [](auto x, auto y) { return x > y ? x : y; });
}

// ---- tensors ----
template <class T> WNN_INLINE T attr(const void *attrs, int64_t byte_offset) { T v; memcpy(&v, (const char *)attrs + byte_offset, sizeof v); return v; }
WNN_INLINE int64_t count(const wnn_tensor *t) { int64_t n = 1; for (int i = 0; i < t->ndim; i++) n *= t->shape[i]; return n; }
WNN_INLINE int64_t last_dim(const wnn_tensor *t) { return t->ndim ? t->shape[t->ndim - 1] : 1; }
WNN_INLINE float *f32(const wnn_tensor *t) { return (float *)t->data; }

// After code that was compiled for size: GCC leaves the upper halves of vector registers in use there, which slows SSE code
WNN_INLINE void leave_vectors([[maybe_unused]] const wnn_api *api) {
#if defined(__x86_64__)
  if (api->isa) asm volatile("vzeroupper");
#endif
}

// ---- parallel loops: body(task, worker) ----
template <class F> WNN_INLINE void parallel_for(wnn_ctx *ctx, int64_t n_tasks, const F &body) {
  struct Call { static void run(void *f, int64_t task, int worker) { (*(const F *)f)(task, worker); } };
  ctx->api->parallel_for(ctx, n_tasks, Call::run, (void *)&body);
}

}  // namespace

// ---- registration: a section of entries, which the host reads at start and a package (see WNN_PLUGIN) in
// wnn_plugin_init. They are aligned so that the compiler leaves no gaps between them. ----
// Their names lie in them: a pointer would be one more relocation for the loader to make.
struct wnn_kernel_entry { wnn_kernel fn; wnn_scratch_fn scratch; wnn_kernel_entry *next; int isa; char name[44]; };
extern "C" __attribute__((visibility("hidden"))) wnn_kernel_entry __start_wnn_kernels[], __stop_wnn_kernels[];

#define WNN_KERNEL_ARGS [[maybe_unused]] wnn_ctx *ctx, [[maybe_unused]] const void *attrs, [[maybe_unused]] const wnn_tensor *const *in, \
                        [[maybe_unused]] int nin, [[maybe_unused]] wnn_tensor *const *out, [[maybe_unused]] int nout
#define WNN_SCRATCH_ARGS [[maybe_unused]] const void *attrs, [[maybe_unused]] const wnn_tensor *const *in, [[maybe_unused]] int nin, \
                         [[maybe_unused]] const wnn_tensor *const *out, [[maybe_unused]] int nout, [[maybe_unused]] int num_threads
// KERNEL(name) { ... return 0; }                          a kernel without scratch
// SCRATCH(name) { return bytes; } KERNEL_S(name) { ... }  one with scratch, found at ctx->scratch
#define WNN_REGISTER(name, scratch_fn) \
  __attribute__((section("wnn_kernels"), aligned(8), used)) \
  static wnn_kernel_entry entry_##name = {name, scratch_fn, nullptr, WNN_ISA, #name};
#define KERNEL(name) static int name(WNN_KERNEL_ARGS); WNN_REGISTER(name, nullptr) static int name(WNN_KERNEL_ARGS)
#define SCRATCH(name) static size_t name##_scratch(WNN_SCRATCH_ARGS)
#define KERNEL_S(name) static int name(WNN_KERNEL_ARGS); WNN_REGISTER(name, name##_scratch) static int name(WNN_KERNEL_ARGS)

// WNN_PLUGIN("contrib.vit") in one file of an op package: its KERNELs become known as "contrib.vit:name", and wnn_host
// gives them the api where no ctx is (in SCRATCH).
extern "C" __attribute__((visibility("hidden"))) const wnn_api *wnn_host;
#define WNN_EXPORT extern "C" __attribute__((visibility("default")))
#define WNN_PLUGIN(domain) \
  const wnn_api *wnn_host; \
  WNN_EXPORT const wnn_plugin_info wnn_plugin = {sizeof(wnn_plugin_info), WNN_ABI_MAJOR, WNN_ABI_MINOR, WNN_ABI_MINOR, 0}; \
  WNN_EXPORT int wnn_plugin_init(const wnn_api *api) { \
    wnn_host = api; \
    for (const wnn_kernel_entry *e = __start_wnn_kernels; e < __stop_wnn_kernels; e++) { \
      char name[128] = domain ":"; \
      strncat(name, e->name, sizeof name - sizeof domain - 1); \
      if (api->register_kernel(api, name, e->isa, e->fn, e->scratch)) return 1; \
    } \
    return 0; \
  }

// ---- functions that the core has once per ISA, of which host.cc, that knows their names, takes the best ----
extern "C" void wnn_list_host_function(const char *name, int isa, void (*fn)(void));
#define HOST_FUNCTION(name) \
  __attribute__((constructor, used)) static void list_##name() { wnn_list_host_function(#name, WNN_ISA, (void (*)(void))name); }
