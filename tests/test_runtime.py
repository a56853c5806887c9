"""The compiled core: plans, contexts, threads, errors, packing, and the copy that plans insert."""

import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from wnn.runtime._core import ARENA, CONSTANT, INPUT, OUTPUT, PANEL16, Plan

import wnn
from wnn.errors import MissingOperatorError, ShapeError, UnsupportedError, WnnError
from wnn.runtime import _core

F32, I64 = 1, 7
ONNX_DTYPES = {"f4": 1, "u1": 2, "i1": 3, "u2": 4, "i4": 6, "i8": 7, "?": 9, "f2": 10, "f8": 11}
RUNTIME = Path(wnn.__file__).parent / "runtime"


def copy_plan(shape, strides=None, *, dtype="f4", offset=0, base_bytes=None, threads=2):
    """Output 0 = the view (shape, strides, offset) of input 0."""
    size = np.dtype(dtype).itemsize
    nbytes = int(np.prod(shape)) * size
    plan = Plan(threads, [nbytes if base_bytes is None else base_bytes], [nbytes])
    x = plan.tensor(INPUT, offset, ONNX_DTYPES[dtype], shape, strides)
    y = plan.tensor(OUTPUT, 0, ONNX_DTYPES[dtype], shape)
    plan.step(_core.kernel("copy"), b"", (x,), (y,), "copy")
    plan.seal(0)
    return plan


