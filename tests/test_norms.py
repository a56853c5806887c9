"""Norms and pooling as exporters spell them become one operator, with the result they had."""

import numpy as np
import pytest

import wnn

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402


class Build:
    """Nodes of a model over one input x."""

    def __init__(self, shape, symbolic=None):
        self.rng = np.random.default_rng(0)
        self.x = self.rng.standard_normal(shape).astype(np.float32) + 1
        self.declared = symbolic or shape
        self.nodes, self.weights = [], []

    def const(self, array):
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def vector(self, *shape):
        return self.const(self.rng.standard_normal(shape).astype(np.float32))

    def f32(self, value):
        return self.const(np.float32(value))

    def __call__(self, op, *inputs, **attrs):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attrs))
        return name

    def check(self, result, expected, opset=17, want=None):
        """Runs the model; its operators must be those expected, reshapes and transposes aside."""
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "g",
            [info("x", TensorProto.FLOAT, self.declared)],
            [info(result, TensorProto.FLOAT, None)],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        forward = wnn.NNForward(num_threads=1, plugins=None).load_from_proto(model)
        found = [
            n.op.name for n in forward.graph.nodes if n.op.name not in ("reshape", "transpose")
        ]
        assert found == expected, str(forward.graph)
        if want is None:
            (want,) = ReferenceEvaluator(model).run(None, {"x": self.x})
        np.testing.assert_allclose(forward.infer([self.x])[0], want, rtol=2e-5, atol=2e-5)


def variance(b, axes, x="x"):
    d = b("Sub", x, b("ReduceMean", x, axes=axes))
    return d, b("Add", b("ReduceMean", b("Pow", d, b.f32(2)), axes=axes), b.f32(1e-5))


def test_layer_norm_of_torch_is_found():
    b = Build((2, 5, 16), ("n", "t", 16))
    d, var = variance(b, [-1])
    y = b("Div", d, b("Sqrt", var))
    b.check(b("Add", b("Mul", y, b.vector(16)), b.vector(16)), ["layer_norm"])


def test_layer_norm_with_reciprocal_root_is_found():
    b = Build((2, 5, 16))
    d, var = variance(b, [2])
    y = b("Mul", d, b("Reciprocal", b("Sqrt", var)))
    b.check(b("Add", b.vector(16), b("Mul", b.vector(16), y)), ["layer_norm"])


def test_layer_norm_of_keras_is_found():
    b = Build((3, 7, 8))
    mean = b("ReduceMean", "x", axes=[2])
    d = b("Sub", "x", mean)
    var = b("ReduceMean", b("Mul", d, d), axes=[2])
    gain = b("Mul", b("Reciprocal", b("Sqrt", b("Add", var, b.f32(1e-3)))), b.vector(8))
    b.check(
        b("Add", b("Mul", "x", gain), b("Sub", b.vector(8), b("Mul", mean, gain))), ["layer_norm"]
    )


def test_layer_norm_over_channels_first_is_found():
    b = Build((2, 6, 4, 5))
    d, var = variance(b, [1])
    y = b("Div", d, b("Sqrt", var))
    b.check(b("Add", b("Mul", b.vector(6, 1, 1), y), b.vector(6, 1, 1)), ["layer_norm"])


def test_layer_norm_over_several_axes_is_found():
    b = Build((2, 3, 4, 5))
    d, var = variance(b, [1, 2, 3])
    y = b("Div", d, b("Sqrt", var))
    b.check(b("Add", b("Mul", y, b.vector(3, 4, 5)), b.vector(3, 4, 5)), ["layer_norm"])


def test_norm_with_another_axis_for_the_variance_stays_as_it_is():
    b = Build((2, 5, 5))
    d = b("Sub", "x", b("ReduceMean", "x", axes=[2]))
    var = b("ReduceMean", b("Mul", d, d), axes=[1])
    y = b("Div", d, b("Sqrt", b("Add", var, b.f32(1e-5))))
    b.check(y, ["reduce_mean", "sub", "rms_norm"])


@pytest.mark.parametrize("root", ["reciprocal", "divide", "power"])
def test_rms_norm_is_found(root):
    b = Build((2, 5, 16), ("n", "t", 16))
    mean = b("Add", b("ReduceMean", b("Pow", "x", b.f32(2)), axes=[-1]), b.f32(1e-6))
    if root == "reciprocal":
        y = b("Mul", "x", b("Div", b.f32(1), b("Sqrt", mean)))
    elif root == "divide":
        y = b("Div", "x", b("Sqrt", mean))
    else:
        y = b("Mul", "x", b("Pow", mean, b.f32(-0.5)))
    b.check(b("Mul", b.vector(16), y), ["rms_norm"])


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_group_norm_of_torch_is_found(groups):
    b = Build((2, 8, 5, 6), ("n", 8, "h", "w"))
    ones, zeros = np.ones(groups, np.float32), np.zeros(groups, np.float32)
    rows = b("Reshape", "x", b.const(np.array([0, groups, -1])))
    y = b("InstanceNormalization", rows, b.const(ones), b.const(zeros))
    y = b("Reshape", y, b("Shape", "x"))
    b.check(b("Add", b("Mul", y, b.vector(8, 1, 1)), b.vector(8, 1, 1)), ["group_norm"])


def test_batch_norm_goes_into_the_convolution():
    b = Build((2, 3, 6, 6))
    y = b("Conv", "x", b.vector(8, 3, 3, 3), kernel_shape=[3, 3])
    var = b.const(np.linspace(0.5, 2, 8).astype(np.float32))
    b.check(b("BatchNormalization", y, b.vector(8), b.vector(8), b.vector(8), var), ["conv"])


def test_softmax_before_opset_13_takes_the_axes_from_its_axis_on_as_one():
    b = Build((2, 3, 4), ("n", 3, 4))
    e = np.exp(b.x)
    b.check(b("Softmax", "x"), ["softmax"], opset=11, want=e / e.sum((1, 2), keepdims=True))


@pytest.mark.parametrize(
    "attrs",
    [
        dict(kernel_shape=[5, 5], pads=[2, 2, 2, 2]),
        dict(kernel_shape=[9, 9], strides=[2, 3], pads=[4, 3, 2, 1], ceil_mode=1),
        dict(kernel_shape=[4, 5], strides=[2, 2], auto_pad="SAME_UPPER"),
        dict(kernel_shape=[5, 5], dilations=[2, 1]),
    ],
)
def test_large_max_pool_goes_axis_by_axis(attrs):
    b = Build((2, 8, 19, 23), ("n", 8, "h", "w"))
    b.check(b("MaxPool", "x", **attrs), ["max_pool", "max_pool"])


def test_lp_pool_is_a_convolution_with_ones():
    b = Build((2, 3, 9, 8), ("n", 3, "h", "w"))
    y = b("LpPool", "x", kernel_shape=[3, 2], strides=[2, 1], auto_pad="SAME_UPPER", p=3)
    x = np.pad(np.abs(b.x) ** 3, ((0, 0), (0, 0), (1, 1), (0, 1)))
    total = sum(x[:, :, i : i + 9 : 2, j : j + 8] for i in range(3) for j in range(2))
    b.check(y, ["abs", "pow", "conv_depthwise", "pow"], opset=18, want=total ** (1 / 3))


def test_columns_become_an_image():
    b = Build((2, 5 * 6, 12))
    image, block = b.const(np.array([7, 9])), b.const(np.array([3, 2]))
    y = b("Col2Im", "x", image, block, strides=[2, 2], pads=[1, 0, 0, 0], dilations=[1, 2])
    b.check(y, ["col2im"], opset=18)
