"""y = f(x), element by element: one table of functions.

x, y: any shape, one dtype (bool for the tests isnan and isinf).
Kernels are NAME_f32 (unary.cc) and NAME_any (unary_any.cc); their attrs are up to two attributes in
the table's order.
Source: ONNX's operators of the same names; Hendrycks and Gimpel 2016 (arXiv:1606.08415) for GELU,
Elfwing et al. 2017 (arXiv:1702.03118) for SiLU, Howard et al. 2019 (arXiv:1905.02244) for
hard-swish.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from math import erf, inf

import numpy as np

from ..op import Op, Spec
from ..pattern import C, OneOf, P, V
from ..rules import batch_elementwise, transpose_elementwise

FLOATS = "f32 f64 f16"
INTS = "i64 i32 i16 i8 u32 u16 u8"
SLOW = "shrink tan asin acos atan sinh cosh asinh acosh atanh isinf bitwise_not".split()
_erf = np.vectorize(erf, otypes=[np.float64])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@dataclass
class Row:
    """One function: its ONNX name, its formula, its attributes, whether it is a post-operation,
    where it is defined.
    """

    onnx: str
    formula: Callable
    attrs: dict[str, float] = field(default_factory=dict)
    post: Callable[[dict], tuple[str, float, float]] | None = None
    positive: bool = False  # defined for positive arguments only
    dtypes: str = FLOATS  # with kernels
    result: str = ""  # output dtype where it is not x's
    rtol: float = 2e-6


ROWS: dict[str, Row] = {
    "relu": Row("Relu", lambda x: np.maximum(x, 0), post=lambda a: ("relu", 0, 0), dtypes=f"{FLOATS} {INTS}"),
    "leaky_relu": Row("LeakyRelu", lambda x, alpha: np.where(x >= 0, x, alpha * x), {"alpha": 0.01}, lambda a: ("leaky_relu", a["alpha"], 0)),
    "clip": Row("", lambda x, lo, hi: np.minimum(np.maximum(x, lo), hi), {"lo": -inf, "hi": inf}, lambda a: ("clip", a["lo"], a["hi"])),
    "sigmoid": Row("Sigmoid", _sigmoid, post=lambda a: ("sigmoid", 0, 0)),
    "tanh": Row("Tanh", np.tanh, post=lambda a: ("tanh", 0, 0)),
    "silu": Row("", lambda x: x * _sigmoid(x), post=lambda a: ("silu", 0, 0)),
    "gelu": Row("", lambda x: 0.5 * x * (1 + _erf(x / np.sqrt(2))), post=lambda a: ("gelu", 0, 0)),
    "gelu_tanh": Row("", lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), post=lambda a: ("gelu_tanh", 0, 0)),
    "hard_swish": Row("HardSwish", lambda x: x * np.clip(x / 6 + 0.5, 0, 1), post=lambda a: ("hard_swish", 0, 0)),
    "hard_sigmoid": Row("HardSigmoid", lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1), {"alpha": 0.2, "beta": 0.5}, lambda a: ("hard_sigmoid", a["alpha"], a["beta"])),
    "exp": Row("Exp", np.exp),
    "log": Row("Log", np.log, positive=True),
    "sqrt": Row("Sqrt", np.sqrt, positive=True),
    "reciprocal": Row("Reciprocal", lambda x: 1 / x, positive=True),
    "abs": Row("Abs", np.abs, dtypes=f"{FLOATS} {INTS}"),
    "neg": Row("Neg", lambda x: -x, dtypes=f"{FLOATS} {INTS}"),
    "sign": Row("Sign", np.sign, dtypes=f"{FLOATS} {INTS}"),
    "floor": Row("Floor", np.floor),
    "ceil": Row("Ceil", np.ceil),
    "round": Row("Round", np.round),
    "erf": Row("Erf", _erf),
    "sin": Row("Sin", np.sin),
    "cos": Row("Cos", np.cos),
    "tan": Row("Tan", np.tan, rtol=2e-4),
    "asin": Row("Asin", np.arcsin),
    "acos": Row("Acos", np.arccos),
    "atan": Row("Atan", np.arctan),
    "sinh": Row("Sinh", np.sinh),
    "cosh": Row("Cosh", np.cosh),
    "asinh": Row("Asinh", np.arcsinh),
    "acosh": Row("Acosh", np.arccosh),
    "atanh": Row("Atanh", np.arctanh),
    "softplus": Row("Softplus", _softplus),
    "softsign": Row("Softsign", lambda x: x / (1 + np.abs(x))),
    "elu": Row("Elu", lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))), {"alpha": 1.0}),
    "celu": Row("Celu", lambda x, alpha: np.maximum(0, x) + np.minimum(0, alpha * np.expm1(np.minimum(x, 0) / alpha)), {"alpha": 1.0}),
    "selu": Row("Selu", lambda x, alpha, gamma: gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))), {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
    "thresholded_relu": Row("ThresholdedRelu", lambda x, alpha: np.where(x > alpha, x, 0), {"alpha": 1.0}),
    "mish": Row("Mish", lambda x: x * np.tanh(_softplus(x))),
    "shrink": Row("Shrink", lambda x, lambd, bias: np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0)), {"lambd": 0.5, "bias": 0.0}),
    "not": Row("Not", np.logical_not, dtypes="bool"),
    "isnan": Row("IsNaN", np.isnan, result="bool"),
    "isinf": Row("", lambda x, positive, negative: (x == inf) & (positive != 0) | (x == -inf) & (negative != 0), {"positive": 1.0, "negative": 1.0}, result="bool"),
    "bitwise_not": Row("BitwiseNot", np.invert, dtypes=f"{INTS} u64"),
}  # fmt: skip


def _make(name: str, row: Row) -> Op:
    op = Op(name, attrs=dict(row.attrs), tol={"f32": (row.rtol, 2e-6)}, doc=__doc__)
    op.rule(lambda x, **attrs: Spec(x.shape, row.result or x.dtype))
    op.reference(row.formula)
    op.float64 = name not in ("not", "bitwise_not", "neg", "abs", "sign", "relu")
    op.symbolic = name == "neg"
    op.transpose(transpose_elementwise)
    op.batch(batch_elementwise)
    op.as_post = row.post
    for dtype in row.dtypes.split():
        hot = dtype == "f32" and name not in SLOW
        kernel = f"{name}_{dtype if hot or name == 'not' else 'any'}"
        same = "" if row.result else "x"
        op.kernel(dtype, kernel, {"x": "any"}, same)(_packer("2f" if hot else "2d"))
    if row.onnx:

        @op.importer(row.onnx)
        def from_onnx(g, node):
            attrs = {k: float(node.attr(k, v)) for k, v in row.attrs.items()}
            return g.add(op, [node.inputs[0]], **attrs)

    op.cases(lambda rng: _cases(rng, name, row))
    if "f32" in row.dtypes.split():
        op.benches(_benches)
    return op


def _packer(layout: str) -> Callable:
    return lambda attrs: struct.pack(layout, *[*attrs.values(), 0.0, 0.0][:2])


def _benches(rng):
    yield dict(x=np.abs(rng(197, 768)) * np.float32(0.9) + np.float32(0.01))


def _cases(rng, name: str, row: Row):
    for shape in [(1,), (3, 5), (2, 3, 33), (64, 17), (0, 4), (3, 1000)]:
        x = rng(*shape) * 3
        if row.positive:
            x = np.abs(x) + np.float32(0.01)
        if name in ("asin", "acos", "atanh"):
            x = np.tanh(x) * np.float32(0.99)
        if name == "acosh":
            x = np.abs(x) + 1
        if name in ("not",):
            x = x > 0
        if name == "bitwise_not":
            x = x.astype(np.int32)
        yield dict(x=x)
    if "f64" in row.dtypes:
        yield dict(x=x[:, :40].astype(np.float64))
        yield dict(x=x[:, :40].astype(np.float16))
    if "i64" in row.dtypes:
        for dtype in (np.int64, np.int32, np.int8):
            yield dict(x=(x[:, :40] * 9).astype(dtype))


ops = [_make(name, row) for name, row in ROWS.items()]
BY_NAME = {op.name: op for op in ops}


# -- ONNX's other ways of saying it ----------------------------------------------------------------
@BY_NAME["clip"].importer("Clip")
def clip_from_onnx(g, node):
    x, lo, hi = (*node.inputs, None, None)[:3]
    lo = node.attr("min") if lo is None else lo
    hi = node.attr("max") if hi is None else hi

    def number(v):
        return v is None or isinstance(v, (int, float)) or v.const is not None

    def value(v, default):
        return (
            default
            if v is None
            else float(v)
            if isinstance(v, (int, float))
            else float(v.array.reshape(-1)[0])
        )

    if number(lo) and number(hi) and x.spec is not None and x.spec.dtype in ("f32", "f64", "f16"):
        if value(lo, -inf) == 0 and value(hi, inf) == inf:
            return g.add("relu", [x])
        return g.add("clip", [x], lo=value(lo, -inf), hi=value(hi, inf))
    dtype = x.spec.dtype if x.spec is not None else "f32"
    for v, which in ((lo, "max"), (hi, "min")):
        if v is not None:
            x = g.add(which, [x, g.const(v, dtype) if isinstance(v, (int, float)) else v])
    return x


@BY_NAME["gelu"].importer("Gelu", since=20)
@BY_NAME["gelu"].importer("Gelu", domain="com.microsoft")
def gelu_from_onnx(g, node):
    return g.add(
        "gelu_tanh" if node.attr("approximate", "none") == "tanh" else "gelu", [node.inputs[0]]
    )


@BY_NAME["silu"].importer("Swish", since=24)
def swish_from_onnx(g, node):
    x = node.inputs[0]
    alpha = node.attr("alpha", 1.0)
    if alpha == 1:
        return g.add("silu", [x])
    return g.add("mul", [x, g.add("sigmoid", [g.add("mul", [x, g.const(np.float32(alpha))])])])


@BY_NAME["isinf"].importer("IsInf")
def isinf_from_onnx(g, node):
    return g.add(
        "isinf",
        [node.inputs[0]],
        positive=float(node.attr("detect_positive", 1)),
        negative=float(node.attr("detect_negative", 1)),
    )


# -- fusions ---------------------------------------------------------------------------------------
BY_NAME["silu"].fuse(P.mul(V("x"), P.sigmoid(V("x"))))(lambda g, m: g.add("silu", [m.x]))
BY_NAME["hard_swish"].fuse(P.mul(V("x"), P.hard_sigmoid(V("x"), alpha=1 / 6, beta=0.5)))(
    lambda g, m: g.add("hard_swish", [m.x])
)
_six = P.clip(P.add(V("x"), C(value=3.0)), lo=0.0, hi=6.0)
BY_NAME["hard_sigmoid"].fuse(OneOf(P.div(_six, C(value=6.0)), P.mul(_six, C(value=1 / 6))))(
    lambda g, m: g.add("hard_sigmoid", [m.x], alpha=1 / 6, beta=0.5)
)
BY_NAME["hard_swish"].fuse(
    OneOf(P.div(P.mul(V("x"), _six), C(value=6.0)), P.mul(P.mul(V("x"), _six), C(value=1 / 6)))
)(lambda g, m: g.add("hard_swish", [m.x]))
BY_NAME["mish"].fuse(P.mul(V("x"), P.tanh(P.softplus(V("x")))))(lambda g, m: g.add("mish", [m.x]))

_erf1 = P.add(
    P.erf(OneOf(P.div(V("x"), C(value=2**0.5)), P.mul(V("x"), C(value=2**-0.5)))), C(value=1.0)
)
BY_NAME["gelu"].fuse(
    OneOf(
        P.mul(P.mul(V("x"), _erf1), C(value=0.5)),
        P.mul(V("x"), P.mul(_erf1, C(value=0.5))),
        P.mul(P.mul(V("x"), C(value=0.5)), _erf1),
    )
)(lambda g, m: g.add("gelu", [m.x]))

_cube = OneOf(
    P.pow(V("x"), C(value=3.0)),
    P.mul(V("x"), P.mul(V("x"), V("x"))),
    P.mul(P.mul(V("x"), V("x")), V("x")),
)
_cubic = OneOf(  # jax's form last
    P.mul(_cube, C(value=0.044715)),
    P.mul(V("x"), P.mul(V("x"), P.mul(V("x"), C(value=0.044715)))),
)
_inner = OneOf(
    P.mul(P.add(V("x"), _cubic), C(value=(2 / np.pi) ** 0.5)),
    P.mul(
        P.mul(V("x"), C(value=(2 / np.pi) ** 0.5)),
        P.add(P.mul(P.mul(V("x"), V("x")), C(value=0.044715)), C(value=1.0)),
    ),
    P.mul(
        V("x"),
        P.add(
            P.mul(P.mul(V("x"), V("x")), C(value=0.044715 * (2 / np.pi) ** 0.5)),
            C(value=(2 / np.pi) ** 0.5),
        ),
    ),
)
_tanh1 = P.add(P.tanh(_inner), C(value=1.0))
BY_NAME["gelu_tanh"].fuse(
    OneOf(
        P.mul(P.mul(V("x"), _tanh1), C(value=0.5)),
        P.mul(V("x"), P.mul(_tanh1, C(value=0.5))),
        P.mul(P.mul(V("x"), C(value=0.5)), _tanh1),
    )
)(lambda g, m: g.add("gelu_tanh", [m.x]))
