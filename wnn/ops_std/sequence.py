"""Sequences and optionals: Python lists, and None for an empty optional, that travel from node to
node.

They are worked on between native stages.
Source: ONNX Sequence*-11, SplitToSequence-11, ConcatFromSequence-11, Optional*-15.
"""

from __future__ import annotations

import numpy as np

from ..errors import IndexOutOfRangeError, ShapeError
from ..op import Op
from .control_flow import number


def _op(name: str, inputs: str, **attrs) -> Op:
    return Op(name, inputs, attrs=attrs)


construct = _op("sequence_construct", "*x")
at = _op("sequence_at", "sequence position")
insert = _op("sequence_insert", "sequence x position?")
erase = _op("sequence_erase", "sequence position?")
length = _op("sequence_length", "sequence")
split = _op("split_to_sequence", "x lengths?", axis=0, keepdims=True)
join = _op("concat_from_sequence", "sequence", axis=..., new_axis=False)
optional = _op("optional", "x?")
has = _op("optional_has_element", "x?")
get = _op("optional_get_element", "x")


def index_in(position, n: int, who: str) -> int:
    """A position counted from 0; IndexOutOfRangeError outside [-n, n - 1]."""
    i = int(number(position, who))
    if not -n <= i < n:
        raise IndexOutOfRangeError(
            f"[{who}] found position {i}; expected one in [{-n}, {n - 1}]; correct the position"
        )
    return i % n


@construct.control
def run_construct(run, *x):
    return [list(x)]


@at.control
def run_at(run, sequence, position):
    return [sequence[index_in(position, len(sequence), "sequence_at")]]


@insert.control
def run_insert(run, sequence, x, position=None):
    i = len(sequence)
    if position is not None and int(number(position, "sequence_insert")) != i:
        i = index_in(position, len(sequence), "sequence_insert")
    return [[*sequence[:i], x, *sequence[i:]]]


@erase.control
def run_erase(run, sequence, position=None):
    i = index_in(-1 if position is None else position, len(sequence), "sequence_erase")
    return [[*sequence[:i], *sequence[i + 1 :]]]


@length.control
def run_length(run, sequence):
    return [np.array(len(sequence))]


@split.control
def run_split(run, x, lengths=None, *, axis, keepdims):
    n = x.shape[axis]
    if lengths is None:
        parts = np.split(x, n, axis)
        return [parts if keepdims else [p.squeeze(axis) for p in parts]]
    lengths = np.asarray(lengths)
    if lengths.ndim == 0:
        if lengths < 1:
            raise ShapeError(
                f"[split_to_sequence] found the length {lengths}; expected 1 or more; correct it"
            )
        lengths = np.full(-(-n // int(lengths)), lengths)
        lengths[-1:] += n - lengths.sum()
    if lengths.sum() != n or (lengths < 0).any():
        raise ShapeError(
            f"[split_to_sequence] found lengths {lengths.tolist()}; expected them to add up to "
            f"{n}; correct them"
        )
    return [np.split(x, np.cumsum(lengths)[:-1], axis)]


@join.control
def run_join(run, sequence, *, axis, new_axis):
    if not sequence:
        raise ShapeError(
            "[concat_from_sequence] found an empty sequence; expected at least one tensor; check "
            "the model"
        )
    return [np.stack(sequence, axis) if new_axis else np.concatenate(sequence, axis)]


@optional.control
def run_optional(run, x=None):
    return [x]


@has.control
def run_has(run, x=None):
    return [np.array(x is not None)]


@get.control
def run_get(run, x):
    if x is None:
        raise ShapeError(
            "[optional_get_element] found an empty optional; expected one with a value; pass it"
        )
    return [x]


def _importer(op: Op, name: str, since: int) -> None:
    @op.importer(name, since=since, takes="f16 obj")
    def from_onnx(g, node):
        return g.add(op, node.inputs)


for _op_, _name, _since in (
    (construct, "SequenceConstruct", 11),
    (at, "SequenceAt", 11),
    (insert, "SequenceInsert", 11),
    (erase, "SequenceErase", 11),
    (length, "SequenceLength", 11),
    (optional, "Optional", 15),
    (has, "OptionalHasElement", 15),
    (get, "OptionalGetElement", 15),
):
    _importer(_op_, _name, _since)


@construct.importer("SequenceEmpty", since=11)
def empty_from_onnx(g, node):
    return g.add(construct, [])


@split.importer("SplitToSequence", since=11)
def split_from_onnx(g, node):
    return g.add(
        split,
        node.inputs,
        axis=node.attr("axis", 0),
        keepdims=bool(node.attr("keepdims", 1)) or node.input(1) is not None,
    )


@join.importer("ConcatFromSequence", since=11, takes="f16 obj")
def join_from_onnx(g, node):
    return g.add(join, node.inputs, axis=node.attr("axis"), new_axis=bool(node.attr("new_axis", 0)))
