"""Operators of the domain com.microsoft, which onnxruntime's optimizer writes, from standard ones.

Each becomes what it was fused from; the core's own fusions then see it as they see any export.
Source: onnxruntime's ContribOperators.md.
"""

from __future__ import annotations

import numpy as np

from ..errors import UnsupportedError
from .domains import importers

DOMAIN = "com.microsoft"
importer = importers(DOMAIN)


def refuse(node, found: str) -> UnsupportedError:
    return UnsupportedError(
        f"[{node.op_type}] found {found}; expected its plain form; export the model without "
        f"onnxruntime's optimizer (node {node.name!r})"
    )


def scalar(node, x, like=None):
    """A float constant of the dtype of a value."""
    dtype = (
        np.float32
        if like is None or like.spec.dtype == "f32"
        else np.float64
        if like.spec.dtype == "f64"
        else np.float16
    )
    return node.const(np.array(x, dtype))


def ints(node, *values: int):
    return node.const(np.array(values, np.int64))


def added(node, *values):
    """The sum of the values that are there."""
    total = None
    for v in values:
        if v is not None:
            total = v if total is None else node.call("Add", total, v)
    return total


# -- activations
@importer("BiasGelu")
def bias_gelu(g, node):
    return node.call("Gelu", added(node, *node.inputs))


@importer("FastGelu")
def fast_gelu(g, node):
    return node.call("Gelu", added(node, *node.inputs), approximate="tanh")


@importer("QuickGelu")
def quick_gelu(g, node):
    x = node.inputs[0]
    scaled = node.call("Mul", x, scalar(node, node.attr("alpha", 1.702), x))
    return node.call("Mul", x, node.call("Sigmoid", scaled))


def activated(node, x):
    """x through the attribute `activation` of a fused operator."""
    name = node.attr("activation")
    given = node.attr("activation_params") or []
    if name is None:
        return x
    if name == "Clip":
        return node.call("Clip", x, *(scalar(node, v, x) for v in given))
    names = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}.get(name, ())
    return node.call(name, x, **dict(zip(names, given, strict=False)))


# -- products
@importer("FusedMatMul", "TransposeMatMul")
def fused_matmul(g, node):
    a, b = (
        swapped(node, i, bool(node.attr(f"trans{k}", 0)), bool(node.attr(f"transBatch{k}", 0)))
        for i, k in enumerate("AB")
    )
    y = node.call("MatMul", a, b)
    alpha = node.attr("alpha", 1.0)
    return y if alpha == 1 else node.call("Mul", y, scalar(node, alpha, y))


def swapped(node, i: int, last: bool, batch: bool):
    """Input i with its last two axes swapped, or its leading axes rotated behind the first of its
    matrix axes.
    """
    perm = list(range(node.rank(i)))
    if len(perm) < 2:
        return node.inputs[i]
    if batch:
        perm = [*perm[1:-1], perm[0], perm[-1]]
    if last:
        perm[-2:] = perm[:-3:-1]
    return (
        node.inputs[i]
        if perm == sorted(perm)
        else node.call("Transpose", node.inputs[i], perm=perm)
    )


@importer("FusedGemm")
def fused_gemm(g, node):
    given = {
        k: node.attr(k) for k in ("alpha", "beta", "transA", "transB") if node.attr(k) is not None
    }
    return activated(node, node.call("Gemm", *node.inputs, **given))


@importer("FusedConv")
def fused_conv(g, node):
    keys = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    given = {k: node.attr(k) for k in keys if node.attr(k) is not None}
    y = node.call("Conv", *node.inputs[:3], **given)
    return activated(node, added(node, y, node.input(3)))


# -- normalisations
@importer("SimplifiedLayerNormalization")
def rms_norm(g, node):
    return node.call(
        "RMSNormalization",
        *node.inputs[:2],
        axis=node.attr("axis", -1),
        epsilon=node.attr("epsilon", 1e-5),
    )


