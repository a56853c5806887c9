"""Real exports (tests/exports): right on the core alone, and fused by the op packages that are
installed.
"""

from pathlib import Path

import numpy as np
import pytest

import wnn

HERE = Path(__file__).parent / "exports"
# model: (package and the operator it brings, how many of them, another input shape)
MODELS = {
    "vit_batch_ts": ("contrib.vit:packed_attention", 2, (3, 3, 16, 16)),
    "vit_batch_dynamo": ("contrib.vit:packed_attention", 2, (1, 3, 16, 16)),
    "vit_size_ts": ("contrib.vit:packed_attention", 2, (1, 3, 16, 32)),
    "vit_size_dynamo": ("contrib.vit:packed_attention", 2, (1, 3, 40, 16)),
    "swin_batch_ts": ("contrib.swin:window_attention", 2, (1, 3, 16, 16)),
    "swinv2_dynamo": ("contrib.swin:window_attention", 2, None),
    "bert_time_ts": ("contrib.conformer:relative_attention", 2, (1, 31, 20)),
    "vit_size_23": ("contrib.vit:packed_attention", 2, (1, 3, 40, 16)),
    "swin_23": ("contrib.swin:window_attention", 2, None),
    "conformer_time_23": ("contrib.conformer:relative_attention", 2, (1, 420)),
    "bert_23": ("contrib.conformer:relative_attention", 2, None),
    "parakeet_time_ts": ("contrib.conformer:relative_attention", 2, (1, 53, 16)),
    "conformer_time_ts": ("contrib.conformer:relative_attention", 2, (1, 420)),
}


def load(name, plugins="auto"):
    pytest.importorskip("onnx")
    return wnn.NNForward(num_threads=2, plugins=plugins).load_from_file(HERE / f"{name}.onnx")


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("name", MODELS)
def test_core_alone_agrees_with_onnxruntime(name):
    case = np.load(HERE / f"{name}.npz")
    net = load(name, plugins=None)
    close(net.infer([case["x"]])[0], case["y"])
    assert not net.fallback_ops()


@pytest.mark.parametrize("name", MODELS)
def test_bare_nnforward_fuses_what_installed_packages_know(name):
    operator, count, other = MODELS[name]
    package = operator.partition(":")[0]
    if package not in [p.name for p in wnn.summon_plugins().active]:
        pytest.skip(f"needs wnn-{package.replace('.', '-')}")
    case = np.load(HERE / f"{name}.npz")
    net = load(name)
    names = [n.op.name for n in net.graph.nodes]
    assert names.count(operator) == count, names
    close(net.infer([case["x"]])[0], case["y"])
    if other is not None:
        x = np.random.default_rng(0).standard_normal(other).astype(np.float32)
        close(net.infer([x])[0], load(name, plugins=None).infer([x])[0])
