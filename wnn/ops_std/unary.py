"""y = f(x), element by element: one operator for each row of ROWS.

x, y: any shape, one dtype (isnan and isinf give bool). Attributes are the numbers that the formula names.
Sources: ONNX Relu-14, LeakyRelu-16, Clip-13, Sigmoid-13, HardSigmoid-22, Swish-24, HardSwish-22, Tanh-13, Gelu-20, Erf-13, Exp-13,
Log-13, Sqrt-13, Reciprocal-13, Abs-13, Neg-13, Sign-13, Floor-13, Ceil-13, Round-22, Sin-22, Cos-22, Elu-22, Selu-22, Celu-12,
Softplus-22, Mish-22, Softsign-22, ThresholdedRelu-22, Shrink-9, IsNaN-20, IsInf-20, Not-1, BitwiseNot-18 and the trigonometric
operators; Hendrycks and Gimpel 2016 (arXiv:1606.08415) for GELU. The polynomials name theirs in runtime/vecmath.h.
"""

import math
import struct

import numpy as np

from ..dtypes import FLOATS
from ..errors import DtypeError
from ..op import Op, Spec
from ..pattern import C, OneOf, P, V
from ..rules import batch_elementwise, transpose_elementwise

INTS = ("i64", "i32", "i16", "i8", "u8", "u16", "u32", "bool")
erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x):
    return np.where(x >= 0, 1, np.exp(-np.abs(x))) / (1 + np.exp(-np.abs(x)))


def expm1_below(x, a):
    return np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x)


def softplus(x):
    return np.logaddexp(x, 0)


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


