"""What _core.pyx uses of executor.h, and of wnn_abi.h in it."""

from libc.stdint cimport int32_t, int64_t, uint32_t


cdef extern from "executor.h" nogil:
    enum: WNN_MAX_DIMS, WNN_MAX_THREADS, WNN_CONSTANT, WNN_CONTIGUOUS, WNN_PLAIN, WNN_PANEL16, WNN_ISA_COUNT
    enum: WNN_CPU_AVX2_FMA, WNN_CPU_AVX512, WNN_CPU_VNNI, WNN_CPU_AVX_VNNI, WNN_CPU_BF16, WNN_CPU_VBMI, WNN_CPU_FMA512
    enum: WNN_SLOT_ARENA, WNN_SLOT_CONSTANT, WNN_SLOT_INPUT, WNN_SLOT_OUTPUT, WNN_BAD_INDEX

    ctypedef struct wnn_tensor:
        int32_t dtype, ndim
        uint32_t flags, layout
        int64_t *shape
        int64_t *strides
    ctypedef struct wnn_api:
        int32_t isa
        size_t (*pack_bytes)(int layout, int dtype, int64_t K, int64_t N) noexcept nogil
        int (*pack)(int, int, int64_t, int64_t, const void *, int64_t, int64_t, void *) noexcept nogil
        int (*unpack)(int, int, int64_t, int64_t, const void *, void *, int64_t, int64_t) noexcept nogil
    ctypedef struct wnn_kernel_entry
    ctypedef struct wnn_plan
    ctypedef struct wnn_context
    ctypedef struct wnn_place:
        int32_t slot, index
        int64_t offset
        void *base

    void wnn_host_start(int isa)
    const wnn_api *wnn_host_api()
    const char *wnn_host_isa_name(int isa)
    int wnn_host_best_isa()
    uint32_t wnn_host_cpu_features()
    void wnn_host_cpu_name(char *name)
    const wnn_kernel_entry *wnn_host_kernel(const char *name)
    void wnn_host_each_kernel(void (*visit)(void *, const char *, int) noexcept, void *arg)
    double wnn_host_fma_peak(double seconds)
    int wnn_default_threads()

    int wnn_itemsize(int dtype)
    int wnn_tensor_layout(wnn_tensor *tensor, int has_strides)
    int wnn_tensor_range(const wnn_tensor *tensor, int64_t *begin, int64_t *end)
    wnn_plan *wnn_plan_new(int num_threads)
    void wnn_plan_free(wnn_plan *plan)
    int wnn_plan_tensor(wnn_plan *plan, const wnn_tensor *tensor, const wnn_place *place)
    int wnn_plan_step(wnn_plan *plan, const wnn_kernel_entry *kernel, const void *attrs, size_t attrs_bytes,
                      const int *ops, int nin, int nout)
    const wnn_tensor *wnn_plan_at(const wnn_plan *plan, int tensor, wnn_place *place)
    size_t wnn_plan_scratch_bytes(const wnn_plan *plan)
    wnn_context *wnn_context_new(const wnn_plan *plan, char *arena, char *scratch)
    void wnn_context_free(wnn_context *context)
    int wnn_context_enter(wnn_context *context)
    void wnn_context_leave(wnn_context *context)
    void wnn_context_bind(wnn_context *context, void **inputs, void **outputs)
    int wnn_context_run(wnn_context *context, int begin, int end, int64_t *ns)
    int wnn_context_failed(const wnn_context *context)
    const char *wnn_context_message(const wnn_context *context)
