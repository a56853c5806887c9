"""`wnn plugin new`: a working op package to start from."""

from __future__ import annotations

import keyword
import re
import shutil
from pathlib import Path

from .errors import WnnError

TEMPLATE = Path(__file__).with_suffix("")
RUNTIME = Path(__file__).with_name("runtime")
HEADERS = ("wnn_abi.h", "simd.h", "vecmath.h")


def write_package(name: str, into: Path) -> Path:
    """Writes wnn-contrib-NAME into a folder of that name below `into`; returns it.

    The package has one operator with its whole record, a kernel for every instruction set, a
    pattern, and tests; it installs as it is. Raises WnnError for a name that is no module name, a
    folder that exists or one that cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise WnnError(
            f"[plugin new] found the name {name!r}; expected a module name (small letters, digits, "
            "_; no keyword); choose another"
        )
    dashed = name.replace("_", "-")
    folder = into / f"wnn-contrib-{dashed}"
    if folder.exists():
        raise WnnError(
            f"[plugin new] found {str(folder)!r} already there; expected no such folder; move it "
            "away or choose another name"
        )
    try:
        _fill(folder, name, dashed)
    except OSError as e:
        raise WnnError(
            f"[plugin new] found that {str(folder)!r} cannot be written ({e.strerror}); expected a "
            "folder with room in which you may write; choose another with --into"
        ) from None
    return folder


def _fill(folder: Path, name: str, dashed: str) -> None:
    for source in sorted(TEMPLATE.rglob("*.in")):
        target = folder / str(source.relative_to(TEMPLATE)).removesuffix(".in").replace(
            "{{name}}", name
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(
            source.read_text().replace("{{name}}", name).replace("{{dashed}}", dashed)
        )
    (folder / "include").mkdir()
    for header in HEADERS:
        shutil.copy(RUNTIME / header, folder / "include" / header)