@importer("EmbedLayerNormalization")
def embed_layer_norm(g, node):
    ids, segments, words, positions, segment_table, gamma, beta, mask, at = (
        node.input(i) for i in range(9)
    )
    x = node.call("Gather", words, ids)
    if at is None:
        length = node.call("Slice", node.call("Shape", ids), ints(node, 1), ints(node, 2))
        at = node.call(
            "Range", scalar_int(node, 0), node.call("Squeeze", length), scalar_int(node, 1)
        )
    x = added(node, x, node.call("Gather", positions, at))
    if segments is not None and segment_table is not None:
        x = added(node, x, node.call("Gather", segment_table, segments))
    y = node.call(
        "LayerNormalization", x, gamma, beta, axis=-1, epsilon=node.attr("epsilon", 1e-12)
    )
    if mask is None:
        counts = node.call(
            "Mul",
            node.call("ReduceMin", ids, ints(node, 1), keepdims=0),
            node.const(np.array(0, dtype_of(ids))),
        )
    else:
        counts = node.call("ReduceSum", mask, ints(node, 1), keepdims=0)
    return y, node.call("Cast", counts, to=6), x


def scalar_int(node, v: int):
    return node.const(np.array(v, np.int64))


def dtype_of(x) -> type:
    return {"i32": np.int32, "i64": np.int64}[x.spec.dtype]


