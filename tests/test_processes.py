"""A model pickled, among threads, in another process and after a fork."""

import functools
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from nets import conv_net, draw

import wnn
from wnn import plan


@pytest.fixture
def net():
    return wnn.NNForward(num_threads=2).load_from_proto(conv_net())


def test_pickle_and_context_manager(net):
    x = draw(1, 3, 8, 8)
    want = net.infer([x])
    with pickle.loads(pickle.dumps(net)) as again:
        for a, b in zip(again.infer([x]), want, strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(wnn.WnnError):
        again.infer([x])


class Mine(wnn.NNForward):
    def __init__(self, name):
        super().__init__(num_threads=1)
        self.name = name
        self.load_from_proto(conv_net())


def test_pickle_keeps_the_choice_of_packages_subclasses_and_graphs(net):
    chosen = functools.partial(wnn.summon_plugins, block=["vit"])
    again = pickle.loads(pickle.dumps(wnn.NNForward(plugins=chosen).load_from_proto(conv_net())))
    assert again.plugins.keywords == {"block": ["vit"]}
    chosen = wnn.NNForward(plugins=wnn.summon_plugins(block=["vit"]))
    assert "contrib.vit" not in pickle.loads(pickle.dumps(chosen)).plugins
    again = pickle.loads(pickle.dumps(Mine("conv")))
    assert again.infer([draw(1, 3, 8, 8)]) and again.name == "conv"
    x = draw(1, 3, 8, 8)
    taken = wnn.NNForward().load_from_graph(net.graph)
    for a, b in zip(pickle.loads(pickle.dumps(taken)).infer([x]), net.infer([x]), strict=True):
        np.testing.assert_array_equal(a, b)


SIZES = [(1, 3, 16, 12), (3, 3, 9, 8), (2, 3, 33, 20), (1, 3, 7, 7)]


def test_eight_threads_with_mixed_sizes_give_the_same_bits(net):
    xs = [draw(*SIZES[i % len(SIZES)]) for i in range(16)]
    want = [net.infer([x]) for x in xs]
    fresh = wnn.NNForward(num_threads=2).load_from_proto(conv_net())
    wrong = []

    def work(k):
        for _ in range(5):
            for i in range(k, len(xs) + k):
                x, w = xs[i % len(xs)], want[i % len(xs)]
                if any(not np.array_equal(a, b) for a, b in zip(fresh.infer([x]), w, strict=True)):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
        assert not t.is_alive()
    assert not wrong


def test_threads_that_bring_new_shapes_together_plan_them_once(monkeypatch):
    net = wnn.NNForward(num_threads=1).load_from_proto(conv_net())
    make, made = plan.Program._make_stage, []

    def slowly(*args):
        made.append(1)
        time.sleep(0.1)  # meanwhile the others find no plan
        return make(*args)

    monkeypatch.setattr(plan.Program, "_make_stage", slowly)
    together, x = threading.Barrier(6), draw(1, 3, 24, 40)

    def run(_):
        together.wait()
        return net.infer([x])[0].tobytes()

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(run, range(6)))) == 1
    assert len(made) == 1


def test_another_process_gives_the_same_bits(net, tmp_path):
    x = draw(2, 3, 33, 20)
    (tmp_path / "m.onnx").write_bytes(conv_net().SerializeToString())
    np.save(tmp_path / "x.npy", x)
    code = (
        "import numpy as np, wnn, sys; d = sys.argv[1]\n"
        "net = wnn.NNForward(num_threads=2).load_from_file(d + '/m.onnx')\n"
        "np.savez(d + '/y.npz', *net.infer([np.load(d + '/x.npy')]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)
    got = np.load(tmp_path / "y.npz")
    for i, b in enumerate(net.infer([x])):
        np.testing.assert_array_equal(got[f"arr_{i}"], b)


def test_fork_while_another_thread_is_inside_infer(net):
    big = draw(4, 3, 64, 64)
    want = net.infer([big])
    stop = threading.Event()

    def loop():
        while not stop.is_set():
            net.infer([big])

    inside = threading.Thread(target=loop)
    inside.start()
    try:
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    other = net.infer([draw(1, 3, 11, 13)])  # a new plan, too
                    same = all(
                        np.array_equal(a, b) for a, b in zip(net.infer([big]), want, strict=True)
                    )
                    code = 0 if same and other else 2
                finally:
                    os._exit(code)
            assert wait(pid) == 0
            assert all(np.array_equal(a, b) for a, b in zip(net.infer([big]), want, strict=True))
    finally:
        stop.set()
        inside.join(60)
    assert not inside.is_alive()


def wait(pid, seconds=60):
    import time

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    pytest.fail("the child hangs")
