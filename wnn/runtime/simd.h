// simd.h: the vector types and loops that kernels are written in; one source for every ISA.
//
// A kernel file is compiled once per ISA (or once, if its first line says "// wnn: base") with WNN_ISA set to 0, 1 or 2.
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

#define WNN_INLINE static inline __attribute__((always_inline, unused))

namespace {

// L floats to a vector: 4 (SSE2, NEON), 8 (AVX2) or 16 (AVX-512)
constexpr int L = WNN_ISA == 2 ? 16 : WNN_ISA == 1 ? 8 : 4;
typedef float vf __attribute__((vector_size(L * 4)));
typedef float vf_u __attribute__((vector_size(L * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(L * 4)));
typedef int32_t vi_u __attribute__((vector_size(L * 4), aligned(4), may_alias));

WNN_INLINE vf load(const float *p) { return *(const vf_u *)p; }
WNN_INLINE void store(float *p, vf v) { *(vf_u *)p = v; }
WNN_INLINE vf splat(float x) { return x - vf{}; }  // folds into the operand; vf{} + x costs an add
// n in [0, L]: lanes from n on read as zero and are not written
WNN_INLINE vf load_n(const float *p, int64_t n) { vf v{}; memcpy(&v, p, size_t(n) * 4); return v; }
WNN_INLINE void store_n(float *p, vf v, int64_t n) { memcpy(p, &v, size_t(n) * 4); }

// ---- tensors ----
template <class T> WNN_INLINE T attr(const void *attrs, int64_t byte_offset) { T v; memcpy(&v, (const char *)attrs + byte_offset, sizeof v); return v; }
WNN_INLINE int64_t count(const wnn_tensor *t) { int64_t n = 1; for (int i = 0; i < t->ndim; i++) n *= t->shape[i]; return n; }
WNN_INLINE int64_t last_dim(const wnn_tensor *t) { return t->ndim ? t->shape[t->ndim - 1] : 1; }
WNN_INLINE float *f32(const wnn_tensor *t) { return (float *)t->data; }

// ---- parallel loops: body(task, worker) ----
template <class F> WNN_INLINE void parallel_for(wnn_ctx *ctx, int64_t n_tasks, F &&body) {
  struct Call { static void run(void *f, int64_t task, int worker) { (*(F *)f)(task, worker); } };
  ctx->api->parallel_for(ctx, n_tasks, Call::run, (void *)&body);
}

}  // namespace

// ---- registration of the core's kernels: a static list that the host reads at start ----
// (op packages call api->register_kernel from wnn_plugin_init instead; see WNN_PLUGIN below)
struct wnn_kernel_entry { const char *name; int isa; wnn_kernel fn; wnn_scratch_fn scratch; wnn_kernel_entry *next; };
extern "C" void wnn_list_kernel(wnn_kernel_entry *entry);

#define WNN_KERNEL_ARGS [[maybe_unused]] wnn_ctx *ctx, [[maybe_unused]] const void *attrs, [[maybe_unused]] const wnn_tensor *const *in, \
                        [[maybe_unused]] int nin, [[maybe_unused]] wnn_tensor *const *out, [[maybe_unused]] int nout
#define WNN_SCRATCH_ARGS [[maybe_unused]] const void *attrs, [[maybe_unused]] const wnn_tensor *const *in, [[maybe_unused]] int nin, \
                         [[maybe_unused]] const wnn_tensor *const *out, [[maybe_unused]] int nout, [[maybe_unused]] int num_threads
// KERNEL(name) { ... return 0; }                          a kernel without scratch
// SCRATCH(name) { return bytes; } KERNEL_S(name) { ... }  one with scratch, found at ctx->scratch
#define WNN_REGISTER(name, scratch_fn) \
  static wnn_kernel_entry entry_##name = {#name, WNN_ISA, name, scratch_fn, nullptr}; \
  __attribute__((constructor, used)) static void list_##name() { wnn_list_kernel(&entry_##name); }
#define KERNEL(name) static int name(WNN_KERNEL_ARGS); WNN_REGISTER(name, nullptr) static int name(WNN_KERNEL_ARGS)
#define SCRATCH(name) static size_t name##_scratch(WNN_SCRATCH_ARGS)
#define KERNEL_S(name) static int name(WNN_KERNEL_ARGS); WNN_REGISTER(name, name##_scratch) static int name(WNN_KERNEL_ARGS)