def run_copy(base, view, threads=2):
    offset = view.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    strides = [s // view.itemsize for s in view.strides]
    dtype = view.dtype.str[1:] if view.dtype != bool else "?"
    plan = copy_plan(
        view.shape, strides, dtype=dtype, offset=offset, base_bytes=base.nbytes, threads=threads
    )
    out = np.empty(view.shape, view.dtype)
    plan.context().run([base], [out])
    return out


# ---- copy ----

PERMUTATIONS = [
    ((5,), (0,)), ((7, 9), (1, 0)), ((16, 16), (1, 0)), ((33, 31), (1, 0)), ((130, 257), (1, 0)),
    ((2, 3, 33, 17), (0, 2, 3, 1)), ((2, 33, 17, 3), (0, 3, 1, 2)),
    ((4, 5, 6, 7, 8), (4, 2, 0, 3, 1)), ((2, 12, 50, 32), (0, 2, 1, 3)),
    ((2, 12, 50, 32), (0, 1, 3, 2)), ((1, 64, 1, 70), (3, 2, 1, 0)), ((3, 40, 2, 5), (2, 0, 3, 1)),
    ((1000, 3), (1, 0)), ((3, 5000), (1, 0)), ((200000,), (0,)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["f4", "i8", "f2", "u1", "?"])
@pytest.mark.parametrize(("shape", "perm"), PERMUTATIONS)
def test_copy_equals_numpy_for_permutations(shape, perm, dtype):
    x = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    np.testing.assert_array_equal(run_copy(x, x.transpose(perm)), x.transpose(perm))


def test_copy_equals_numpy_for_slices_steps_and_repeats():
    x = np.random.default_rng(0).standard_normal((6, 41, 37)).astype("f4")
    views = [
        x[1:5, 3:40, 2:35], x[::-1], x[:, ::-2, ::3], x[..., ::-1], x[2:3, 7], x[:0],
        x[1, 1, 1, ...],
        np.broadcast_to(x[:, :1], (6, 8, 37)), np.broadcast_to(x[..., 3:4], x.shape),
        x.transpose(2, 1, 0)[::2, ::-1],
    ]  # fmt: skip
    for view in views:
        np.testing.assert_array_equal(run_copy(x, view), view)


@pytest.mark.parametrize("dtype", ["f4", "u1"])
def test_copy_writes_into_a_part_of_a_buffer(dtype):
    x = np.arange(60).reshape(3, 4, 5).astype(dtype)
    plan = Plan(1, [x.nbytes], [2 * x.nbytes])
    src = plan.tensor(INPUT, 0, ONNX_DTYPES[dtype], (3, 4, 5))
    dst = plan.tensor(OUTPUT, 5 * x.itemsize, ONNX_DTYPES[dtype], (3, 4, 5), (40, 10, 1))
    plan.step(_core.kernel("copy"), b"", (src,), (dst,))
    plan.seal(0)
    out, want = np.zeros((3, 4, 10), dtype), np.zeros((3, 4, 10), dtype)
    plan.context().run([x], [out])
    want[..., 5:] = x
    np.testing.assert_array_equal(out, want)


# ---- plans ----


def test_plan_runs_native_and_python_steps_in_order():
    w = np.arange(6, dtype="f4")
    plan = Plan(2, [24], [24, 12])
    x, y = plan.tensor(INPUT, 0, F32, (2, 3)), plan.tensor(OUTPUT, 0, F32, (2, 3))
    second = plan.tensor(OUTPUT, 0, F32, (3,), index=1)
    const = plan.tensor(CONSTANT, 12, F32, (3,), constant=w.tobytes())
    a, b = plan.tensor(ARENA, 0, F32, (3, 2)), plan.tensor(ARENA, 64, F32, (2, 3))
    seen, given = [], []

    def add(ins, outs):
        given.append(ins[0].copy())
        seen.append([None if i is None else i.flags.writeable for i in ins])
        np.add(ins[0].T, ins[2], out=outs[0])

    transposed = plan.tensor(INPUT, 0, F32, (3, 2), (1, 3))
    copy = _core.kernel("copy")
    plan.step(copy, b"", (transposed,), (a,), "transpose")
    plan.python_step(add, (a, -1, const), (b,), "add")
    plan.step(copy, b"", (b,), (y,), "out")
    plan.python_step(lambda i, o: np.copyto(o[0], i[0][1]), (x,), (second,), "row")
    plan.seal(64 + 24)
    assert plan.steps == 4 and plan.labels == ["transpose", "add", "out", "row"]
    context = plan.context()
    for k in range(3):
        inp = np.random.default_rng(k).standard_normal((2, 3)).astype("f4")
        out, row = np.empty((2, 3), "f4"), np.empty(3, "f4")
        context.run([inp], [out, row])
        np.testing.assert_array_equal(out, inp + w[3:])
        np.testing.assert_array_equal(row, inp[1])
        np.testing.assert_array_equal(given.pop(), inp.T)
    assert seen == [[True, None, False]] * 3
    times = context.run_timed([inp], [out, row])
    assert len(times) == 4 and all(t >= 0 for t in times)


def test_plan_refuses_tensors_outside_their_buffer():
    plan = Plan(1, [16], [16])
    x = plan.tensor(INPUT, 0, F32, (4,))
    bad = [
        (INPUT, 0, F32, (5,)), (INPUT, 4, F32, (4,)), (INPUT, -4, F32, (4,)),
        (INPUT, 0, F32, (4,), (-1,)), (INPUT, 0, F32, (2, 2), (3, 1)), (OUTPUT, 0, I64, (3,)),
        (INPUT, 0, F32, (2**31, 2**31, 2**31)),
        (INPUT, 0, F32, (2**40,), (2**40,)), (INPUT, 0, F32, (-1,)), (INPUT, 0, F32, (1,) * 9),
    ]  # fmt: skip
    for args in bad:
        with pytest.raises(ShapeError):
            plan.tensor(*args)
    with pytest.raises(ShapeError):
        plan.tensor(CONSTANT, 0, F32, (3,), constant=b"12345678")
    with pytest.raises(ShapeError):
        plan.tensor(CONSTANT, 0, F32, (3, 17), layout=PANEL16, constant=bytes(3 * 17 * 4))
    with pytest.raises(ShapeError):
        plan.tensor(INPUT, 0, F32, (4,), index=1)
    with pytest.raises(UnsupportedError):
        plan.tensor(INPUT, 0, 8, (1,))
    plan.tensor(INPUT, 12, F32, (4,), (-1,))
    a = plan.tensor(ARENA, 100, F32, (4,))
    copy = _core.kernel("copy")
    for ins, outs in [((x,), (x,)), ((99,), (a,)), ((x,), (-1,)), ((-2,), (a,))]:
        with pytest.raises(WnnError):
            plan.step(copy, b"", ins, outs)
    with pytest.raises(ShapeError):
        plan.seal(100)
    with pytest.raises(WnnError):
        plan.context()
    plan.seal(116)
    with pytest.raises(WnnError):
        plan.tensor(ARENA, 0, F32, (1,))


def test_run_refuses_buffers_that_do_not_fit():
    context = copy_plan((4, 4)).context()
    x = np.zeros((4, 4), "f4")
    readonly = x.copy()
    readonly.flags.writeable = False
    for ins, outs in [
        ([x[:3]], [x]), ([x], [np.zeros(17, "f4")]), ([np.zeros((4, 8), "f4")[:, ::2]], [x]),
        ([x], [readonly]),
        ([], [x]), ([x], [x, x]), ([None], [x]), ([x.T], [x]),
    ]:  # fmt: skip
        with pytest.raises(WnnError):
            context.run(ins, outs)
    context.run([readonly], [x])


def test_python_step_error_passes_through_and_leaves_the_context_usable():
    plan = Plan(1, [4], [4])
    x, y = plan.tensor(INPUT, 0, F32, ()), plan.tensor(OUTPUT, 0, F32, ())

    def invert(ins, outs):
        outs[0][...] = 1 // int(ins[0])

    plan.python_step(invert, (x,), (y,), "invert")
    plan.seal(0)
    context, out = plan.context(), np.zeros((), "f4")
    with pytest.raises(ZeroDivisionError):
        context.run([np.zeros((), "f4")], [out])
    context.run([np.ones((), "f4")], [out])
    assert out == 1


def test_unknown_kernel_names_the_remedy():
    with pytest.raises(MissingOperatorError, match=r"\[no_such\].*install"):
        _core.kernel("no_such")


def test_packing_round_trips_for_any_strides():
    rng, given = np.random.default_rng(0), []
    for k, n in [(1, 1), (3, 15), (7, 16), (8, 17), (64, 33)]:
        for b in (
            rng.standard_normal((k, n)).astype("f4"),
            rng.standard_normal((n, k)).astype("f4").T,
        ):
            packed = np.empty(_core.pack_bytes(PANEL16, F32, k, n) // 4, "f4")
            _core.pack(PANEL16, F32, b, packed)
            panels = np.zeros((-(-n // 16) * 16, k), "f4")
            panels[:n] = b.T
            want = panels.reshape(-1, 16, k).transpose(0, 2, 1)
            np.testing.assert_array_equal(packed.reshape(want.shape), want)
            back = np.empty_like(b)
            _core.unpack(PANEL16, F32, packed, back)
            np.testing.assert_array_equal(back, b)
            plan = Plan(1)
            t = plan.tensor(CONSTANT, 0, F32, (k, n), layout=PANEL16, constant=packed)
            plan.python_step(lambda ins, outs: given.extend(ins), (t,), ())
            plan.seal(0)
            plan.context().run([], [])
            np.testing.assert_array_equal(given.pop(), b)
    with pytest.raises(ShapeError):
        _core.pack(PANEL16, F32, np.zeros((3, 3), "f4"), np.zeros(10, "f4"))


# ---- kernels of a package, registered through the api ----


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    target = tmp_path_factory.mktemp("probes") / "probes.so"
    source = Path(__file__).with_name("probes.c")
    flags = ["-std=gnu99", "-O2", "-shared", "-fPIC", f"-I{RUNTIME}"]
    subprocess.run(["cc", *flags, str(source), "-o", str(target)], check=True)
    library = ctypes.CDLL(str(target))
    for f in (library.wnn_plugin_init, library.refused):
        f.argtypes = [ctypes.c_void_p]
    assert library.wnn_plugin_init(_core.api_address()) == 0
    return library


def probe_plan(name, shape=(1,), dtype=F32, threads=2):
    """Output 0, of that shape, from the kernel test:<name>; no input data."""
    size = {F32: 4, I64: 8, 2: 1}[dtype]
    plan = Plan(threads, [], [int(np.prod(shape)) * size])
    x, y = plan.tensor(ARENA, 0, F32, (1000,)), plan.tensor(OUTPUT, 0, dtype, shape)
    plan.step(_core.kernel(f"test:{name}"), b"", (x,), (y,), f"the {name} step")
    plan.seal(4000)
    return plan


def test_register_refuses_duplicates_core_names_and_nonsense(probes):
    assert probes.refused(_core.api_address())


@pytest.mark.parametrize(
    ("name", "text"), [("fail", "found 1; expected 2; do something"), ("fail_in_task", "task 70")]
)
def test_kernel_error_names_its_step(probes, name, text):
    context, out = probe_plan(name).context(), np.zeros(1, "f4")
    for _ in range(2):
        with pytest.raises(WnnError) as e:
            context.run([], [out])
        assert str(e.value) == f"[the {name} step] {text}"


def test_scratch_is_aligned_and_as_large_as_asked(probes):
    plan, out = probe_plan("scratch", (2,), I64, threads=3), np.zeros(2, "i8")
    assert plan.arena_bytes == 4032 + 3008
    plan.context().run([], [out])
    assert out.tolist() == [3008, 0]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_parallel_for_runs_each_task_once(probes, threads):
    for n in (1, 2, 3, 1000, 4095, 4096, 100_003):
        out = np.zeros(n, "u1")
        context = probe_plan("cover", (n,), 2, threads).context()
        for _ in range(20):
            context.run([], [out])
            assert (out == 1).all()


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_nested_parallel_for_runs_inline_under_the_outer_worker(probes, threads):
    out = np.zeros(256, "i8")
    probe_plan("nested", (256,), I64, threads).context().run([], [out])
    assert out[threads:].sum() == 0 and out.sum() == 1000


def test_many_threads_share_the_pool(probes):
    x = np.random.default_rng(0).standard_normal((64, 300, 17)).astype("f4")
    plan = copy_plan((17, 300, 64), (1, 17, 5100), threads=3)
    cover = probe_plan("cover", (5000,), 2, 4)
    wrong = []

    def work():
        a, b = plan.context(), cover.context()
        y, c = np.empty((17, 300, 64), "f4"), np.empty(5000, "u1")
        for _ in range(60):
            a.run([x], [y])
            b.run([], [c])
            if not (np.array_equal(y, x.T) and (c == 1).all()):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong


def test_context_in_use_refuses_a_second_call(probes):
    context, out = probe_plan("busy").context(), np.zeros(1, "f4")
    thread = threading.Thread(target=context.run, args=([], [out]))
    thread.start()
    time.sleep(0.01)
    with pytest.raises(WnnError, match="in use"):
        context.run([], [out])
    thread.join()
    context.run([], [out])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_while_another_thread_runs(probes):
    busy, out, stop = probe_plan("busy", threads=3).context(), np.zeros(1, "f4"), threading.Event()
    cover = probe_plan("cover", (5000,), 2, 3)

    def work():
        while not stop.is_set():
            busy.run([], [out])

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(5):
        time.sleep(0.01)
        pid = os.fork()
        if pid == 0:
            marks = np.zeros(5000, "u1")
            for _ in range(10):
                cover.context().run([], [marks])
            os._exit(0 if (marks == 1).all() else 1)
        deadline = time.time() + 20
        while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.time() < deadline:
            time.sleep(0.005)
        if done == (0, 0):
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        assert done == (pid, 0)
    stop.set()
    thread.join()


def test_idle_pool_burns_nothing(probes):
    probe_plan("busy").context().run([], [np.zeros(1, "f4")])
    time.sleep(0.01)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.02


# ---- the library ----


def test_library_needs_only_libc_and_libm():
    found = subprocess.run(
        ["readelf", "-d", _core.__file__], capture_output=True, text=True, check=True
    ).stdout
    needed = {line.split("[")[1].rstrip("]") for line in found.splitlines() if "NEEDED" in line}
    assert needed <= {"libc.so.6", "libm.so.6"}


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_isa_can_be_forced_as_far_as_the_cpu_goes(isa):
    able = ["baseline", "avx2", "avx512"]
    able = able[: able.index(_core.cpu()["isa"]) + 1]
    program = "from wnn.runtime import _core; print(_core.isa())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "WNN_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == isa if isa in able else "UnsupportedError" in done.stderr


def test_host_reports_itself():
    assert _core.isa() in ("baseline", "avx2", "avx512")
    assert 1 <= _core.default_threads() <= os.cpu_count()
    assert _core.fma_peak(0.01) > 1
    assert "copy" in _core.kernels()