# -- attention
@importer("Attention")
def attention(g, node):
    x, weights, bias, mask, past, extra = (node.input(i) for i in range(6))
    if past is not None or node.wants(1) or node.attr("do_rotary", 0):
        raise refuse(node, "a cache of keys or rotary positions")
    qkv = added(node, node.call("MatMul", x, weights), bias)
    sizes = node.attr("qkv_hidden_sizes") or [weights.shape[1] // 3] * 3
    q, k, v = node.call("Split", qkv, ints(node, *sizes), outputs=3, axis=-1)
    return attend(node, q, k, v, mask, extra)


@importer("MultiHeadAttention")
def multi_head_attention(g, node):
    q, k, v, bias, mask, extra = (node.input(i) for i in range(6))
    if (
        any(node.input(i) is not None for i in range(6, 10))
        or node.wants(1)
        or k is None
        or v is None
    ):
        raise refuse(node, "packed inputs or a cache of keys")
    if any(node.rank(i) != 3 for i in range(3)):
        raise refuse(node, f"inputs {[x.spec for x in (q, k, v)]}")
    if bias is not None:
        sizes = [x.shape[2] for x in (q, k, v)]
        parts = node.call("Split", bias, ints(node, *sizes), outputs=3, axis=0)
        q, k, v = (node.call("Add", x, b) for x, b in zip((q, k, v), parts, strict=True))
    return attend(node, q, k, v, mask, extra)


def attend(node, q, k, v, mask, extra):
    """Attention over (B, T, H) tensors; mask (B, T) of 0 and 1; extra is added to the scores."""
    heads = node.attr("num_heads")
    if mask is not None:
        if mask.spec is None or mask.spec.rank != 2:
            raise refuse(node, f"the mask {mask.spec}")
        keep = node.call("Unsqueeze", node.call("Cast", mask, to=9), ints(node, 1, 2))
        low = node.attr("mask_filter_value", -10000.0)
        bias = node.call("Where", keep, scalar(node, 0.0, q), scalar(node, low, q))
        extra = added(node, bias, extra)
    given = {"scale": node.attr("scale")} if node.attr("scale") else {}
    return node.call(
        "Attention",
        q,
        k,
        v,
        extra,
        q_num_heads=heads,
        kv_num_heads=heads,
        is_causal=node.attr("unidirectional", 0),
        **given,
    )


# -- quantised
@importer("QuantizeLinear", "DequantizeLinear", takes="f16 bits")
def quantize(g, node):
    axis = {} if node.attr("axis") is None else {"axis": node.attr("axis")}
    return node.call(node.op_type, *node.inputs, **axis)


@importer("QLinearAdd", "QLinearMul")
def quantized_pair(g, node):
    a = node.call("DequantizeLinear", *node.inputs[:3])
    b = node.call("DequantizeLinear", *node.inputs[3:6])
    y = node.call(node.op_type.removeprefix("QLinear"), a, b)
    return node.call("QuantizeLinear", y, *node.inputs[6:8])


@importer("QLinearWhere")
def quantized_where(g, node):
    a = node.call("DequantizeLinear", *node.inputs[1:4])
    b = node.call("DequantizeLinear", *node.inputs[4:7])
    return node.call("QuantizeLinear", node.call("Where", node.inputs[0], a, b), *node.inputs[7:9])


@importer("QGemm")
def quantized_gemm(g, node):
    a_scale, b_scale, c = node.inputs[1], node.inputs[4], node.input(6)
    columns = {"axis": 0 if node.attr("transB", 0) else 1} if b_scale.spec.size > 1 else {}
    a = node.call("DequantizeLinear", *node.inputs[:3])
    b = node.call("DequantizeLinear", *node.inputs[3:6], **columns)
    if c is not None:  # in steps of the product
        scale = node.call(
            "Mul", node.call("Mul", a_scale, b_scale), scalar(node, node.attr("alpha", 1.0))
        )
        scale = node.call("Reshape", scale, ints(node, *b_scale.shape))
        c = node.call("DequantizeLinear", c, scale, **({"axis": -1} if columns else {}))
    given = {k: node.attr(k) for k in ("alpha", "transA", "transB") if node.attr(k) is not None}
    y = node.call("Gemm", a, b, c, **given)
    return y if len(node.inputs) < 8 else node.call("QuantizeLinear", y, *node.inputs[7:9])


UNARY = "alpha axis auto_pad ceil_mode count_include_pad kernel_shape pads strides".split()


@importer("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearAveragePool")
def quantized_unary(g, node):
    if node.attr("channels_last", 0):
        raise refuse(node, "channels last")
    x = node.call("DequantizeLinear", *node.inputs[:3])
    given = {k: node.attr(k) for k in UNARY if node.attr(k) is not None}
    return node.call(
        "QuantizeLinear",
        node.call(node.op_type.removeprefix("QLinear"), x, **given),
        *node.inputs[3:5],
    )


@importer("QLinearGlobalAveragePool")
def quantized_pool(g, node):
    x = node.call("DequantizeLinear", *node.inputs[:3])
    rank = node.rank(0)
    axes = range(1, rank - 1) if node.attr("channels_last", 0) else range(2, rank)
    return node.call(
        "QuantizeLinear", node.call("ReduceMean", x, ints(node, *axes)), *node.inputs[3:5]
    )


@importer("QLinearConcat")
def quantized_concat(g, node):
    parts = [
        node.call("DequantizeLinear", *node.inputs[i : i + 3])
        for i in range(2, len(node.inputs), 3)
    ]
    return node.call(
        "QuantizeLinear", node.call("Concat", *parts, axis=node.attr("axis")), *node.inputs[:2]
    )


@importer("DynamicQuantizeMatMul")
def dynamic_quantized_matmul(g, node):
    a, b, scale, zero, bias = (node.input(i) for i in range(5))
    a, a_scale, a_zero = node.call("DynamicQuantizeLinear", a, outputs=3)
    return integer_product(node, a, b, a_scale, scale, a_zero, zero, bias)


@importer("MatMulIntegerToFloat")
def integer_matmul_to_float(g, node):
    return integer_product(node, *(node.input(i) for i in range(7)))


def integer_product(node, a, b, a_scale, b_scale, a_zero, b_zero, bias):
    y = node.call("Cast", node.call("MatMulInteger", a, b, a_zero, b_zero), to=1)
    return added(node, node.call("Mul", y, node.call("Mul", a_scale, b_scale)), bias)