# name, ONNX name, formula, {attribute: default}, interval of the cases, whether integers have it, tolerance of f32;
# the order is that of the table in unary_any.cc, the attributes' that of a and b there
NEVER = (math.inf, -math.inf)
ROWS = [
    ("relu", "Relu", lambda x: np.maximum(x, 0), {}, (-3, 3), True, None),
    ("leaky_relu", "LeakyRelu", lambda x, alpha: np.where(x < 0, alpha * x, x), {"alpha": 0.01}, (-3, 3), False, None),
    ("clip", "", lambda x, low, high: np.minimum(np.maximum(x, low), high).astype(x.dtype), {"low": -math.inf, "high": math.inf}, (-3, 3), True, None),
    ("sigmoid", "Sigmoid", sigmoid, {}, (-30, 30), False, None),
    ("hard_sigmoid", "HardSigmoid", lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1), {"alpha": 0.2, "beta": 0.5}, (-4, 4), False, None),
    ("silu", "", lambda x: x * sigmoid(x), {}, (-30, 30), False, None),
    ("hard_swish", "HardSwish", lambda x: x * np.clip(x / 6 + 0.5, 0, 1), {}, (-4, 4), False, None),
    ("tanh", "Tanh", np.tanh, {}, (-12, 12), False, None),
    ("gelu", "", lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))), {}, (-8, 8), False, (1e-5, 2e-6)),
    ("gelu_tanh", "", gelu_tanh, {}, (-8, 8), False, (1e-5, 2e-6)),
    ("erf", "Erf", erf, {}, (-5, 5), False, None),
    ("exp", "Exp", np.exp, {}, (-30, 30), False, None),
    ("log", "Log", np.log, {}, (0, 9), False, None),
    ("sqrt", "Sqrt", np.sqrt, {}, (0, 9), False, None),
    ("rsqrt", "", lambda x: 1 / np.sqrt(x), {}, (0.01, 9), False, None),
    ("reciprocal", "Reciprocal", lambda x: 1 / x, {}, (0.01, 9), False, None),
    ("abs", "Abs", np.abs, {}, (-3, 3), True, None),
    ("neg", "Neg", lambda x: -x, {}, (-3, 3), True, None),
    ("sign", "Sign", np.sign, {}, (-3, 3), True, None),
    ("square", "", lambda x: x * x, {}, (-3, 3), True, None),
    ("floor", "Floor", np.floor, {}, (-30, 30), False, None),
    ("ceil", "Ceil", np.ceil, {}, (-30, 30), False, None),
    ("round", "Round", np.rint, {}, (-30, 30), False, None),
    ("sin", "Sin", np.sin, {}, (-100, 100), False, None),
    ("cos", "Cos", np.cos, {}, (-100, 100), False, None),
    ("elu", "Elu", lambda x, alpha: expm1_below(x, alpha), {"alpha": 1.0}, (-9, 3), False, None),
    ("selu", "Selu", lambda x, alpha, gamma: gamma * expm1_below(x, alpha), {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}, (-9, 3), False, None),
    ("celu", "Celu", lambda x, alpha: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0) / alpha), x), {"alpha": 1.0}, (-9, 3), False, None),
    ("softplus", "Softplus", softplus, {}, (-30, 30), False, None),
    ("mish", "Mish", lambda x: x * np.tanh(softplus(x)), {}, (-12, 12), False, None),
    ("softsign", "Softsign", lambda x: x / (1 + np.abs(x)), {}, (-9, 9), False, None),
    ("thresholded_relu", "ThresholdedRelu", lambda x, alpha: np.where(x <= alpha, 0, x), {"alpha": 1.0}, (-3, 3), False, None),
    ("shrink", "Shrink", lambda x, lambd, bias: np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0 * x)), {"lambd": 0.5, "bias": 0.0}, (-3, 3), False, None),
    ("tan", "Tan", np.tan, {}, (-1.4, 1.4), False, None),
    ("asin", "Asin", np.arcsin, {}, (-1, 1), False, None),
    ("acos", "Acos", np.arccos, {}, (-1, 1), False, None),
    ("atan", "Atan", np.arctan, {}, (-9, 9), False, None),
    ("sinh", "Sinh", np.sinh, {}, (-9, 9), False, None),
    ("cosh", "Cosh", np.cosh, {}, (-9, 9), False, None),
    ("asinh", "Asinh", np.arcsinh, {}, (-9, 9), False, None),
    ("acosh", "Acosh", np.arccosh, {}, (1, 9), False, None),
    ("atanh", "Atanh", np.arctanh, {}, (-0.99, 0.99), False, None),
    ("isnan", "IsNaN", np.isnan, {}, (-3, 3), False, None),
    ("isinf", "", lambda x, negative, positive: negative * np.isneginf(x) + positive * np.isposinf(x) > 0, {"negative": 1, "positive": 1}, (-3, 3), False, None),
    ("not", "Not", np.logical_not, {}, NEVER, True, None),
    ("bitwise_not", "BitwiseNot", np.invert, {}, NEVER, True, None),
]  # fmt: skip
HOT = {row[0] for row in ROWS[: [row[0] for row in ROWS].index("shrink")]}  # in unary.cc
POSTS = {"relu", "sigmoid", "silu", "hard_swish", "tanh", "gelu", "gelu_tanh", "leaky_relu", "hard_sigmoid", "clip"}
PREDICATES = {"isnan", "isinf", "not"}


def _two(attrs) -> list[float]:
    return [*map(float, attrs.values()), 0.0, 0.0][:2]


