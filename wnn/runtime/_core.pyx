# cython: language_level=3, binding=False, freethreading_compatible=True, auto_pickle=False, always_allow_keywords=False
"""The compiled core: the CPU, the table of kernels, plans and contexts.

A Plan lists tensors and steps and never changes once sealed. A Context is one call's surroundings (an arena and
bound addresses); a plan may have many contexts, a context serves one call at a time.

dtypes are the numbers of ONNX TensorProto.DataType; bfloat16 is seen by numpy as uint16. Buffers are anything with
the buffer protocol. Shapes and strides are in elements, offsets in bytes.
"""

import os
from time import perf_counter_ns

from wnn.errors import IndexOutOfRangeError, MissingOperatorError, ShapeError, UnsupportedError, WnnError

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint32_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from wnn.runtime.executor cimport *

ARENA, CONSTANT, INPUT, OUTPUT = WNN_SLOT_ARENA, WNN_SLOT_CONSTANT, WNN_SLOT_INPUT, WNN_SLOT_OUTPUT
PLAIN, PANEL16 = WNN_PLAIN, WNN_PANEL16
_NUMPY_DTYPES = {
    1: "f4", 2: "u1", 3: "i1", 4: "u2", 5: "i2", 6: "i4", 7: "i8", 9: "?",
    10: "f2", 11: "f8", 12: "u4", 13: "u8", 16: "u2",
}  # fmt: skip


cdef _refuse(error, str text, tuple values):
    raise error(text % values)


# ---- the host ----
def _start():
    cdef int best = wnn_host_best_isa(), isa = best
    forced = os.environ.get("WNN_ISA")
    if forced:
        names = [wnn_host_isa_name(i).decode() for i in range(WNN_ISA_COUNT)]
        able = ", ".join(names[: best + 1])
        if forced not in names:
            _refuse(UnsupportedError, "[WNN_ISA] found %r; expected one of %s; set one of these or unset it",
                    (forced, able))
        isa = names.index(forced)
        if isa > best:
            _refuse(UnsupportedError, "[WNN_ISA] found %r, which this CPU (%s) lacks; expected one of %s;"
                    " set one of these or unset it", (forced, cpu()['name'], able))
    wnn_host_start(isa)


def isa():
    """The instruction set in force: "baseline", "avx2" or "avx512"."""
    return wnn_host_isa_name(wnn_host_api().isa).decode()


def cpu():
    """{"name": str, "isa": str, the best that the CPU has, "features": list of str}."""
    cdef char name[49]
    cdef uint32_t bits = wnn_host_cpu_features()
    wnn_host_cpu_name(name)
    features = {"avx2": WNN_CPU_AVX2_FMA, "avx512": WNN_CPU_AVX512, "vnni": WNN_CPU_VNNI,
                "avx_vnni": WNN_CPU_AVX_VNNI, "bf16": WNN_CPU_BF16, "vbmi": WNN_CPU_VBMI, "fma512": WNN_CPU_FMA512}
    return {
        "name": (<bytes>name).decode(errors="replace").strip() or os.uname().machine,
        "isa": wnn_host_isa_name(wnn_host_best_isa()).decode(),
        "features": [f for f, bit in features.items() if bits & bit],
    }


def fma_peak(double seconds=0.1):
    """The highest rate of float32 multiply-adds of one thread, in GFLOP/s, seen in that many seconds."""
    cdef double rate
    with nogil:
        rate = wnn_host_fma_peak(seconds)
    return rate


def default_threads():
    """How many threads CPU affinity and control groups allow: at least 1."""
    return wnn_default_threads()


def api_address():
    """The address of the wnn_api that packages get."""
    return <uintptr_t>wnn_host_api()


cdef void _visit(void *found, const char *name, int isa) noexcept with gil:
    (<dict>found)[name.decode()] = isa


def kernels():
    """Name -> number of the instruction set of each kernel that can be used here."""
    found = {}
    wnn_host_each_kernel(_visit, <void *>found)
    return found


_handles = {}  # name -> handle


def kernel(str name not None):
    """The handle of a kernel, for Plan.step. MissingOperatorError if there is none of that name."""
    cdef const wnn_kernel_entry *entry
    handle = _handles.get(name)
    if handle is None:
        entry = wnn_host_kernel(name.encode())
        if entry is NULL:
            _refuse(MissingOperatorError, "[%s] no kernel has this name; expected one of the %s that"
                    " wnn.runtime._core.kernels() lists; install or load the package that provides it",
                    (name, len(kernels())))
        handle = _handles[name] = <uintptr_t>entry
    return handle


