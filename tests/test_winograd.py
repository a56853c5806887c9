"""Convolutions by Winograd's algorithms: which kernels take them, and their error."""

import numpy as np
import pytest

from wnn import passes
from wnn.graph import Graph
from wnn.op import Spec
from wnn.ops_std.conv.conv import winograd_groups
from wnn.plan import Program
from wnn.plugins import ensure_std
from wnn.runtime import _core

ensure_std()
WIDE = _core.isa() != "baseline"  # there the kernels are not worth their size


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def convolve(x, w, kernel, dilation=1):
    """(y, the kernel that made it) of a convolution without padding."""
    n = len(kernel)
    g = Graph("convolution")
    vx = g.input("x", Spec(x.shape, "f32"))
    attrs = dict(strides=(1,) * n, pads=(0,) * 2 * n, dilations=(dilation,) * n)
    g.outputs, g.output_names = [g.add("conv", [vx, g.const(w)], kernel=kernel, **attrs)], ["y"]
    passes.run(g, [])
    program = Program(g)
    (y,) = program.run([x])
    (step,) = program.stages([x])[0].native.steps
    return y, step.kernel


def exact(x, w, kernel, dilation):
    """In float64, by shifted products."""
    x, spatial, channels = x.astype(np.float64), x.shape[1:-1], x.shape[-1]
    out = [d - (k - 1) * dilation for d, k in zip(spatial, kernel, strict=True)]
    y = 0
    for tap, offsets in enumerate(np.ndindex(*kernel)):
        window = tuple(slice(o * dilation, o * dilation + n) for o, n in zip(offsets, out))
        y = y + x[(slice(None), *window)] @ w[0, tap * channels : (tap + 1) * channels]
    return y


@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize(
    "shape, kernel",
    [((2, 203, 96), (k,)) for k in (3, 4, 5, 7, 8, 10, 11)]
    + [((1, 90, 300), (9,)), ((1, 3, 61, 40), (1, 7)), ((1, 47, 5, 64), (4, 1))],
)
def test_error_along_one_axis_is_small(shape, kernel, dilation):
    x, w = numbers(0, *shape), numbers(1, 1, max(kernel) * shape[-1], 72)
    y, name = convolve(x, w, kernel, dilation)
    want = exact(x, w, kernel, dilation)
    assert name == ("conv_winograd_1d_f32" if WIDE else "conv_f32")
    assert np.abs(y - want).max() < 8e-6 * np.abs(want).max()


@pytest.mark.parametrize("channels", [32, 256])
def test_error_of_pictures_is_small(channels):
    x, w = numbers(0, 1, 30, 27, channels), numbers(1, 1, 9 * channels, 64)
    y, name = convolve(x, w, (3, 3))
    want = exact(x, w, (3, 3), 1)
    assert name == ("conv_winograd_f32" if WIDE else "conv_f32")
    assert np.abs(y - want).max() < 8e-6 * np.abs(want).max()


def test_long_kernels_are_split_into_what_takes_fewest_products():
    found = [winograd_groups(k) for k in (3, 4, 5, 6, 7, 8, 9, 10, 11, 12)]
    products = [6, 7, 12, 12, 13, 14, 18, 19, 20, 21]
    assert found == list(zip(products, [1, 1, 2, 2, 2, 2, 3, 3, 3, 3], strict=True))
