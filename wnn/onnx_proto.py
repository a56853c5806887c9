"""ONNX tensors, types, attributes and nodes in Python's terms. Every length is checked before
memory is taken.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from . import dtypes
from .errors import ModelError, UnsupportedError, WnnError
from .op import Spec

try:
    import onnx
except ImportError as e:
    raise WnnError(
        "[importer] found no package onnx; expected it for reading .onnx files; pip install "
        "wnn[onnx]"
    ) from e

A = onnx.AttributeProto
MAX_SPARSE_BYTES = 1 << 30  # a dense tensor made from a sparse one: its size is declared, not given
BITS = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2, 27: 6, 28: 6}  # per element in a file, where not 8
FIELD = {
    **dict.fromkeys((1, 14), "float_data"),
    **dict.fromkeys((11, 15), "double_data"),
    **dict.fromkeys((7,), "int64_data"),
    **dict.fromkeys((12, 13), "uint64_data"),
}  # the typed field of a data type; int32_data for all others


def refuse(who: str, found: str, expected: str, todo: str = "export the model again") -> NoReturn:
    """Raises a ModelError with the three facts."""
    raise ModelError(f"[{who}] found {found}; expected {expected}; {todo}")


def type_name(code: int) -> str:
    """The ONNX name of a data type's number."""
    try:
        return onnx.TensorProto.DataType.Name(code)
    except ValueError:
        return str(code)


def dtype_of(code: int, who: str) -> str:
    """wnn's name of an ONNX data type."""
    if code in dtypes.NAME and code:
        return dtypes.NAME[code]
    refuse(who, f"data type {type_name(code)}", "one that ONNX defines")


def array_of(
    t: onnx.TensorProto,
    folder: str | None,
    who: str = "initializer",
    find: Callable[[bytes], bytes | memoryview] | None = None,
) -> tuple[np.ndarray, str]:
    """(array, wnn dtype) of a TensorProto. folder: where external data may lie; None if nowhere.

    What numpy has no dtype for comes as its bits, a byte or more per element.  find(raw_data): see
    `onnx_wire.Large`.
    """
    who = f"{who} {t.name!r}" if t.name else who
    dtype = dtype_of(t.data_type, who)
    shape = tuple(t.dims)
    if any(d < 0 for d in shape):
        refuse(who, f"shape {shape}", "lengths of 0 or more")
    count = math.prod(shape)
    if t.HasField("segment"):
        raise UnsupportedError(
            f"[{who}] found a segmented tensor; expected a whole one; export the model again"
        )
    if dtype == "str":
        if len(t.string_data) != count:
            refuse(who, f"{len(t.string_data)} strings for shape {shape}", f"{count}")
        text = np.array(
            [s.decode("utf-8", "surrogateescape") for s in t.string_data] + [None], object
        )
        return text[:-1].reshape(shape), dtype
    bits = BITS.get(t.data_type, 8 * dtypes.ITEMSIZE[dtype])
    size = (count * bits + 7) // 8
    external = t.data_location == onnx.TensorProto.EXTERNAL
    if external or t.HasField("raw_data"):
        raw = _external(t, folder, size, who) if external else t.raw_data
        if find is not None and not external:
            raw = find(raw)
        if len(raw) != size:
            refuse(who, f"{len(raw)} bytes for {type_name(t.data_type)}{shape}", f"{size} bytes")
        if dtype in dtypes.SMALL:
            raw = bytes(raw)
            return _small(onnx.TensorProto(data_type=t.data_type, dims=shape, raw_data=raw)), dtype
        array = np.frombuffer(raw, dtypes.NUMPY[dtype])
        if isinstance(raw, memoryview):  # of a mapping: at odd addresses, and not for long
            array = array.copy()
            _release(raw)
        if sys.byteorder == "big":
            array = array.byteswap()
        return array.reshape(shape), dtype
    field = FIELD.get(t.data_type, "int32_data")
    values = getattr(t, field)
    want = 2 * count if dtype in ("c64", "c128") else size if bits < 6 else count
    if len(values) != want:
        refuse(
            who,
            f"{len(values)} values in {field} for {type_name(t.data_type)}{shape}",
            f"{want} values",
        )
    return _small(t) if dtype in dtypes.SMALL else _typed(values, field, dtype).reshape(
        shape
    ), dtype