# ---- packed constants ----
def pack_bytes(int layout, int dtype, int64_t K, int64_t N):
    """Size of a packed K x N matrix."""
    cdef size_t n = wnn_host_api().pack_bytes(layout, dtype, K, N)
    if n == 0 and K != 0 and N != 0:
        _refuse(UnsupportedError, "[pack] found layout %s, dtype %s, %s x %s; expected layout PANEL16 (1)"
                " of float32 (1), of a size that can be addressed; store this constant plain",
                (layout, dtype, K, N))
    return n


cdef _repack(int layout, int dtype, plain, packed, bint unpack):
    cdef Py_buffer b, p
    cdef int64_t row, col
    PyObject_GetBuffer(plain, &b, PyBUF_STRIDES | (PyBUF_WRITABLE if unpack else 0))
    try:
        if b.ndim != 2 or b.itemsize != wnn_itemsize(dtype):
            _refuse(ShapeError, "[pack] found %s axes of %s bytes; expected a matrix of dtype %s;"
                    " reshape it", (b.ndim, b.itemsize, dtype))
        need = pack_bytes(layout, dtype, b.shape[0], b.shape[1])
        PyObject_GetBuffer(packed, &p, PyBUF_SIMPLE if unpack else PyBUF_WRITABLE)
        try:
            if p.len < need:
                _refuse(ShapeError, "[pack] found %s bytes for %s x %s; expected %s;"
                        " size the buffer with pack_bytes", (p.len, b.shape[0], b.shape[1], need))
            row, col = b.strides[0] // b.itemsize, b.strides[1] // b.itemsize
            with nogil:
                if unpack:
                    wnn_host_api().unpack(layout, dtype, b.shape[0], b.shape[1], p.buf, b.buf, row, col)
                else:
                    wnn_host_api().pack(layout, dtype, b.shape[0], b.shape[1], b.buf, row, col, p.buf)
        finally:
            PyBuffer_Release(&p)
    finally:
        PyBuffer_Release(&b)


def pack(int layout, int dtype, plain, packed):
    """Writes the matrix plain (K, N), of any strides, to packed: pack_bytes bytes."""
    _repack(layout, dtype, plain, packed, False)


def unpack(int layout, int dtype, packed, plain):
    """Writes packed back to the matrix plain (K, N), of any strides."""
    _repack(layout, dtype, plain, packed, True)


