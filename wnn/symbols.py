"""Axis lengths that are not known yet: integer polynomials over named symbols.

A `Sym` is a sum of products of atoms with integer coefficients; an atom is a symbol's name or a
quotient, minimum or maximum that could not be simplified. A remainder is said by its quotient, so
that a length padded to a multiple is seen to be one. Equal lengths that polynomial arithmetic can
prove equal compare equal. Arithmetic between a Sym and an int gives a Sym, or a plain int where
everything cancels.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd


def _terms(x) -> dict:
    if isinstance(x, Sym):
        return x.terms
    return {(): int(x)} if x else {}


def _make(terms: dict):
    terms = {k: v for k, v in terms.items() if v}
    if not terms:
        return 0
    if len(terms) == 1 and () in terms:
        return terms[()]
    return Sym(terms)


def _key(atom) -> str:
    return atom if isinstance(atom, str) else repr(atom)


class Sym:
    """An integer expression over symbols. Immutable and hashable."""

    __slots__ = ("terms", "_hash")

    def __init__(self, terms: dict | str) -> None:
        self.terms = {(terms,): 1} if isinstance(terms, str) else terms
        self._hash = hash(frozenset(self.terms.items()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other) -> bool:
        return isinstance(other, Sym) and self._hash == other._hash and self.terms == other.terms

    def __add__(self, other):
        if not isinstance(other, (Sym, int)):
            return self._other(other, "__add__")
        out = dict(self.terms)
        for k, v in _terms(other).items():
            out[k] = out.get(k, 0) + v
        return _make(out)

    def __mul__(self, other):
        if not isinstance(other, (Sym, int)):
            return self._other(other, "__mul__")
        out: dict = {}
        for ka, va in self.terms.items():
            for kb, vb in _terms(other).items():
                k = tuple(sorted(ka + kb, key=_key))
                out[k] = out.get(k, 0) + va * vb
        return _make(out)

    def _other(self, other, method: str):
        """numpy's integer scalars join the arithmetic; anything else is left to the other
        operand.
        """
        try:
            return getattr(self, method)(other.__index__())
        except AttributeError:
            return NotImplemented

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + (other * -1)

    def __rsub__(self, other):
        return (self * -1) + other

    def __floordiv__(self, other):
        return _divide(self, other)

    def __rfloordiv__(self, other):
        return _apply("//", int(other), self)

    def __mod__(self, other):
        other = other if isinstance(other, Sym) else int(other)
        return self - self // other * other

    def __rmod__(self, other):
        return int(other) - int(other) // self * self

    def __index__(self):
        raise TypeError(f"the length {self} is not known before the inputs are")

    def __repr__(self) -> str:
        def term(k, v):
            names = "*".join(a if isinstance(a, str) else _shown(*a) for a in k)
            return names if names and v == 1 else f"{v}*{names}" if names else str(v)

        items = sorted(self.terms.items(), key=lambda kv: (-len(kv[0]), str(kv[0])))
        return " + ".join(term(k, v) for k, v in items).replace("+ -", "- ")

    def symbols(self) -> set[str]:
        """Names of all symbols that occur."""
        found: set[str] = set()
        for k in self.terms:
            for a in k:
                if isinstance(a, str):
                    found.add(a)
                else:
                    for part in a[1:]:
                        if isinstance(part, Sym):
                            found |= part.symbols()
        return found


def _shown(kind: str, a, b) -> str:
    """A quotient, minimum or maximum, in parentheses, as are sums and products in it."""

    def operand(x) -> str:
        single = not isinstance(x, Sym) or [len(k) * v for k, v in x.terms.items()] == [1]
        return str(x) if single else f"({x})"

    return f"({operand(a)} {kind} {operand(b)})"


def _apply(kind: str, a, b) -> Sym:
    return Sym({((kind, a, b),): 1})


def _divide(a: Sym, b):
    if not isinstance(b, Sym):
        b = int(b)
        if b == 1:
            return a
    bt = _terms(b)
    if len(bt) == 1:  # a single product: divide term by term where that is exact
        ((kb, vb),) = bt.items()
        out: dict = {}
        rest: dict = {}
        for k, v in a.terms.items():
            left = list(k)
            fits = v % vb == 0
            for atom in kb:
                if atom in left:
                    left.remove(atom)
                else:
                    fits = False
            (out if fits else rest)[tuple(left) if fits else k] = v // vb if fits else v
        if not rest:
            return _make(out)
        if isinstance(b, int) and b > 0:  # (b*q + r) // b == q + r // b for integers
            g = b
            for v in rest.values():
                g = gcd(g, v)
            rest = {k: v // g for k, v in rest.items()}
            return _make(out) + _quotient(rest, b // g)
    else:
        exact = _exact(a.terms, bt)
        if exact is not None:
            return exact
    return _apply("//", a, b)


def _quotient(a: dict, b: int):
    """a // b, where a quotient by a number in a is taken along: (x // n + c) // b == (x + c*n) //
    (n*b).
    """
    inner = [k for k in a if k]
    if b > 1 and len(inner) == 1 and a[inner[0]] == 1 and len(inner[0]) == 1:
        (atom,) = inner[0]
        if not isinstance(atom, str) and atom[0] == "//" and isinstance(atom[2], int):
            _, x, n = atom
            return (x + a.get((), 0) * n) // (n * b)
    whole = _make(a)
    return _apply("//", whole, b) if isinstance(whole, Sym) else whole // b


def _lead(terms: dict) -> tuple:
    """The leading monomial: the largest by degree, then by its atoms."""
    return max(terms, key=lambda k: (len(k), [_key(a) for a in k]))


def _exact(a: dict, b: dict):
    """The quotient of two polynomials where one divides the other, else None (long division by
    leading terms).
    """
    rest = dict(a)
    quotient: dict = {}
    kb = _lead(b)
    while rest:
        ka = _lead(rest)
        left = list(ka)
        for atom in kb:
            if atom not in left:
                return None
            left.remove(atom)
        if rest[ka] % b[kb]:
            return None
        k, v = tuple(left), rest[ka] // b[kb]
        quotient[k] = quotient.get(k, 0) + v
        for kk, vv in b.items():
            m = tuple(sorted(k + kk, key=_key))
            rest[m] = rest.get(m, 0) - v * vv
            if not rest[m]:
                del rest[m]
    return _make(quotient)


def minimum(a, b):
    """min(a, b) of lengths, symbolic if need be."""
    d = a - b
    return _apply("min", a, b) if isinstance(d, Sym) else a if d <= 0 else b


def maximum(a, b):
    """max(a, b) of lengths, symbolic if need be."""
    d = a - b
    return _apply("max", a, b) if isinstance(d, Sym) else a if d >= 0 else b


def product(dims):
    """Product of lengths; 1 for none."""
    out = 1
    for d in dims:
        out = out * d
    return out


def is_name(d) -> bool:
    """Whether a length is one symbol by itself."""
    if not isinstance(d, Sym) or len(d.terms) != 1:
        return False
    ((atoms, factor),) = d.terms.items()
    return factor == 1 and len(atoms) == 1 and isinstance(atoms[0], str)


def evaluate(x, env: Mapping[str, int]):
    """The value of a length once its symbols are known; a Sym again where some are missing from
    env.
    """
    if not isinstance(x, Sym):
        return x
    total = 0
    for k, v in x.terms.items():
        for atom in k:
            if isinstance(atom, str):
                v = v * env[atom] if atom in env else Sym(atom) * v
            else:
                v = v * _rebuild(atom[0], evaluate(atom[1], env), evaluate(atom[2], env))
        total = total + v
    return total


def _rebuild(kind: str, a, b):
    if kind == "//":
        return a // b
    if kind == "%":
        return a % b
    return minimum(a, b) if kind == "min" else maximum(a, b)