def _release(part: memoryview) -> None:
    """Lets go of the memory that a mapped file has come into, as its copy takes as much."""
    if len(part) >= 1 << 20 and isinstance(part.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        part.obj.madvise(mmap.MADV_DONTNEED)


def _typed(values, field: str, dtype: str) -> np.ndarray:
    """The values of a typed field, which is wider than the type it holds."""
    wide = {
        "float_data": np.float32,
        "double_data": np.float64,
        "int64_data": np.int64,
        "uint64_data": np.uint64,
    }
    array = np.array(values, wide.get(field, np.int32))
    if dtype in ("f16", "bf16"):
        return array.astype(np.uint16).view(dtypes.NUMPY[dtype])
    if dtype in ("c64", "c128"):
        return array.view(dtypes.NUMPY[dtype])
    return array.astype(dtypes.NUMPY[dtype], copy=False)


def _small(t: onnx.TensorProto) -> np.ndarray:
    """Types of 8 bits or fewer, unpacked by the onnx package. Lengths are checked already."""
    return dtypes.bits_of(onnx.numpy_helper.to_array(t))


def _external(t: onnx.TensorProto, folder: str | None, size: int, who: str) -> np.ndarray:
    """The bytes of a tensor stored beside the model: only from a plain file inside the model's
    folder.
    """
    facts = {e.key: e.value for e in t.external_data}
    location = facts.get("location", "")
    if folder is None:
        refuse(
            who,
            f"external data {location!r}",
            "a model that is loaded from a path",
            "pass the path of the .onnx file",
        )
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, location))
    if (
        not location
        or os.path.isabs(location)
        or os.path.commonpath([root, path]) != root
        or path == root
    ):
        refuse(
            who,
            f"external data {location!r}",
            "a file inside the model's folder",
            "do not trust this model",
        )
    if not os.path.isfile(path):
        refuse(
            who,
            f"no file {location!r}",
            "the external data beside the model",
            "copy that file into the model's folder",
        )
    try:
        offset = int(facts.get("offset", 0))
        length = int(facts.get("length", size))
    except ValueError:
        refuse(who, f"external data {facts}", "offset and length to be whole numbers")
    have = os.path.getsize(path)
    if length != size or offset < 0 or offset + size > have:
        refuse(
            who,
            f"external data of {length} bytes at {offset} of {location!r} ({have} bytes)",
            f"{size} bytes within the file",
            "the file is cut short or belongs to another model: copy it again",
        )
    return np.fromfile(path, np.uint8, count=size, offset=offset)


def dense_of(t: onnx.SparseTensorProto, folder: str | None) -> tuple[np.ndarray, str]:
    """(array, wnn dtype) of a sparse tensor."""
    who = f"sparse initializer {t.values.name!r}"
    values, dtype = array_of(t.values, folder, who)
    indices, index_dtype = array_of(t.indices, folder, who)
    shape = tuple(t.dims)
    count = math.prod(shape)
    if (
        dtype in ("str", "obj")
        or index_dtype != "i64"
        or values.ndim != 1
        or any(d < 0 for d in shape)
    ):
        refuse(
            who,
            f"{dtype}{values.shape} values and {index_dtype} indices for shape {shape}",
            "a list of numbers with int64 indices",
        )
    if count * dtypes.ITEMSIZE[dtype] > MAX_SPARSE_BYTES:
        refuse(
            who, f"shape {shape}", f"at most {MAX_SPARSE_BYTES} bytes when dense", "store it dense"
        )
    limit = np.array(shape or (1,))
    if indices.shape == (values.size, len(shape)):
        if ((indices < 0) | (indices >= limit)).any():
            refuse(who, "an index outside the tensor", f"indices below {shape}")
        flat = np.ravel_multi_index(tuple(indices.T), shape) if shape else indices[:, 0]
    elif indices.shape == (values.size,):
        flat = indices
        if ((flat < 0) | (flat >= count)).any():
            refuse(who, "an index outside the tensor", f"indices in [0, {count - 1}]")
    else:
        refuse(
            who,
            f"indices of shape {indices.shape} for {values.size} values",
            f"({values.size},) or ({values.size}, {len(shape)})",
        )
    out = np.zeros(count, values.dtype)
    out[flat] = values
    return out.reshape(shape), dtype


def spec_of(tp: onnx.TypeProto, dim, who: str) -> Spec | None:
    """The spec a declared type gives; None where the rank is open. dim(d, axis) -> length or
    symbol.
    """
    kind = tp.WhichOneof("value")
    if kind is None:
        return None
    if kind == "optional_type":
        return None
    if kind != "tensor_type":
        return Spec((), "obj")
    tensor = tp.tensor_type
    dtype = dtype_of(tensor.elem_type, who)
    if not tensor.HasField("shape"):
        return None
    return Spec([dim(d, i) for i, d in enumerate(tensor.shape.dim)], dtype)


def element_of(tp: onnx.TypeProto) -> str | None:
    """The dtype that a declared type tells; "obj" of what is no tensor, None where nothing is
    told.
    """
    kind = tp.WhichOneof("value")
    if kind in (None, "optional_type"):
        return None
    return dtypes.NAME.get(tp.tensor_type.elem_type) if kind == "tensor_type" else "obj"


def type_of(spec: Spec, names: dict) -> onnx.TypeProto | None:
    """The ONNX type of a spec, for the onnx package's own inference; symbols get names, noted in
    `names`.
    """
    if spec.dtype == "obj":
        return None
    dims = []
    for d in spec.shape:
        if not isinstance(d, int):
            text = f"s{len(names)}"
            d = next((k for k, v in names.items() if v == d), text)
            names.setdefault(d, spec.shape[len(dims)])
        dims.append(d)
    return onnx.helper.make_tensor_type_proto(dtypes.CODE[spec.dtype], dims)