# ---- plans ----
cdef class Plan:
    """Tensors and steps, for one set of shapes.

    num_threads: workers of each step. inputs, outputs: the bytes of each buffer that Context.run will be given.
    """

    cdef wnn_plan *plan
    cdef readonly tuple input_bytes, output_bytes
    cdef readonly int64_t arena_bytes  # with the steps' scratch
    cdef int64_t arena_need, scratch_at
    cdef readonly list labels
    cdef list constants
    cdef dict python_steps
    cdef bint sealed
    cdef int n_tensors, lasting

    def __cinit__(self, int num_threads, inputs=(), outputs=()):
        if not 1 <= num_threads <= WNN_MAX_THREADS:
            _refuse(WnnError, "[plan] found num_threads %s; expected 1 to %s; choose another",
                    (num_threads, WNN_MAX_THREADS))
        self.input_bytes, self.output_bytes = tuple(inputs), tuple(outputs)
        self.labels, self.constants, self.python_steps = [], [], {}
        self.plan = wnn_plan_new(num_threads)
        if self.plan is NULL:
            raise MemoryError

    def __dealloc__(self):
        wnn_plan_free(self.plan)

    def tensor(self, int slot, int64_t offset, int dtype, shape, strides=None, *, int layout=0, int index=0,
               constant=None):
        """Adds a tensor; returns its number.

        slot, offset: ARENA; INPUT or OUTPUT number index; or CONSTANT, a buffer object that the plan keeps; the first
        element lies offset bytes into it. strides: default contiguous. layout: PLAIN, or a packed layout of constants.
        ShapeError where an element would lie outside the buffer.
        """
        cdef wnn_tensor t
        cdef wnn_place place
        cdef int64_t begin = 0, end = 0, size
        cdef int i, ndim = len(shape)
        if self.sealed:
            raise WnnError("[plan] found a sealed plan; expected an open one; add tensors before seal()")
        if ndim > WNN_MAX_DIMS or (strides is not None and len(strides) != ndim):
            _refuse(ShapeError, "[plan] found shape %s, strides %s; expected at most %s axes"
                    " and as many strides; reshape the tensor", (shape, strides, WNN_MAX_DIMS))
        if not wnn_itemsize(dtype):
            _refuse(UnsupportedError, "[plan] found dtype %s; expected one of %s; cast it",
                    (dtype, list(_NUMPY_DTYPES)))
        memset(&t, 0, sizeof(t))
        t.dtype, t.ndim, t.layout = dtype, ndim, layout
        for i in range(ndim):
            t.shape[i] = shape[i]
            if t.shape[i] < 0:
                _refuse(ShapeError, "[plan] found shape %s; expected no negative size; check the model's shapes",
                        (shape,))
            if strides is not None:
                t.strides[i] = strides[i]
        place.slot, place.index, place.offset, place.base = slot, index, offset, NULL
        fits = wnn_tensor_layout(&t, strides is not None) and wnn_tensor_range(&t, &begin, &end)
        if slot == WNN_SLOT_CONSTANT:
            t.flags |= WNN_CONSTANT
        size = self._room(slot, constant, &place)
        if layout != WNN_PLAIN:
            if slot != WNN_SLOT_CONSTANT:
                _refuse(UnsupportedError, "[plan] found layout %s outside a constant; expected PLAIN; unpack it",
                        (layout,))
            begin = end = 0
            if layout == WNN_PANEL16 and ndim >= 2:
                end = pack_bytes(layout, dtype, shape[ndim - 2], shape[ndim - 1])
                for i in range(ndim - 2):
                    end *= t.shape[i]
        if not fits or offset < 0 or offset > size or begin < -offset or end > size - offset:
            _refuse(ShapeError, "[plan] found shape %s, strides %s, dtype %s at byte %s; expected"
                    " all of it within %s bytes; check the model's shapes",
                    (shape, strides, dtype, offset, size))
        if slot == WNN_SLOT_ARENA:
            self.arena_need = max(self.arena_need, offset + end)
        i = wnn_plan_tensor(self.plan, &t, &place)
        if i < 0:
            raise MemoryError
        self.n_tensors = i + 1
        return i

    cdef int64_t _room(self, int slot, constant, wnn_place *place) except? -1:
        """The bytes that a tensor's place may lie in; keeps a constant and puts it there."""
        cdef Py_buffer view
        if slot == WNN_SLOT_CONSTANT:
            PyObject_GetBuffer(constant, &view, PyBUF_SIMPLE)
            place.base = view.buf
            PyBuffer_Release(&view)
            self.constants.append(memoryview(constant).toreadonly())  # an export: the memory stays where it is
            place.index = len(self.constants) - 1
            return view.len
        if slot == WNN_SLOT_ARENA:
            return <int64_t>1 << 62
        if slot not in (WNN_SLOT_INPUT, WNN_SLOT_OUTPUT):
            _refuse(WnnError, "[plan] found slot %s; expected ARENA, CONSTANT, INPUT or OUTPUT; name one of them",
                    (slot,))
        sizes = self.input_bytes if slot == WNN_SLOT_INPUT else self.output_bytes
        if not 0 <= place.index < len(sizes):
            _refuse(ShapeError, "[plan] found buffer number %s; expected less than %s; declare it",
                    (place.index, len(sizes)))
        return sizes[place.index]

    cdef int _add_step(self, const wnn_kernel_entry *kernel, bytes attrs, ins, outs, label) except -1:
        cdef int nin = len(ins), nout = len(outs), i, t
        cdef wnn_place place
        cdef int *ops = <int *>malloc((nin + nout + 1) * sizeof(int))
        if ops is NULL:
            raise MemoryError
        try:
            if self.sealed:
                raise WnnError("[plan] found a sealed plan; expected an open one; add steps before seal()")
            for i in range(nin + nout):
                t = ops[i] = ins[i] if i < nin else outs[i - nin]
                if t >= self.n_tensors or t < (-1 if i < nin else 0):
                    _refuse(WnnError, "[%s] found tensor %s; expected less than %s; add it first",
                            (label, t, self.n_tensors))
                if i >= nin:
                    wnn_plan_at(self.plan, t, &place)
                    if place.slot == WNN_SLOT_INPUT or place.slot == WNN_SLOT_CONSTANT:
                        _refuse(WnnError, "[%s] found an output in an input or constant; expected the arena or an"
                                " output buffer; plan a copy", (label,))
            i = wnn_plan_step(self.plan, kernel, <const char *>attrs, len(attrs), ops, nin, nout)
            if i < 0:
                raise MemoryError
        finally:
            free(ops)
        self.labels.append(label)
        return i

    def step(self, uintptr_t handle, bytes attrs not None, ins, outs, str label=""):
        """Adds a native step. handle: of kernel(). ins, outs: tensor numbers, -1 for an absent input."""
        self._add_step(<const wnn_kernel_entry *>handle, attrs, ins, outs, label)

    def python_step(self, fn, ins, outs, str label=""):
        """Adds a step that calls fn(inputs, outputs): lists of numpy arrays upon the memory, None where absent."""
        self.python_steps[self._add_step(NULL, b"", ins, outs, label)] = (fn, tuple(ins), tuple(outs))

    def last(self):
        """What the steps up to here write stays: each context runs them once, before it runs the others."""
        self.lasting = len(self.labels)

    def seal(self, int64_t arena_bytes):
        """Ends the description. arena_bytes: what the ARENA tensors may use."""
        if arena_bytes < self.arena_need:
            _refuse(ShapeError, "[plan] found an arena of %s bytes; expected %s; enlarge it",
                    (arena_bytes, self.arena_need))
        self.scratch_at = (arena_bytes + 63) & ~63
        self.arena_bytes = self.scratch_at + wnn_plan_scratch_bytes(self.plan)
        self.sealed = True

    @property
    def steps(self):
        """How many steps there are."""
        return len(self.labels)

    def context(self):
        """A new Context, with an arena of its own."""
        if not self.sealed:
            raise WnnError("[plan] found an open plan; expected a sealed one; call seal() first")
        return Context(self)


