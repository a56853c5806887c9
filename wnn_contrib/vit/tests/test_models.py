"""Whole Vision Transformers: fused under a bare NNForward(), equal on the core, and as .wnnx."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import wnn
from wnn.onnx_model import OnnxModel
from wnn_contrib.vit.packed_attention import op

pytest.importorskip("onnx")
F = np.float32
H, D, P = 2, 16, 4
C = H * D


def block(m, x, b, t):
    """norm, packed attention, norm, MLP, as TorchScript writes them with free lengths b and t."""
    y = m.LayerNormalization(x, m.random(C), m.random(C), axis=-1, epsilon=1e-6)
    qkv = m.Reshape(m.linear(y, C, 3 * C), m.Concat(b, t, [3], [H], [D], axis=0))
    q, k, v = m.Split(m.Transpose(qkv, perm=[2, 0, 3, 1, 4]), [1, 1, 1], axis=0, outputs=3)
    q, k, v = (m.Squeeze(p, [0]) for p in (q, k, v))
    last = m.Cast(m.Slice(m.Shape(q), [-1], [2**62]), to=1)
    r = m.Sqrt(m.Div(np.array([1.0]), m.Sqrt(last)))
    s = m.MatMul(m.Mul(q, r), m.Mul(m.Transpose(k, perm=[0, 1, 3, 2]), r))
    y = m.Transpose(m.MatMul(m.Softmax(s, axis=-1), v), perm=[0, 2, 1, 3])
    x = m.Add(x, m.linear(m.Reshape(y, m.Concat(b, t, [C], axis=0)), C, C))
    y = m.LayerNormalization(x, m.random(C), m.random(C), axis=-1, epsilon=1e-6)
    y = m.linear(y, C, 2 * C)
    y = m.Mul(m.Mul(y, m.Add(m.Erf(m.Div(y, F(2**0.5))), F(1))), F(0.5))
    return m.Add(x, m.linear(y, 2 * C, C))


def vit(shape, depth=3, side=4):
    """Patch embedding, class token, position embedding (resized where height and width are free),
    blocks, norm, head.
    """
    m = OnnxModel()
    x = m.Conv(
        "x", m.random(C, 3, P, P, scale=0.1), m.random(C), kernel_shape=[P, P], strides=[P, P]
    )
    size = m.Shape(x)
    b = m.Slice(size, [0], [1])
    position = m.random(1, side * side, C, scale=0.1)
    if isinstance(shape[2], str):
        grid = m.Transpose(m.Reshape(position, [1, side, side, C]), perm=[0, 3, 1, 2])
        grid = m.Resize(
            grid, "", "", m.Concat([1], [C], m.Slice(size, [2], [4]), axis=0), mode="cubic"
        )
        position = m.Transpose(m.Reshape(grid, m.Concat([1], [C], [-1], axis=0)), perm=[0, 2, 1])
    x = m.Transpose(m.Reshape(x, m.Concat(b, [C], [-1], axis=0)), perm=[0, 2, 1])
    token = m.Expand(m.random(1, 1, C), m.Concat(b, [1], [1], axis=0))
    x = m.Concat(token, m.Add(x, position), axis=1)
    t = m.Slice(m.Shape(x), [1], [2])
    for _ in range(depth):
        x = block(m, x, b, t)
    x = m.LayerNormalization(x, m.random(C), m.random(C), axis=-1)
    return m.finish(m.linear(m.Gather(x, np.int64(0), axis=1), C, 10), x=(F, shape))


def picture(b, h, w):
    return np.random.default_rng(b + h).standard_normal((b, 3, h, w)).astype(F)


@pytest.mark.parametrize("shape, sizes", [
    (["batch", 3, 16, 16], [(1, 16, 16), (5, 16, 16)]),
    ([1, 3, "height", "width"], [(1, 16, 16), (1, 24, 12), (1, 4, 40)]),
    (["batch", 3, "height", "width"], [(1, 16, 16), (3, 8, 20)]),
])  # fmt: skip
def test_every_block_fuses_under_a_bare_nnforward_and_equals_the_core(shape, sizes):
    model = vit(shape)
    with_package = wnn.NNForward().load_from_proto(model)
    core = wnn.NNForward(plugins=None).load_from_proto(model)
    names = [n.op.name for n in with_package.graph.nodes]
    assert names.count(op.name) == 3
    assert "softmax" not in names
    assert op.name not in [n.op.name for n in core.graph.nodes]
    for size in sizes:
        x = picture(*size)
        np.testing.assert_allclose(
            with_package.infer([x])[0], core.infer([x])[0], rtol=1e-4, atol=1e-4
        )


def run(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_wnnx_imports_the_package_that_it_names_and_no_other(tmp_path):
    import onnx

    source, target = tmp_path / "vit.onnx", tmp_path / "vit.wnnx"
    onnx.save(vit(["batch", 3, 16, 16]), source)
    wnn.convert(source, target)
    code = f"""
import sys, json, numpy as np, wnn
m = wnn.NNForward().load_from_file({str(target)!r})
y = m.infer([np.ones((2, 3, 16, 16), np.float32)])[0]
modules = sorted(k for k in sys.modules if k.startswith("wnn_contrib.") and k.count(".") == 1)
print(json.dumps([modules, list(m.fallback_ops()), y.tolist()]))
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    modules, fallbacks, y = json.loads(done.stdout)
    assert modules == ["wnn_contrib.vit"]
    assert fallbacks == []
    want = wnn.NNForward(plugins=None).load_from_file(source).infer([np.ones((2, 3, 16, 16), F)])[0]
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)
    blocked = run(code, WNN_DISABLE_PLUGINS="vit")
    assert blocked.returncode
    assert "contrib.vit" in blocked.stderr
    wnn.convert(source, target, plugins=None)
    assert run(code, WNN_NO_PLUGINS="1").returncode == 0
