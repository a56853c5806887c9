// wnn: once
// Plans and contexts. A plan is the immutable description; a context is one call's surroundings: its own copy of the
// tensor descriptors with addresses bound, so that a step is one indirect call. Per call only the descriptors that lie
// in inputs and outputs get new addresses.
#include "executor.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "simd.h"

namespace {

template <class T> struct Array {
  T *at;
  int size, capacity;

  bool reserve(int n) {
    if (size + n <= capacity) return true;
    const int want = 2 * (size + n);
    T *grown = (T *)realloc(at, size_t(want) * sizeof(T));
    if (!grown) return false;
    at = grown;
    capacity = want;
    return true;
  }
  void push(const T &x) { at[size++] = x; }
};

struct Step {
  wnn_kernel fn;
  void *attrs;
  int ops, nin, nout;
};

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t(t.tv_sec) * 1000000000 + t.tv_nsec;
}

constexpr size_t align64(size_t n) { return (n + 63) & ~size_t(63); }

}  // namespace

struct wnn_plan {
  int num_threads;
  size_t scratch_bytes;
  Array<wnn_tensor> tensors;
  Array<wnn_place> places;
  Array<int> moving;  // the tensors that lie in inputs and outputs
  Array<Step> steps;
  Array<int> ops;
};

struct wnn_context {
  wnn_ctx ctx;  // first: kernels hand its address back to the api
  const wnn_plan *plan;
  wnn_tensor *tensors;
  wnn_tensor **ops;
  int32_t busy, failed, has_message;
  char message[512];
};

int wnn_itemsize(int dtype) {
  switch (dtype) {
    case WNN_U8: case WNN_I8: case WNN_BOOL: return 1;
    case WNN_U16: case WNN_I16: case WNN_F16: case WNN_BF16: return 2;
    case WNN_F32: case WNN_I32: case WNN_U32: return 4;
    case WNN_F64: case WNN_I64: case WNN_U64: return 8;
    default: return 0;
  }
}

int wnn_tensor_layout(wnn_tensor *t, int has_strides) {
  int64_t expected = 1;
  bool contiguous = true, empty = false;
  for (int i = t->ndim - 1; i >= 0; i--) {
    if (!has_strides) t->strides[i] = expected;
    if (t->shape[i] > 1 && t->strides[i] != expected) contiguous = false;
    if (t->shape[i] == 0) empty = true;
    if (__builtin_mul_overflow(expected, t->shape[i] ? t->shape[i] : 1, &expected)) return 0;
  }
  if (contiguous || empty) t->flags |= WNN_CONTIGUOUS;
  return 1;
}

int wnn_tensor_range(const wnn_tensor *t, int64_t *begin, int64_t *end) {
  int64_t low = 0, high = 1;
  *begin = *end = 0;
  for (int i = 0; i < t->ndim; i++)
    if (t->shape[i] == 0) return 1;
  for (int i = 0; i < t->ndim; i++) {
    int64_t reach;
    if (__builtin_mul_overflow(t->shape[i] - 1, t->strides[i], &reach)) return 0;
    if (__builtin_add_overflow(reach < 0 ? low : high, reach, reach < 0 ? &low : &high)) return 0;
  }
  return !__builtin_mul_overflow(low, wnn_itemsize(t->dtype), begin) &&
         !__builtin_mul_overflow(high, wnn_itemsize(t->dtype), end);
}

wnn_plan *wnn_plan_new(int num_threads) {
  auto *plan = (wnn_plan *)calloc(1, sizeof(wnn_plan));
  if (plan) plan->num_threads = num_threads;
  return plan;
}

void wnn_plan_free(wnn_plan *plan) {
  if (!plan) return;
  for (int i = 0; i < plan->steps.size; i++) free(plan->steps.at[i].attrs);
  free(plan->tensors.at);
  free(plan->places.at);
  free(plan->moving.at);
  free(plan->steps.at);
  free(plan->ops.at);
  free(plan);
}

int wnn_plan_tensor(wnn_plan *plan, const wnn_tensor *tensor, const wnn_place *place) {
  if (!plan->tensors.reserve(1) || !plan->places.reserve(1) || !plan->moving.reserve(1)) return -1;
  plan->tensors.push(*tensor);
  plan->places.push(*place);
  if (place->slot >= WNN_SLOT_INPUT) plan->moving.push(plan->tensors.size - 1);
  return plan->tensors.size - 1;
}

const wnn_tensor *wnn_plan_at(const wnn_plan *plan, int tensor, wnn_place *place) {
  *place = plan->places.at[tensor];
  return &plan->tensors.at[tensor];
}