cdef class Context:
    """One call's surroundings: an arena, and the plan's tensors with their addresses."""

    cdef readonly Plan plan
    cdef wnn_context *context
    cdef object arena        # a uint8 array; the first 64-byte boundary in it is byte arena_at
    cdef int64_t arena_at
    cdef Py_buffer arena_view
    cdef Py_buffer *views
    cdef void **addresses
    cdef int held            # how many of views are
    cdef bint warm           # what lasts is there
    cdef object inputs, outputs
    cdef list calls          # per step: None, or (fn, inputs, outputs, [(list, position, tensor) of those that move])

    def __cinit__(self, Plan plan not None):
        import numpy

        cdef int n = len(plan.input_bytes) + len(plan.output_bytes)
        self.plan = plan
        self.arena = numpy.empty(plan.arena_bytes + 64, numpy.uint8)
        PyObject_GetBuffer(self.arena, &self.arena_view, PyBUF_WRITABLE)
        cdef uintptr_t base = <uintptr_t>self.arena_view.buf, aligned = (base + 63) & ~<uintptr_t>63
        self.arena_at = aligned - base
        self.context = wnn_context_new(plan.plan, <char *>aligned, <char *>aligned + plan.scratch_at)
        self.views = <Py_buffer *>calloc(n + 1, sizeof(Py_buffer))
        self.addresses = <void **>calloc(n + 1, sizeof(void *))
        if self.context is NULL or self.views is NULL or self.addresses is NULL:
            raise MemoryError
        self.calls = [None] * len(plan.labels)
        for step, (fn, ins, outs) in plan.python_steps.items():
            moving = []
            self.calls[step] = (fn, self._arrays(ins, moving), self._arrays(outs, moving), moving)

    def __dealloc__(self):
        wnn_context_free(self.context)
        free(self.views)
        free(self.addresses)
        if self.arena_view.buf is not NULL:
            PyBuffer_Release(&self.arena_view)

    cdef list _arrays(self, tuple tensors, list moving):
        cdef wnn_place place
        arrays = []
        for t in tensors:
            array = None
            if t >= 0:
                wnn_plan_at(self.plan.plan, t, &place)
                if place.slot == WNN_SLOT_INPUT or place.slot == WNN_SLOT_OUTPUT:
                    moving.append((arrays, len(arrays), t))
                else:
                    array = self._array(t)
            arrays.append(array)
        return arrays

    cdef _array(self, int tensor):
        """The tensor as a numpy array upon its memory; packed constants are unpacked."""
        import numpy

        cdef wnn_place place
        cdef const wnn_tensor *t = wnn_plan_at(self.plan.plan, tensor, &place)
        cdef int64_t offset = place.offset
        cdef int i, itemsize = wnn_itemsize(t.dtype)
        shape = tuple([t.shape[i] for i in range(t.ndim)])
        dtype = _NUMPY_DTYPES[t.dtype]
        if place.slot == WNN_SLOT_ARENA:
            memory, offset = self.arena, offset + self.arena_at
        elif place.slot == WNN_SLOT_CONSTANT:
            memory = self.plan.constants[place.index]
        elif place.slot == WNN_SLOT_INPUT:
            memory = memoryview(self.inputs[place.index]).toreadonly()
        else:
            memory = self.outputs[place.index]
        if t.layout != WNN_PLAIN:
            array = numpy.empty(shape, dtype)
            unpack(t.layout, t.dtype, memory.cast("B")[offset:], array)
            return array
        strides = tuple([t.strides[i] * itemsize for i in range(t.ndim)])
        return numpy.ndarray(shape, dtype, memory, offset, strides)

    cdef int _hold(self, str what, buffers, tuple sizes, int flags) except -1:
        cdef int i
        cdef Py_buffer *view
        if len(buffers) != len(sizes):
            _refuse(ShapeError, "[infer] found %s %ss; expected %s; pass one array for each",
                    (len(buffers), what, len(sizes)))
        for i in range(len(sizes)):
            view = &self.views[self.held]
            try:
                PyObject_GetBuffer(buffers[i], view, flags)
            except Exception as e:
                raise WnnError(f"[infer] found {what} {i} without a usable buffer ({e}); expected contiguous"
                               f"{' writable' if flags & PyBUF_WRITABLE else ''} memory; pass a C-contiguous array"
                               ) from None
            self.addresses[self.held] = view.buf
            self.held += 1
            if view.len != sizes[i]:
                _refuse(ShapeError, "[infer] found %s %s with %s bytes; expected %s; pass an array of"
                        " the shape and dtype that the plan was made for",
                        (what, i, view.len, sizes[i]))
        return 0

    cdef _call(self, tuple call):
        fn, ins, outs, moving = call
        for arrays, position, tensor in moving:
            arrays[position] = self._array(tensor)
        try:
            fn(ins, outs)
        finally:
            for arrays, position, _ in moving:
                arrays[position] = None

    cdef _fail(self, int step):
        message = wnn_context_message(self.context).decode(errors="replace")
        if not message:
            message = f"the kernel returned status {wnn_context_failed(self.context)}"
        cdef bint of_index = wnn_context_failed(self.context) == WNN_BAD_INDEX
        _refuse(IndexOutOfRangeError if of_index else WnnError, "[%s] %s", (self.plan.labels[step], message))

    cdef _run(self, inputs, outputs, int64_t *ns):
        cdef int i = self.plan.lasting if self.warm else 0
        cdef int end = len(self.plan.labels), n_inputs = len(self.plan.input_bytes)
        if not wnn_context_enter(self.context):
            raise WnnError("[infer] found this context in use; expected one call at a time; take another context")
        try:
            self._hold("input", inputs, self.plan.input_bytes, PyBUF_SIMPLE)
            self._hold("output", outputs, self.plan.output_bytes, PyBUF_WRITABLE)
            self.inputs, self.outputs = inputs, outputs
            wnn_context_bind(self.context, self.addresses, self.addresses + n_inputs)
            while i < end:
                call = self.calls[i]
                if call is None:
                    with nogil:
                        i = wnn_context_run(self.context, i, end, ns)
                    if wnn_context_failed(self.context):
                        self._fail(i)
                else:
                    start = perf_counter_ns() if ns is not NULL else 0
                    self._call(call)
                    if ns is not NULL:
                        ns[i] = perf_counter_ns() - start
                    i += 1
            self.warm = True
        finally:
            self.inputs = self.outputs = None
            while self.held:
                self.held -= 1
                PyBuffer_Release(&self.views[self.held])
            wnn_context_leave(self.context)

    def run(self, inputs, outputs):
        """Runs all steps: reads the buffers inputs, writes the buffers outputs; frees the GIL in native steps.

        ShapeError or WnnError for a buffer that is not contiguous or not of the planned size; WnnError from a kernel.
        """
        self._run(inputs, outputs, NULL)

    def run_timed(self, inputs, outputs):
        """As run; returns the nanoseconds of each step, 0 of those that did not run again."""
        cdef int i, n = len(self.plan.labels)
        cdef int64_t *ns = <int64_t *>calloc(n + 1, sizeof(int64_t))
        if ns is NULL:
            raise MemoryError
        try:
            self._run(inputs, outputs, ns)
            return [ns[i] for i in range(n)]
        finally:
            free(ns)


_start()
