"""The .wnnx file, version 0: a graph after all passes and its weights, mapped and used in place.

This docstring is the specification. Version 0 may change until it is released as 1.

Container. A .wnnx file is a valid safetensors file (https://github.com/huggingface/safetensors):
    u64     n, little-endian
    n bytes JSON object, padded with spaces so that 8 + n is a multiple of 64
    tensors one after another, no holes; each is flat, and zero-padded to a multiple of 64 bytes
A tensor's entry {"dtype", "shape": [elements with padding], "data_offsets": [begin, end]} counts
offsets from the end of the header. Tensors therefore lie at multiples of 64 bytes of the file.
c64 and c128 are stored as pairs of F32 and F64, text as U8 (a JSON list of strings); a packed
constant is stored as its F32 panels.

Header. The JSON starts with exactly
    {"__metadata__":{"format":"wnnx","version":"0","checksum":"<64 hex digits>"
Further members of __metadata__ (all strings, as safetensors demands):
    producer    who wrote the file, "wnn 0.1.0"
    packages    JSON list of {"domain", "package", "version"}: the op packages that the graph
                needs; version is a range such as ">=0.1,<0.2"
    graph       JSON of the graph, below
checksum is the SHA-256 of the n bytes of JSON with the digits of the checksum as zeros, followed by
one u64 (little-endian) for each started 4096 bytes of tensor data: the sum, modulo 2**64, of their
little-endian u64 words.

Graph. {"name", "inputs", "constants", "nodes", "outputs", "output_names", "meta"}. Values are
numbered from 0: inputs, then constants, then the outputs of each node in turn; "outputs" and a
node's "in" hold these numbers, null for an input that is absent. Nodes are in a valid order.
    input, output of a node   [name, dtype, [axes]], or [name] where nothing is known
    axis                      a whole number, or {"sym": [[factor, atom...], ...]}: a sum of
                              products; an atom is a symbol's name or [kind, a, b] with kind
                              "//", "%", "min" or "max"
    constant                  {"name", "tensor", "dtype", "shape"}; where packed, also {"layout":
                              "panel16", "groups"}: the leading `groups` axes number matrices
                              (K, N), N being the last axis, each stored as [ceil(N/16)][K][16]
                              and zero-padded
    node                      {"op", "name": of the source node, "in", "out", "attrs"}
    attribute                 null, bool, number, text; a list is a tuple; else an object with one
                              member: "list", "dict" (pairs), "sym", "bytes" (base64), "float"
                              ("inf", "-inf", "nan"), "graph", or "array": [tensor, dtype, shape]
    dtype                     a short name of wnn.dtypes
    meta                      of the source: "producer_name", "description", "custom", ...
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import stat
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from . import dtypes, graph_json
from .errors import MissingOperatorError, ModelError, PluginError, UnsupportedError, WnnError
from .graph import Graph
from .graph_json import Damaged, items, member, text, whole

VERSION = 0
ALIGN = 64
PAGE = 4096
MAX_HEADER_BYTES = 64 << 20
_HEAD = b'{"__metadata__":{"format":"wnnx","version":"'
_DIGITS_AT = 8 + len(_HEAD) + len(b'0","checksum":"')
# our dtype: (safetensors dtype, numbers per element)
_STORED = {
    "f32": ("F32", 1), "f64": ("F64", 1), "f16": ("F16", 1), "bf16": ("BF16", 1),
    "i8": ("I8", 1), "u8": ("U8", 1), "i16": ("I16", 1), "u16": ("U16", 1),
    "i32": ("I32", 1), "u32": ("U32", 1), "i64": ("I64", 1), "u64": ("U64", 1),
    "bool": ("BOOL", 1), "str": ("U8", 1), "c64": ("F32", 2), "c128": ("F64", 2),
    **{name: ("I8" if name[0] == "i" else "U8", 1) for name in dtypes.SMALL},
}  # fmt: skip


def sniff(head: bytes) -> bool:
    """Whether a file that starts so is a .wnnx file."""
    return head[8 : 8 + len(_HEAD)] == _HEAD


def is_wnnx(path: str) -> bool:
    """Whether a file is named, or starts, as a .wnnx file; ModelError where none can be read."""
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
        reason = "" if regular else "no regular file"
        if regular:
            with open(path, "rb") as f:
                return path.lower().endswith(".wnnx") or sniff(f.read(8 + len(_HEAD)))
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or str(e)
    raise ModelError(
        f"[load] found no file to read at {path:.200} ({reason}); expected a .wnnx or .onnx model; "
        "check the path"
    )


# -- writing ---------------------------------------------------------------------------------------
def save(graph: Graph, path: str | os.PathLike) -> None:
    """Writes a graph that all passes have seen. The file appears whole or not at all."""
    if not isinstance(graph, Graph):
        raise ModelError(
            f"[wnnx] found {type(graph).__name__}; expected a wnn.graph.Graph; pass model.graph"
        )
    pieces = _pieces(graph)
    path = _path(path)
    if os.path.lexists(path) and not _replaceable(path):
        raise ModelError(
            f"[wnnx] found at {path} what is no .wnnx file; expected a new path, or such a file to "
            "replace; choose another path"
        )
    temporary = f"{path}.{os.urandom(6).hex()}.tmp"  # a process's number may come again
    try:
        with open(temporary, "x+b") as f:
            f.writelines(pieces)
            f.flush()
            with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
                digits = _checksum(m)
            f.seek(_DIGITS_AT)
            f.write(digits)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException as e:
        if os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(e, (OSError, ValueError)):  # the latter of a name with a zero byte
            raise ModelError(
                f"[wnnx] found that {path} cannot be written ({e}); "
                "expected a writable place with enough room; choose another path"
            ) from e
        raise


def _path(path: Any) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise ModelError(
            f"[wnnx] found {type(path).__name__}; expected the path of a .wnnx file; pass one"
        )
    return os.fsdecode(path)


def dumps(graph: Graph) -> bytes:
    """What `save` writes."""
    data = bytearray().join(_pieces(graph))
    data[_DIGITS_AT : _DIGITS_AT + 64] = _checksum(data)
    return bytes(data)


def _pieces(graph: Graph) -> list[bytes | memoryview]:
    """The file's bytes in order, with zeros for the checksum."""
    from . import __version__

    tensors = _Tensors()
    body = graph_json.encode(graph, tensors.store)
    metadata = {
        "format": "wnnx",
        "version": str(VERSION),
        "checksum": "0" * 64,
        "producer": f"wnn {__version__}",
        "packages": _dump(_packages(graph)),
        "graph": _dump(body),
    }
    head = _dump({"__metadata__": metadata, **tensors.entries}).encode()
    head += b" " * (-(8 + len(head)) % ALIGN)
    if len(head) > MAX_HEADER_BYTES:
        raise UnsupportedError(
            f"[wnnx] found a graph of {len(head)} bytes of JSON; "
            f"expected at most {MAX_HEADER_BYTES}; split the model"
        )
    pieces: list[bytes | memoryview] = [struct.pack("<Q", len(head)), head]
    for array in tensors.arrays:
        pieces += [array.data, b"\0" * (-array.nbytes % ALIGN)]
    return pieces


