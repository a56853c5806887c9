/* Kernels of a package that exists for tests/test_runtime.py. */
#include "wnn_abi.h"
#include <time.h>
static int fail(wnn_ctx *c, const void *a, const wnn_tensor *const *i, int n, wnn_tensor *const *o, int m) {
  return c->api->error(c, "found %d; expected %d; do something", 1, 2);
}
static void fail_task(void *arg, int64_t task, int worker) {
  if (task == 70) ((wnn_ctx *)arg)->api->error((wnn_ctx *)arg, "task %d", (int)task);
}
static int fail_in_task(wnn_ctx *c, const void *a, const wnn_tensor *const *i, int n, wnn_tensor *const *o, int m) {
  c->api->parallel_for(c, 100, fail_task, c);
  return 0;
}
static int nothing(wnn_ctx *c, const void *a, const wnn_tensor *const *i, int n, wnn_tensor *const *o, int m) { return 0; }
static void no_task(void *arg, int64_t task, int worker) {}
static int rendezvous(wnn_ctx *c, const void *a, const wnn_tensor *const *i, int n, wnn_tensor *const *o, int m) {
  c->api->parallel_for(c, c->num_threads, no_task, c);
  return 0;
}
static size_t scratch_bytes(const void *a, const wnn_tensor *const *i, int n, const wnn_tensor *const *o, int m, int t) {
  return i[0]->data ? 0 : (size_t)(i[0]->shape[0] * t);
}
static int scratch(wnn_ctx *c, const void *a, const wnn_tensor *const *i, int n, wnn_tensor *const *o, int m) {
  int64_t *out = (int64_t *)o[0]->data;
  out[0] = (int64_t)c->scratch_bytes; out[1] = (int64_t)((uintptr_t)c->scratch % 64);
  for (size_t k = 0; k < c->scratch_bytes; k++) ((char *)c->scratch)[k] = 1;
  return 0;
}
/* out[worker] counts tasks; inner tasks must see the worker number of the outer one */
typedef struct { wnn_ctx *c; int64_t *out; int worker; } nest;
static void spin(long ns) {
  struct timespec a, b; clock_gettime(CLOCK_MONOTONIC, &a);
  do clock_gettime(CLOCK_MONOTONIC, &b); while ((b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec < ns);
}
static void inner(void *arg, int64_t task, int worker) {
  nest *n = (nest *)arg;
  __atomic_add_fetch(&n->out[worker == n->worker ? worker : 255], 1, __ATOMIC_RELAXED);
}
static void outer(void *arg, int64_t task, int worker) {
  nest n = *(nest *)arg;
  n.worker = worker;
  spin(20000);
  n.c->api->parallel_for(n.c, 10, inner, &n);
}
static int nested(wnn_ctx *c, const void *a, const wnn_tensor *const *i, int n, wnn_tensor *const *o, int m) {
  nest arg = {c, (int64_t *)o[0]->data, 0};
  for (int k = 0; k < 256; k++) arg.out[k] = 0;
  c->api->parallel_for(c, 100, outer, &arg);
  return 0;
}
static void mark(void *arg, int64_t task, int worker) { ((unsigned char *)arg)[task] += 1; }
static int cover(wnn_ctx *c, const void *a, const wnn_tensor *const *i, int n, wnn_tensor *const *o, int m) {
  for (int64_t k = 0; k < o[0]->shape[0]; k++) ((char *)o[0]->data)[k] = 0;
  c->api->parallel_for(c, o[0]->shape[0], mark, o[0]->data);
  return 0;
}
static void spin_task(void *arg, int64_t task, int worker) { spin(*(int64_t *)arg); }
static int busy(wnn_ctx *c, const void *a, const wnn_tensor *const *i, int n, wnn_tensor *const *o, int m) {
  int64_t ns = 50000;
  for (int k = 0; k < 200; k++) c->api->parallel_for(c, 8, spin_task, &ns);
  return 0;
}
int wnn_plugin_init(const wnn_api *api) {
  if (api->struct_size < sizeof *api || api->abi_major != WNN_ABI_MAJOR) return 1;
  return api->register_kernel(api, "test:fail", 0, fail, 0) | api->register_kernel(api, "test:fail_in_task", 0, fail_in_task, 0)
    | api->register_kernel(api, "test:nothing", 0, nothing, 0) | api->register_kernel(api, "test:rendezvous", 0, rendezvous, 0)
    | api->register_kernel(api, "test:scratch", 0, scratch, scratch_bytes) | api->register_kernel(api, "test:nested", 0, nested, 0)
    | api->register_kernel(api, "test:cover", 0, cover, 0) | api->register_kernel(api, "test:busy", 0, busy, 0);
}
int refused(const wnn_api *api) {
  return api->register_kernel(api, "test:fail", 0, fail, 0) && api->register_kernel(api, "copy", 0, fail, 0)
    && api->register_kernel(api, "test:isa", 3, fail, 0) && api->register_kernel(api, "test:null", 0, 0, 0);
}