# -- attributes and nodes
def value_of(a: onnx.AttributeProto, folder: str | None, who: str) -> Any:
    """An attribute's value in Python's terms."""
    simple = {A.INT: "i", A.FLOAT: "f", A.INTS: "ints", A.FLOATS: "floats"}
    if a.type in simple:
        value = getattr(a, simple[a.type])
        return list(value) if a.type in (A.INTS, A.FLOATS) else value
    if a.type == A.STRING:
        return a.s.decode("utf-8", "surrogateescape")
    if a.type == A.STRINGS:
        return [s.decode("utf-8", "surrogateescape") for s in a.strings]
    if a.type == A.TENSOR:
        return array_of(a.t, folder, f"attribute {a.name!r} of {who}")[0]
    if a.type == A.TENSORS:
        return [array_of(t, folder, who)[0] for t in a.tensors]
    if a.type == A.SPARSE_TENSOR:
        return dense_of(a.sparse_tensor, folder)[0]
    return refuse(
        who,
        f"attribute {a.name!r} of type {a.type}",
        "a number, a string, a tensor or a list of these",
    )


def declared(tp: onnx.TypeProto) -> list | None:
    """[dtype, shape] that a body's output is declared to have, free axes as 0; None where it is
    open.
    """
    if tp.WhichOneof("value") == "tensor_type" and not tp.tensor_type.elem_type:
        return None
    spec = spec_of(tp, lambda d, _: d.dim_value, "body output")
    return None if spec is None else [spec.dtype, list(spec.shape)]


def resolved(proto: onnx.NodeProto, attrs: dict | None) -> onnx.NodeProto:
    """The node with attributes that refer to a function's filled in; those that the call does not
    give are left out.
    """
    proto_attrs = proto.attribute
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    if domain == proto.domain and not any(a.ref_attr_name for a in proto_attrs):
        return proto
    new = onnx.NodeProto()
    new.CopyFrom(proto)
    new.domain = domain
    del new.attribute[:]
    for a in proto_attrs:
        if not a.ref_attr_name:
            new.attribute.add().CopyFrom(a)
        elif attrs and a.ref_attr_name in attrs:
            b = new.attribute.add()
            b.CopyFrom(attrs[a.ref_attr_name])
            b.name = a.name
    return new


def without(proto: onnx.NodeProto, absent: set[str]) -> onnx.NodeProto:
    """The node with inputs that the call leaves out written as absent."""
    if not absent.intersection(proto.input):
        return proto
    new = onnx.NodeProto()
    new.CopyFrom(proto)
    new.input[:] = ["" if n in absent else n for n in proto.input]
    return new


def outer_names(proto: onnx.NodeProto) -> list[str]:
    """All names a node reads: its inputs, and what its bodies take from outside."""
    names = [n for n in proto.input if n]
    for a in proto.attribute:
        for g in [a.g] if a.type == A.GRAPH else a.graphs:
            inner = (
                {v.name for v in g.input}
                | {t.name for t in g.initializer}
                | {t.values.name for t in g.sparse_initializer}
            )
            inner |= {o for n in g.node for o in n.output}
            names += [n for m in g.node for n in outer_names(m) if n not in inner]
            names += [v.name for v in g.output if v.name not in inner]
    return names


def ordered(protos, known) -> list[onnx.NodeProto]:
    """The nodes, sorted so that each follows what it reads; as they are where they are sorted
    already.
    """
    protos = list(protos)
    needs = [outer_names(p) for p in protos]
    made: set[str] = set()
    in_order = True
    for p, need in zip(protos, needs, strict=True):
        in_order = in_order and all(n in made or known(n) for n in need)
        made.update(p.output)
    if in_order:
        return protos
    maker = {o: i for i, p in enumerate(protos) for o in p.output if o}
    for p, need in zip(protos, needs):
        for n in need:
            if n not in maker and not known(n):
                refuse(
                    p.name or p.op_type,
                    f"input {n!r} that nothing defines",
                    "an input, an initializer or a node's output",
                )
    waiting = [len({maker[n] for n in need if n in maker and not known(n)}) for need in needs]
    users: dict[int, set[int]] = {}
    for i, need in enumerate(needs):
        for n in need:
            if n in maker and not known(n):
                users.setdefault(maker[n], set()).add(i)
    ready = [i for i, w in enumerate(waiting) if w == 0]
    for i in ready:
        for u in sorted(users.get(i, ())):
            waiting[u] -= 1
            if waiting[u] == 0:
                ready.append(u)
    if len(ready) != len(protos):
        left = [p.name or p.op_type for p, w in zip(protos, waiting) if w][:3]
        refuse(
            "importer", f"a cycle through {left}", "nodes that do not depend on their own outputs"
        )
    return [protos[i] for i in ready]