def _make(number, name, onnx_name, formula, attrs, interval, integers, tol):
    op = Op(name, attrs=attrs, tol={"f32": tol} if tol else None)
    accepted = (*(FLOATS if interval != NEVER else ()), *(INTS if integers else ()))
    if name == "not":
        accepted = ("bool",)

    @op.rule
    def rule(x, **_):
        if x.dtype not in accepted and x.dtype not in ("u64", "obj"):
            raise DtypeError(f"[{name}] found {x}; expected one of {accepted}; insert a Cast before export")
        return Spec(x.shape, "bool" if name in PREDICATES else x.dtype)

    op.reference(formula)
    op.transpose(transpose_elementwise)
    op.batch(batch_elementwise)

    if name in HOT:

        @op.kernel("f32", f"{name}_f32", strides={"x": "any"}, inplace="x")
        def pack(attrs):
            return struct.pack("ff", *_two(attrs))

    for dtype in accepted:

        @op.kernel(dtype, "unary_any", strides={"x": "any"})
        def pack_any(x, attrs):
            a, b = _two(attrs)
            if x.dtype in INTS:  # bounds that an int64 can hold
                a, b = (min(max(v, -(2.0**63)), 2.0**63 - 1024) for v in (a, b))
            return struct.pack("iidd", number, 0, a, b)

    if onnx_name:

        @op.importer(onnx_name)
        def from_onnx(g, node):
            return g.add(op, node.inputs[:1], **{k: float(node.attr(k, v)) for k, v in attrs.items()})

    if name in POSTS:
        op.as_post = lambda attrs: (name, *_two(attrs))

    @op.cases
    def cases(rng):
        some = {k: v for k, v in {"low": -1.0, "high": 2.0, "alpha": 0.75, "bias": 0.25}.items() if k in attrs}
        low, high = interval
        for shape in [(1,), (5,), (15,), (16,), (17,), (3, 17, 5), (2, 1, 67), (), (2500,), (3, 0)]:
            if interval != NEVER:
                yield dict(x=(low + (high - low) * rng.integers(0, 1 << 20, shape) / (1 << 20)).astype(np.float32), **some)
        if interval != NEVER:
            yield dict(x=np.linspace(low + 0.05 * (high - low), high, 300), **some)
        if integers:
            for dtype in (np.int64, np.int32, np.int8, np.bool_) if name != "not" else (np.bool_,):
                if name not in ("neg", "sign", "bitwise_not", "square", "relu", "clip", "abs") or dtype is not np.bool_:
                    yield dict(x=rng.integers(0 if dtype is np.bool_ else -9, 2 if dtype is np.bool_ else 9, (3, 7)).astype(dtype), **some)

    return op


OPS = [_make(i, *row) for i, row in enumerate(ROWS)]
BY_NAME = {op.name: op for op in OPS}


# -- importers that say more than a name ---------------------------------------------------------------------------------
@BY_NAME["clip"].importer("Clip")
def clip_from_onnx_attributes(g, node):
    return g.add("clip", node.inputs[:1], low=node.attr("min", -math.inf), high=node.attr("max", math.inf))


@BY_NAME["clip"].importer("Clip", since=11)
def clip_from_onnx(g, node):
    """Bounds known now are attributes; others are a maximum and a minimum."""
    x, *bounds = node.inputs
    known = {}
    for name, other, bound in zip(("low", "high"), ("max", "min"), bounds):
        if bound is not None and bound.const is not None and bound.spec.size == 1:
            known[name] = bound.array.reshape(-1)[0].item()
        elif bound is not None:
            x = g.add(other, [x, bound])
    return g.add("clip", [x], **known) if known else g.add("identity", [x]) if x is node.inputs[0] else x


@BY_NAME["gelu"].importer("Gelu", since=20)
@BY_NAME["gelu"].importer("Gelu", since=1, domain="com.microsoft")
def gelu_from_onnx(g, node):
    return g.add("gelu_tanh" if node.attr("approximate", "none") == "tanh" else "gelu", node.inputs[:1])


@BY_NAME["gelu_tanh"].importer("FastGelu", domain="com.microsoft")
def fast_gelu_from_onnx(g, node):
    x, bias = (*node.inputs, None)[:2]
    return g.add("gelu_tanh", [x if bias is None else g.add("add", [x, bias])])


@BY_NAME["silu"].importer("Swish", since=24)
def swish_from_onnx(g, node):
    (x,) = node.inputs
    alpha = node.attr("alpha", 1.0)
    if alpha == 1.0:
        return g.add("silu", [x])
    return g.add("mul", [x, g.add("sigmoid", [g.add("mul", [x, g.const(alpha, x.spec.dtype)])])])


@BY_NAME["isinf"].importer("IsInf", since=10)
def isinf_from_onnx(g, node):
    return g.add("isinf", node.inputs, negative=node.attr("detect_negative", 1), positive=node.attr("detect_positive", 1))