int wnn_plan_step(wnn_plan *plan, const wnn_kernel_entry *kernel, const void *attrs, size_t attrs_bytes, const int *ops,
                  int nin, int nout) {
  const int n = nin + nout;
  if (!plan->steps.reserve(1) || !plan->ops.reserve(n)) return -1;
  Step step = {kernel ? kernel->fn : nullptr, malloc(attrs_bytes + 1), plan->ops.size, nin, nout};
  auto **tensors = (wnn_tensor **)malloc(size_t(n + 1) * sizeof(wnn_tensor *));
  if (!step.attrs || !tensors) return free(step.attrs), free(tensors), -1;
  if (attrs_bytes) memcpy(step.attrs, attrs, attrs_bytes);
  for (int i = 0; i < n; i++) tensors[i] = ops[i] < 0 ? nullptr : plan->tensors.at + ops[i];
  if (kernel && kernel->scratch) {
    const size_t bytes = align64(kernel->scratch(step.attrs, tensors, nin, tensors + nin, nout, plan->num_threads));
    if (bytes > plan->scratch_bytes) plan->scratch_bytes = bytes;
  }
  free(tensors);
  for (int i = 0; i < n; i++) plan->ops.push(ops[i]);
  plan->steps.push(step);
  return plan->steps.size - 1;
}

size_t wnn_plan_scratch_bytes(const wnn_plan *plan) { return plan->scratch_bytes; }

wnn_context *wnn_context_new(const wnn_plan *plan, char *arena, char *scratch) {
  const size_t tensor_bytes = size_t(plan->tensors.size) * sizeof(wnn_tensor);
  auto *c = (wnn_context *)calloc(1, sizeof(wnn_context));
  if (!c) return nullptr;
  c->tensors = (wnn_tensor *)malloc(tensor_bytes + 1);
  c->ops = (wnn_tensor **)malloc(size_t(plan->ops.size + 1) * sizeof(wnn_tensor *));
  if (!c->tensors || !c->ops) return wnn_context_free(c), nullptr;
  c->ctx = {sizeof(wnn_ctx), plan->num_threads, wnn_host_api(), scratch, plan->scratch_bytes};
  c->plan = plan;
  if (tensor_bytes) memcpy(c->tensors, plan->tensors.at, tensor_bytes);
  for (int i = 0; i < plan->tensors.size; i++) {
    const wnn_place &p = plan->places.at[i];
    if (p.slot == WNN_SLOT_ARENA) c->tensors[i].data = arena + p.offset;
    if (p.slot == WNN_SLOT_CONSTANT) c->tensors[i].data = (char *)p.base + p.offset;
  }
  for (int i = 0; i < plan->ops.size; i++) c->ops[i] = plan->ops.at[i] < 0 ? nullptr : c->tensors + plan->ops.at[i];
  return c;
}

void wnn_context_free(wnn_context *c) {
  if (!c) return;
  free(c->tensors);
  free(c->ops);
  free(c);
}

int wnn_context_enter(wnn_context *c) { return !__atomic_exchange_n(&c->busy, 1, __ATOMIC_ACQUIRE); }
void wnn_context_leave(wnn_context *c) { __atomic_store_n(&c->busy, 0, __ATOMIC_RELEASE); }

void wnn_context_bind(wnn_context *c, void *const *inputs, void *const *outputs) {
  c->failed = c->has_message = 0;
  for (int i = 0; i < c->plan->moving.size; i++) {
    const int t = c->plan->moving.at[i];
    const wnn_place &p = c->plan->places.at[t];
    c->tensors[t].data = (char *)(p.slot == WNN_SLOT_INPUT ? inputs : outputs)[p.index] + p.offset;
  }
}

int wnn_context_run(wnn_context *c, int begin, int end, int64_t *ns) {
  const Step *steps = c->plan->steps.at;
  int64_t start = ns ? now_ns() : 0;
  for (int i = begin; i < end; i++) {
    const Step &s = steps[i];
    if (!s.fn) return i;
    wnn_tensor **ops = c->ops + s.ops;
    const int status = s.fn(&c->ctx, s.attrs, ops, s.nin, ops + s.nin, s.nout);
    leave_vectors(c->ctx.api);
    if (ns) {
      const int64_t stop = now_ns();
      ns[i] = stop - start;
      start = stop;
    }
    // a task of parallel_for cannot return a status: a recorded message fails the step too
    if (status | __atomic_load_n(&c->failed, __ATOMIC_RELAXED)) {
      c->failed = status ? status : 1;
      return i;
    }
  }
  return end;
}

int wnn_context_failed(const wnn_context *c) { return c->failed; }
const char *wnn_context_message(const wnn_context *c) { return c->has_message ? c->message : ""; }

int wnn_ctx_error(wnn_ctx *ctx, const char *format, ...) {
  auto *c = (wnn_context *)ctx;
  if (!__atomic_exchange_n(&c->has_message, 1, __ATOMIC_RELAXED)) {
    va_list args;
    va_start(args, format);
    vsnprintf(c->message, sizeof c->message, format, args);
    va_end(args);
  }
  __atomic_store_n(&c->failed, 1, __ATOMIC_RELAXED);
  return 1;
}
