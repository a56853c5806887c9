"""y = f(a, b), element by element with numpy broadcasting: one table of functions.

a, b: any shapes that broadcast, one dtype    y: the broadcast shape; bool for comparisons
Kernels are NAME_f32 (binary.cc) and NAME_any (binary_any.cc) and take any strides.
Source: ONNX's operators of the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..dtypes import FLOATS, NUMPY
from ..op import Op, Spec
from ..rules import batch_elementwise, broadcast, same_dtype, transpose_elementwise
from ..symbols import Sym, maximum, minimum, product


def _div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Integers divide towards zero, as in C; lengths with symbols are positive: // is right."""
    if a.dtype == object or b.dtype == object:
        return a // b
    if a.dtype.kind in "iu":
        safe = np.where(b == 0, 1, b)
        q = np.abs(a) // np.abs(safe)
        return np.where(b == 0, 0, np.where((a < 0) != (safe < 0), -q, q)).astype(a.dtype)
    return a / b


def _same(a, b) -> bool:
    """Whether two lengths are equal; TypeError where only the inputs tell. A length is never
    negative.
    """
    if not isinstance(a, Sym) and not isinstance(b, Sym):
        return a == b
    d = a - b
    if isinstance(d, Sym) and not any(not isinstance(x, Sym) and x < 0 for x in (a, b)):
        raise TypeError(f"whether {a} equals {b} is not known before the inputs are")
    return False if isinstance(d, Sym) else d == 0


def _equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype == object or b.dtype == object:
        return np.vectorize(_same, otypes=[bool])(a, b)
    return a == b