# -- idioms ----------------------------------------------------------------------------------------------------------------
def _fuse(name, *patterns, **attrs):
    """The patterns, of a value x, become operator `name` of x."""
    op = BY_NAME[name]

    @op.fuse(OneOf(*patterns), name=name)
    def build(g, m):
        x = m.x.spec
        if x.dtype not in FLOATS or m.root.outputs[0].spec.shape != x.shape:
            return None
        return g.add(op, [m.x], **attrs)


def _number(value):
    return C(value=value)


x = V("x")
_erf = P.add(P.erf(OneOf(P.div(x, _number(2**0.5)), P.mul(x, _number(0.5**0.5)))), _number(1.0))
_cube = OneOf(P.pow(x, _number(3.0)), P.mul(x, P.mul(x, x)), P.mul(x, P.square(x)))
_inner = OneOf(
    P.mul(P.add(x, P.mul(_cube, _number(0.044715))), _number((2 / math.pi) ** 0.5)),
    P.mul(P.mul(x, _number((2 / math.pi) ** 0.5)), P.add(P.mul(P.mul(x, _number(0.044715)), x), _number(1.0))),
)
_tanh = P.add(P.tanh(_inner), _number(1.0))
_six = OneOf(
    P.hard_sigmoid(x, alpha=1 / 6, beta=0.5),
    P.div(P.clip(P.add(x, _number(3.0)), low=0.0, high=6.0), _number(6.0)),
    P.mul(P.clip(P.add(x, _number(3.0)), low=0.0, high=6.0), _number(1 / 6)),
)
_shifted = P.clip(P.add(x, _number(3.0)), low=0.0, high=6.0)


def _halved(term):
    half = _number(0.5)
    return P.mul(P.mul(x, term), half), P.mul(P.mul(x, half), term), P.mul(x, P.mul(term, half))


_fuse("gelu", *_halved(_erf))
_fuse("gelu_tanh", *_halved(_tanh))
_fuse("hard_swish", P.mul(x, _six), P.div(P.mul(x, _shifted), _number(6.0)), P.mul(P.mul(x, _shifted), _number(1 / 6)))
_fuse("hard_sigmoid", *_six.choices[1:], alpha=1 / 6, beta=0.5)
_fuse("mish", P.mul(x, P.tanh(OneOf(P.softplus(x), P.log(P.add(P.exp(x), _number(1.0)))))))
_fuse("softplus", P.log(P.add(P.exp(x), _number(1.0))))
_fuse("sigmoid", P.div(_number(1.0), P.add(P.exp(P.neg(x)), _number(1.0))))
_fuse("silu", P.mul(x, P.sigmoid(x)), P.div(x, P.add(P.exp(P.neg(x)), _number(1.0))))
_fuse("softsign", P.div(x, P.add(P.abs(x), _number(1.0))))
_fuse("rsqrt", P.div(_number(1.0), P.sqrt(x)), P.reciprocal(P.sqrt(x)), P.pow(x, _number(-0.5)))
_fuse("reciprocal", P.div(_number(1.0), x), P.pow(x, _number(-1.0)))
_fuse("sqrt", P.pow(x, _number(0.5)))
_fuse("square", P.mul(x, x), P.pow(x, _number(2.0)))


@BY_NAME["clip"].fuse(OneOf(P.max(x, C("bound", size=1)), P.min(x, C("bound", size=1)), P.clip(P.clip(x))))
def bounds(g, m):
    """A minimum or maximum with one number, and a clip of a clip, are a clip."""
    node = m.root
    if m.x.spec.shape != node.outputs[0].spec.shape or m.x.spec.dtype not in FLOATS:
        return None
    if node.op.name == "clip":
        low, high = m.nodes[1].attrs["low"], m.nodes[1].attrs["high"]
        return g.add("clip", [m.x], low=min(max(low, node.attrs["low"]), node.attrs["high"]), high=min(max(high, node.attrs["low"]), node.attrs["high"]))
    return g.add("clip", [m.x], **{"low" if node.op.name == "max" else "high": m.number("bound")})
