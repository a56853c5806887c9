"""Models of sessions, with the converted ones kept in a folder if so wanted."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

from ..errors import WnnError
from ..forward import NNForward

PACKAGE = Path(__file__).parent.parent


def load(source: str | bytes, num_threads: int | None, folder: str | None = None) -> NNForward:
    """The model of a file, or of the bytes of an ONNX model.

    folder: where converted models are kept. One that is there is mapped, and nothing of ONNX is
    imported; else it is written. Models with data in other files are not kept.
    """
    model = NNForward(num_threads=num_threads)
    converted = isinstance(source, str) and source.endswith(".wnnx")
    if not folder or converted or _has_other_files(source):
        return _load(model, source)
    kept = Path(folder) / f"{_key(source)}.wnnx"
    if kept.exists():
        try:
            return model.load_from_file(kept)
        except WnnError as e:
            warnings.warn(f"[wnn.ort] {e}; it is made again", stacklevel=2)
    _load(model, source)
    try:
        _keep(model, kept)
    except (OSError, WnnError) as e:
        warnings.warn(f"[wnn.ort] {kept} could not be written ({e})", stacklevel=2)
    return model


def _load(model: NNForward, source: str | bytes) -> NNForward:
    return (model.load_from_proto if isinstance(source, bytes) else model.load_from_file)(source)


def _keep(model: NNForward, path: Path) -> None:
    """Writes the file whole or not at all, whoever else does the same."""
    from .. import wnnx

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as own:
        made = Path(own) / path.name
        wnnx.save(model.graph, made)
        os.replace(made, path)


def _key(source: str | bytes) -> str:
    """A name that changes with the model, wnn and the installed op packages."""
    digest = hashlib.sha256(repr(_versions()).encode())
    if isinstance(source, bytes):
        digest.update(source)
        return digest.hexdigest()
    with open(source, "rb") as f:
        return hashlib.file_digest(f, lambda: digest).hexdigest()


def _versions() -> list[Any]:
    from .. import __version__, wnnx
    from ..plugins import summon_plugins

    packages = sorted((p.name, p.version) for p in summon_plugins().active)
    files = [p.stat().st_mtime_ns for k in ("*.py", "*.so") for p in PACKAGE.rglob(k)]
    passes = os.environ.get("WNN_SKIP_PASSES", "")
    return [__version__, wnnx.VERSION, max(files), packages, passes]


def _has_other_files(source: str | bytes) -> bool:
    """Whether a model may name files beside it: their names stand under the key "location"."""
    if isinstance(source, bytes):
        return b"\x0a\x08location" in source
    import mmap

    with open(source, "rb") as f:
        if not os.fstat(f.fileno()).st_size:
            return False
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
            return m.find(b"\x0a\x08location") >= 0
