// executor.h: what the runtime's own files share; C, so that _core.pyx can call it. Not part of the ABI of op packages.
#ifndef WNN_EXECUTOR_H
#define WNN_EXECUTOR_H
#include "wnn_abi.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct wnn_kernel_entry wnn_kernel_entry;  // simd.h

// ---- host.cc: the CPU, the table of kernels, the api that kernels see ----
void wnn_host_start(int isa);
const wnn_api *wnn_host_api(void);
const char *wnn_host_isa_name(int isa);
int wnn_host_best_isa(void);
uint32_t wnn_host_cpu_features(void);  // of the CPU; api->cpu_features has those of the ISA in force
void wnn_host_cpu_name(char name[49]);
const wnn_kernel_entry *wnn_host_kernel(const char *name);  // the best build that the ISA in force allows, or NULL
void wnn_host_each_kernel(void (*visit)(void *arg, const char *name, int isa), void *arg);
double wnn_host_fma_peak(double seconds);  // GFLOP/s of one thread

// ---- threads.cc ----
enum { WNN_MAX_THREADS = 255 };
void wnn_parallel_for(wnn_ctx *ctx, int64_t n_tasks, void (*body)(void *arg, int64_t task, int worker), void *arg);
int wnn_default_threads(void);  // what affinity and cgroup quota allow, at least 1

// ---- executor.cc ----
enum { WNN_BAD_INDEX = 2 };  // what a kernel returns where an index that it read is the error
enum { WNN_SLOT_ARENA = 0, WNN_SLOT_CONSTANT = 1, WNN_SLOT_INPUT = 2, WNN_SLOT_OUTPUT = 3 };
typedef struct wnn_plan wnn_plan;
typedef struct wnn_context wnn_context;

// A tensor's place: byte offset in the arena, in input or output number index, or from the address base (constants).
typedef struct wnn_place { int32_t slot, index; int64_t offset; void *base; } wnn_place;

int wnn_itemsize(int dtype);  // 0: not a dtype of the ABI
// Fills in the strides where there are none, and WNN_CONTIGUOUS where it holds. 0: the size overflows.
int wnn_tensor_layout(wnn_tensor *tensor, int has_strides);
// The bytes that the tensor's elements occupy, from data on: [begin, end). 0: they overflow.
int wnn_tensor_range(const wnn_tensor *tensor, int64_t *begin, int64_t *end);

wnn_plan *wnn_plan_new(int num_threads);
void wnn_plan_free(wnn_plan *plan);
// Both return the number of what was added, or -1 when memory runs out.
int wnn_plan_tensor(wnn_plan *plan, const wnn_tensor *tensor, const wnn_place *place);
// ops: nin + nout tensor numbers, -1 for an absent input; kernel NULL: a step that the caller runs itself
int wnn_plan_step(wnn_plan *plan, const wnn_kernel_entry *kernel, const void *attrs, size_t attrs_bytes, const int *ops,
                  int nin, int nout);
const wnn_tensor *wnn_plan_at(const wnn_plan *plan, int tensor, wnn_place *place);
size_t wnn_plan_scratch_bytes(const wnn_plan *plan);

wnn_context *wnn_context_new(const wnn_plan *plan, char *arena, char *scratch);  // both 64-byte aligned
void wnn_context_free(wnn_context *context);
int wnn_context_enter(wnn_context *context);  // 0 if it is in use already
void wnn_context_leave(wnn_context *context);
void wnn_context_bind(wnn_context *context, void *const *inputs, void *const *outputs);
// Runs native steps from begin on; stops before the first step that is not native, at the first that fails, or at end.
// Returns where it stopped. ns: NULL, or the time of each step is written to ns[step].
int wnn_context_run(wnn_context *context, int begin, int end, int64_t *ns);
int wnn_context_failed(const wnn_context *context);  // what the last step returned
const char *wnn_context_message(const wnn_context *context);

int wnn_ctx_error(wnn_ctx *ctx, const char *format, ...);  // api->error

#ifdef __cplusplus
}
#endif
#endif