def _replaceable(path: str) -> bool:
    """Whether what lies there is an empty file or one of ours."""
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as f:
            head = f.read(8 + len(_HEAD))
        return not head or sniff(head)
    except OSError:
        return False


def _dump(obj: Any) -> str:
    return json.dumps(obj, separators=(",", ":"), allow_nan=False)


class _Tensors:
    """Collects arrays for the file; one array is stored once."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self.entries: dict[str, dict] = {}
        self._names: dict[int, str] = {}
        self._keep: list[np.ndarray] = []
        self._end = 0

    def store(self, array: np.ndarray, dtype: str, hint: str) -> str:
        if id(array) in self._names:
            return self._names[id(array)]
        if dtype not in _STORED:
            raise UnsupportedError(
                f"[wnnx] found a constant {hint!r} of dtype {dtype}; "
                f"expected one of {sorted(_STORED)}; run the ONNX file as it is"
            )
        flat = (
            _text_bytes(array)
            if dtype == "str"
            else np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        )
        name = hint or "tensor"
        n = 1
        while name in self.entries or name == "__metadata__":
            n += 1
            name = f"{hint}#{n}"
        stored, per = _STORED[dtype]
        size = flat.nbytes + -flat.nbytes % ALIGN
        itemsize = dtypes.ITEMSIZE[dtype] // per if dtype != "str" else 1
        self.entries[name] = {
            "dtype": stored,
            "shape": [size // itemsize],
            "data_offsets": [self._end, self._end + size],
        }
        self._end += size
        self.arrays.append(flat)
        self._keep.append(array)  # so that its id stays its own
        self._names[id(array)] = name
        return name


def _text_bytes(array: np.ndarray) -> np.ndarray:
    words = [
        x.decode("utf-8", "surrogateescape") if isinstance(x, bytes) else str(x)
        for x in array.reshape(-1)
    ]
    return np.frombuffer(json.dumps(words).encode(), np.uint8)


def _packages(graph: Graph) -> list[dict[str, str]]:
    from . import plugins

    rows = []
    for domain in sorted(_domains(graph) - {"", "onnx"}):  # "onnx:..." is the slow fallback
        p = plugins.summon_domain(domain)
        major, minor, *_ = (*plugins.numbers(p.version), 0, 0)
        limit = f"{major + 1}" if major else f"0.{minor + 1}"
        rows.append({"domain": domain, "package": p.who, "version": f">={major}.{minor},<{limit}"})
    return rows


def _domains(graph: Graph) -> set[str]:
    found = set()
    for node in graph.nodes:
        found.add(node.op.domain)
        for a in node.attrs.values():
            for body in a if isinstance(a, tuple) else (a,):
                if isinstance(body, Graph):
                    found |= _domains(body)
    return found


def _checksum(data: mmap.mmap | bytearray) -> bytes:
    """The 64 digits that belong into a file."""
    at, (n,) = _DIGITS_AT, struct.unpack("<Q", data[:8])
    digest = hashlib.sha256(data[8:at])
    digest.update(b"0" * 64)
    digest.update(data[at + 64 : 8 + n])
    words = np.frombuffer(data, "<u8", offset=8 + n)
    whole_pages = words.size * 8 // PAGE
    split = whole_pages * (PAGE // 8)
    digest.update(
        np.add.reduce(
            words[:split].reshape(whole_pages, PAGE // 8), axis=1, dtype=np.uint64
        ).astype("<u8")
    )
    if split < words.size:
        digest.update(np.add.reduce(words[split:], dtype=np.uint64).astype("<u8"))
    return digest.hexdigest().encode()


# -- reading ---------------------------------------------------------------------------------------
def load(path: str | os.PathLike, verify: bool = True) -> Graph:
    """Maps a file and returns its graph, whose constants are read-only windows on the mapping.

    verify=False skips the checksum (which reads the whole file once); all else is always checked.
    Raises ModelError for a damaged file, UnsupportedError for another version,
    MissingOperatorError for operators that no installed package provides.
    """
    path = _path(path)
    return _graph(lambda: _map(path), path, verify)


def loads(data: bytes) -> Graph:
    """The graph of what `dumps` gave."""

    def copy() -> mmap.mmap:  # for the alignment
        memory = mmap.mmap(-1, len(data))
        memory.write(data)
        return memory

    return _graph(copy, "in memory", True)


def _graph(open_: Callable[[], mmap.mmap], where: str, verify: bool) -> Graph:
    try:
        file = _File(open_(), verify)
        file.summon()
        return graph_json.decode(file.graph, file.fetch)
    except (MissingOperatorError, PluginError, UnsupportedError):
        raise
    except (Damaged, WnnError) as e:
        raise ModelError(f"[wnnx] {where}: {e}; convert the model again") from None
    except (
        Exception,
        RecursionError,
    ) as e:  # what a hostile attribute makes of an operator's rule is not foreseeable
        raise ModelError(
            f"[wnnx] {where}: found contents that make no sense ({type(e).__name__}: {e!s:.200}); "
            "expected a file written by wnn; convert the model again"
        ) from e


def metadata(path: str | os.PathLike) -> dict[str, str]:
    """Version, producer, packages and checksum of a file, as they stand in it."""
    path = _path(path)
    try:
        return {k: v for k, v in _File(_map(path), False).metadata.items() if k != "graph"}
    except (Damaged, ValueError, RecursionError) as e:
        raise ModelError(f"[wnnx] {path}: {e}; convert the model again") from None


def _map(path: str) -> mmap.mmap:
    try:
        with open(path, "rb") as f:
            info = os.fstat(f.fileno())
            if not stat.S_ISREG(info.st_mode) or info.st_size < _DIGITS_AT + 64:
                raise Damaged(
                    f"{info.st_size} bytes", f"a regular file of at least {_DIGITS_AT + 64}"
                )
            return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as e:
        raise ModelError(
            f"[wnnx] found no readable file {path} ({e.strerror}); "
            "expected a .wnnx file; correct the path"
        ) from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise Damaged("a JSON object with a member twice", "each member once")
    return out


class _File:
    """The container: header and tensor table, checked."""

    def __init__(self, data: mmap.mmap, verify: bool) -> None:
        self.data = np.frombuffer(data, np.uint8)
        self.data.flags.writeable = False
        (n,) = struct.unpack("<Q", data[:8])
        if not sniff(data[: 8 + len(_HEAD)]):
            raise Damaged(f"a start {data[8:40]!r}", "that of a .wnnx file")
        version = data[8 + len(_HEAD) : 8 + len(_HEAD) + 2]
        if version != b'0"':
            raise UnsupportedError(
                f"[wnnx] found format version {version!r}; expected {VERSION}; "
                "update wnn, or convert the model again"
            )
        if (
            not _DIGITS_AT + 64 <= 8 + n <= len(data)
            or (8 + n) % ALIGN
            or n > MAX_HEADER_BYTES
            or len(data) % ALIGN
        ):
            raise Damaged(
                f"a header of {n} bytes in a file of {len(data)}",
                f"multiples of {ALIGN} within the file and below {MAX_HEADER_BYTES}",
            )
        if verify and (got := _checksum(data)) != data[_DIGITS_AT : _DIGITS_AT + 64]:
            raise Damaged(
                f"contents with the checksum {got.decode()[:12]}...",
                f"{data[_DIGITS_AT : _DIGITS_AT + 12]!r}... (a damaged copy)",
            )
        self.begin = 8 + n
        header = json.loads(data[8 : 8 + n], object_pairs_hook=_no_duplicates)
        self.metadata = header.pop("__metadata__")
        for k, v in self.metadata.items():
            text(v, f"metadata {k!r}")
        self.tensors = {name: self._entry(name, row) for name, row in header.items()}
        self._check_holes()
        self.graph = json.loads(
            member(self.metadata, "graph", str), object_pairs_hook=_no_duplicates
        )

    def _entry(self, name: str, row: Any) -> tuple[str, int, int]:
        room = self.data.size - self.begin
        begin, end = items(member(row, "data_offsets", list), f"offsets of {name!r}", 2)
        begin, end = (
            whole(begin, f"begin of {name!r}", 0, room),
            whole(end, f"end of {name!r}", 0, room),
        )
        if begin > end or begin % ALIGN or end % ALIGN:
            raise Damaged(f"tensor {name!r} at [{begin}, {end}]", f"multiples of {ALIGN} in order")
        return member(row, "dtype", str), begin, end

    def _check_holes(self) -> None:
        at = 0
        for _, begin, end in sorted(self.tensors.values(), key=lambda t: t[1:]):
            if begin != at:
                raise Damaged(f"a tensor at {begin}", f"it at {at}, without holes or overlaps")
            at = end
        if at != self.data.size - self.begin:
            raise Damaged(f"tensors of {at} bytes", f"the file's {self.data.size - self.begin}")

    def fetch(self, name: str, dtype: str, count: int) -> np.ndarray:
        """A flat read-only window on a tensor's first `count` elements."""
        stored = _STORED.get(dtype, ("none",))[0]
        if name not in self.tensors or self.tensors[name][0] != stored:
            raise Damaged(f"tensor {name!r} for {dtype}", f"a stored tensor of dtype {stored}")
        _, begin, end = self.tensors[name]
        raw = self.data[self.begin + begin : self.begin + end]
        if dtype == "str":
            return _words(raw, count)
        size = count * dtypes.ITEMSIZE[dtype]
        if size + -size % ALIGN != end - begin:
            raise Damaged(
                f"{end - begin} bytes in tensor {name!r}",
                f"{size} and padding for {count} elements of {dtype}",
            )
        if dtype == "bool" and size and raw[:size].max() > 1:
            raise Damaged(f"a byte {raw[:size].max()} in tensor {name!r}", "0 or 1 in a bool")
        return raw[:size].view(dtypes.NUMPY[dtype])

    def summon(self) -> None:
        """Registers the operators of wnn and those of the packages that the file names."""
        from . import plugins

        plugins.ensure_std()
        for row in items(json.loads(member(self.metadata, "packages", str)), "packages"):
            domain, version = member(row, "domain", str), member(row, "version", str)
            if not re.fullmatch(r"[a-z0-9._-]{1,100}", domain):
                raise Damaged(f"domain {domain!r:.80}", "small letters, digits, dots and dashes")
            low, _, high = version.partition(",<")
            p = plugins.summon_domain(domain, low.removeprefix(">="))
            if high and p.version and plugins.numbers(p.version) >= plugins.numbers(high):
                raise PluginError(
                    f"[{domain}] found {p.who} {p.version}; expected {version}; "
                    f"pip install '{p.who}{version}', or convert the model again"
                )


def _words(raw: np.ndarray, count: int) -> np.ndarray:
    words = items(json.loads(raw.tobytes().rstrip(b"\0")), "text tensor", count)
    out = np.empty(count, object)
    out[:] = [text(w, "string") for w in words]
    return out