def _min(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype == object or b.dtype == object:
        return np.vectorize(minimum, otypes=[object])(a, b)
    return np.minimum(a, b)


def _max(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype == object or b.dtype == object:
        return np.vectorize(maximum, otypes=[object])(a, b)
    return np.maximum(a, b)


def _power(a, b):
    """A length raised to a small constant power; TypeError for others."""
    if isinstance(b, Sym) or not 0 <= b <= 4 or b != int(b):
        raise TypeError(f"{a} to the power {b} is no polynomial")
    return product([a] * int(b))


def _shift(shifted: Callable) -> Callable:
    def shift(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = np.broadcast_arrays(a, b)
        within = (b >= 0) & (b < a.dtype.itemsize * 8)
        beyond = np.where(a < 0, -1, 0) if shifted is np.right_shift else np.zeros(a.shape, int)
        return np.where(within, shifted(a, np.where(within, b, 0)), beyond.astype(a.dtype))

    return shift


def _pow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype == object or b.dtype == object:
        return np.vectorize(_power, otypes=[object])(a, b)
    if a.dtype.kind in "iu":
        return np.power(a.astype(np.float64), b).astype(a.dtype)
    return np.power(a, b)


INTS = "i64 i32 i16 i8 u32 u16 u8 u64"
NUMBERS = f"f32 f64 f16 {INTS}"
UNSIGNED = "div mod fmod min max less less_equal greater greater_equal shift_right".split()
SYMBOLIC = "add sub mul div mod pow min max equal".split()
HOT = "add sub mul div pow min max prelu".split()
COMPARISONS = "equal less less_equal greater greater_equal".split()
LOGIC = "and or xor".split()


@dataclass
class Row:
    """One function: its ONNX name, its formula, the dtypes with kernels."""

    onnx: str
    formula: Callable
    dtypes: str = NUMBERS
    commutative: bool = False
    result: str = ""
    mixed: bool = False  # b may have another dtype than a


ROWS: dict[str, Row] = {
    "add": Row("Add", lambda a, b: a + b, NUMBERS, True),
    "sub": Row("Sub", lambda a, b: a - b, NUMBERS),
    "mul": Row("Mul", lambda a, b: a * b, NUMBERS, True),
    "div": Row("Div", _div),
    "pow": Row("Pow", _pow, "f32 f64 f16 i64 i32", mixed=True),
    "min": Row("", _min, commutative=True),
    "max": Row("", _max, commutative=True),
    "mod": Row("", np.mod, NUMBERS),
    "fmod": Row("", np.fmod, NUMBERS),
    "prelu": Row("", lambda a, b: np.where(a < 0, a * b, a), "f32 f64 f16"),
    "equal": Row("Equal", _equal, f"{NUMBERS} bool", True, "bool"),
    "less": Row("Less", lambda a, b: a < b, result="bool"),
    "less_equal": Row("LessOrEqual", lambda a, b: a <= b, result="bool"),
    "greater": Row("Greater", lambda a, b: a > b, result="bool"),
    "greater_equal": Row("GreaterOrEqual", lambda a, b: a >= b, result="bool"),
    "and": Row("And", np.logical_and, "bool", True, "bool"),
    "or": Row("Or", np.logical_or, "bool", True, "bool"),
    "xor": Row("Xor", np.logical_xor, "bool", True, "bool"),
    "bitwise_and": Row("BitwiseAnd", np.bitwise_and, INTS, True),
    "bitwise_or": Row("BitwiseOr", np.bitwise_or, INTS, True),
    "bitwise_xor": Row("BitwiseXor", np.bitwise_xor, INTS, True),
    "shift_left": Row("", _shift(np.left_shift), INTS),
    "shift_right": Row("", _shift(np.right_shift), INTS),
}  # fmt: skip


def _make(name: str, row: Row) -> Op:
    op = Op(
        name,
        inputs="a b",
        tol={"f32": (1e-5, 1e-6) if name == "pow" else (1e-6, 1e-7)},
        commutative=row.commutative,
        doc=__doc__,
    )

    @op.rule
    def rule(a, b):
        dtype = a.dtype if row.mixed else same_dtype(name, a, b)
        return Spec(broadcast(name, a.shape, b.shape), row.result or dtype)

    op.reference(row.formula)
    op.symbolic = name in SYMBOLIC
    op.transpose(transpose_elementwise)
    op.batch(batch_elementwise)
    for dtype in row.dtypes.split():
        hot = dtype == "f32" and name in HOT or dtype in ("f32", "i32") and name in COMPARISONS
        kernel = f"{name}_{dtype if hot or name in LOGIC else 'any'}"
        if dtype == "u64" and name in UNSIGNED:
            kernel = f"u_{name.replace('fmod', 'mod')}_any"
        op.kernel(
            f"{dtype} {dtype}",
            kernel,
            strides={"a": "any", "b": "any"},
            inplace="" if row.result else "a b",
        )(lambda: b"")
    if row.onnx:
        op.importer(row.onnx)(lambda g, node: g.add(op, node.inputs[:2]))
    op.flops(lambda out: out.size)
    op.cases(lambda rng: _cases(rng, name, row))
    op.benches(lambda rng: _benches(rng, row))
    return op


def _benches(rng, row: Row):
    shapes = [
        ((197, 768), (197, 768)),
        ((197, 768), (768,)),
        ((4420, 4), (4420, 1)),
        ((4420, 2), ()),
        ((1, 64, 900), (1, 64, 1)),
    ]
    for dtype in [d for d in ("f32", "i64", "bool") if d in row.dtypes.split()][:2]:
        for sa, sb in shapes:
            a, b = (np.abs(rng(*s)) * 3 + 1 for s in (sa, sb))
            yield dict(a=a.astype(NUMPY[dtype]), b=b.astype(NUMPY[dtype]))


def _cases(rng, name: str, row: Row):
    shapes = [
        ((1,), (1,)),
        ((3, 33), (3, 33)),
        ((2, 5, 17), (17,)),
        ((2, 5, 17), (2, 5, 1)),
        ((4, 1, 3), (2, 1)),
        ((6, 65), ()),
        ((2, 3, 4, 5), (1, 3, 1, 5)),
        ((0, 3), (3,)),
        ((1, 70), (5, 1)),
    ]
    for sa, sb in shapes:
        a, b = rng(*sa), rng(*sb)
        if name == "pow":
            a = np.abs(a) + np.float32(0.1)
        if name == "div":
            b = np.where(np.abs(b) < 0.1, np.float32(0.5), b)
        if row.dtypes.startswith("bool"):
            a, b = a > 0, b > 0
        if name.startswith(("bitwise", "shift")) or name == "mod":
            a, b = (a * 9).astype(np.int64), (np.abs(b) * 5 + 1).astype(np.int64)
        yield dict(a=a, b=b)
    for dtype in ("i64", "i32", "u8", "u64", "f64", "f16"):
        if dtype in row.dtypes.split():
            a, b = np.arange(-6, 6).reshape(3, 4), np.array([1, 2, 3, 5])
            if name == "pow":
                a = a + 8
            yield dict(a=a.astype(NUMPY[dtype]), b=b.astype(NUMPY[dtype]))


ops = [_make(name, row) for name, row in ROWS.items()]
BY_NAME = {op.name: op for op in ops}


# -- ONNX's other ways of saying it ----------------------------------------------------------------
def _chain(name: str) -> Callable:
    def from_onnx(g, node):
        out = node.inputs[0]
        for x in node.inputs[1:]:
            out = g.add(name, [out, x])
        return out if len(node.inputs) > 1 else g.add("identity", [out])

    return from_onnx


BY_NAME["min"].importer("Min")(_chain("min"))
BY_NAME["max"].importer("Max")(_chain("max"))
BY_NAME["add"].importer("Sum")(_chain("add"))


@BY_NAME["add"].importer("Mean")
def mean_from_onnx(g, node):
    n = len(node.inputs)
    return g.add("div", [_chain("add")(g, node), g.const(n, node.spec(0).dtype)])


@BY_NAME["mod"].importer("Mod", since=10)
def mod_from_onnx(g, node):
    return g.add("fmod" if node.attr("fmod", 0) else "mod", node.inputs)


@BY_NAME["prelu"].importer("PRelu")
def prelu_from_onnx(g, node):
    return g.add("prelu", node.inputs)


@BY_NAME["pow"].importer("Pow", since=12)
def pow_from_onnx(g, node):
    a, b = node.inputs
    known = a.spec is not None and b.spec is not None
    if known and b.const is not None and b.spec.size == 1 and b.spec.rank <= a.spec.rank:
        n = float(b.array.reshape(-1)[0])
        if a.spec.dtype in FLOATS and n == 2:
            return g.add("mul", [a, a])
        if a.spec.dtype in FLOATS and n == 0.5:
            return g.add("sqrt", [a])
        if a.spec.dtype in FLOATS and b.spec.dtype != a.spec.dtype:
            b = g.const(np.full(b.shape, n, NUMPY[a.spec.dtype]))
    if known and a.spec.dtype != b.spec.dtype:
        if a.spec.dtype in INTS and b.spec.dtype in FLOATS:  # the power is computed as it is given
            y = g.add("pow", [g.add("cast", [x], to="f64") for x in (a, b)])
            return g.add("cast", [y], to=a.spec.dtype)
        b = g.add("cast", [b], to=a.spec.dtype)
    return g.add("pow", [a, b])


BY_NAME["pow"].importer("Pow", since=7)(pow_from_onnx)


@BY_NAME["shift_left"].importer("BitShift", since=11)
def shift_from_onnx(g, node):
    return g.add(f"shift_{node.attr('direction').lower()}", node.inputs)
