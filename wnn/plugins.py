"""Op packages: found by entry point, registered through pluggy, opened when one of their kernels is
first wanted.

A package is a module with hook implementations (see docs/plugins.md), an entry point in group `wnn`
named after the operator domain it provides, and `register(__name__)` as its last line, so that
importing it is enough. The standard operators (`wnn.ops_std`) come through the same hooks.

Environment: WNN_NO_PLUGINS=1 uses no package; WNN_DISABLE_PLUGINS=a,b leaves these out.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pluggy

from . import libraries
from .errors import MissingOperatorError, PluginError
from .op import Op
from .packages import Package, Report
from .pattern import DIALECT, Fusion
from .registry import REGISTRY, missing_operator

GROUP = "wnn"
STANDARD = "wnn.ops_std"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Hooks:
    """The hooks of an op package. Every one but wnn_operators may be left out."""

    @hookspec
    def wnn_operators(self) -> list[Op]:
        """The package's operators, all in domains of its own ("contrib.vit:packed_attention")."""

    @hookspec(firstresult=True)
    def wnn_native(self) -> str:
        """Path of the shared library with the kernels; it is opened when one of them is first
        wanted.
        """

    @hookspec(firstresult=True)
    def wnn_dialect(self) -> int:
        """Version of the graph dialect (docs/dialect.md) that the package's patterns were written
        for.
        """


class PluginWarning(UserWarning):
    """An op package cannot be used, or a name to leave out is no package's; all else can be."""


# held for changes of the state below, never while foreign code is imported or called
_lock = threading.RLock()
_manager = pluggy.PluginManager(GROUP)
_manager.add_hookspecs(Hooks)
_packages: dict[str, Package] = {}  # by module
_entries: list | None = None
_warned: set[str] = set()


# -- registering -----------------------------------------------------------------------------------
def register(module: str) -> None:
    """Registers an imported module that holds hook implementations; once, however often it is
    called.

    The last line of a package is `register(__name__)`. Raises PluginError for what cannot be
    accepted.
    """
    with _lock:
        if module in _packages and _packages[module].state != "broken":
            return
    started = time.perf_counter()
    plugin = sys.modules[module]
    operators, library, dialect = _ask(plugin)
    p = Package(
        name=next((op.domain for op in operators), "") or "wnn",
        module=module,
        version=getattr(plugin, "__version__", ""),
        operators=operators,
        library=library or "",
        dialect=DIALECT if dialect is None else dialect,
    )
    with _lock:
        if module in _packages and _packages[module].state != "broken":
            return
        _claim(p)
        added: list[Op] = []
        try:
            for op in operators:
                REGISTRY.add(op, module)
                added.append(op)
        except PluginError:
            for op in added:
                REGISTRY.remove(op)
            raise
        _manager.register(plugin, name=module)
        p.load_ms = (time.perf_counter() - started) * 1e3
        _packages[module] = p


def _ask(plugin: Any) -> tuple[list[Op], str | None, int | None]:
    """The answers of one module's hooks, by a manager that knows no other."""
    alone = pluggy.PluginManager(GROUP)
    alone.add_hookspecs(Hooks)
    alone.register(plugin)
    try:
        alone.check_pending()
    except pluggy.PluginValidationError as e:
        raise PluginError(
            f"[{plugin.__name__}] {e}; rename it to one of the hooks in docs/plugins.md"
        ) from None
    operators = [op for answer in alone.hook.wnn_operators() for op in answer]
    if not operators:
        raise PluginError(
            f"[{plugin.__name__}] found no operators; expected a hook wnn_operators that returns "
            "some; see docs/plugins.md"
        )
    return operators, alone.hook.wnn_native(), alone.hook.wnn_dialect()


def _claim(p: Package) -> None:
    """PluginError where a domain of the package is missing or another package's."""
    if p.module == STANDARD:
        return
    for op in p.operators:
        if not op.domain:
            raise PluginError(
                f"[{p.module}] found operator {op.name!r}; expected a name with a domain "
                f"('contrib.name:{op.name}'); rename it"
            )
        for other in _packages.values():
            if other.state != "broken" and op.domain in other.domains:
                raise PluginError(
                    f"[{op.domain}] both {other.module} and {p.module} provide operators of this "
                    "domain; "
                    f"pip uninstall one of them ({other.who} is in use)"
                )


def ensure_std() -> None:
    """Registers the standard operators; scans nothing."""
    if STANDARD not in _packages:
        importlib.import_module(STANDARD)
        with _lock:
            p = _packages[STANDARD]
            p.distribution, p.version = "wnn", importlib.import_module("wnn").__version__


# -- finding ---------------------------------------------------------------------------------------
def summon_plugins(strict: bool = False, block: Iterable[str] = (), native: bool = False) -> Report:
    """Finds every installed op package, registers it, and returns a printable report. Idempotent
    and thread-safe.

    strict: a broken package raises PluginError (else: one PluginWarning, and the others go on).
    block: names of packages to leave out, as domain, distribution, module or its last word; so does
    the environment variable WNN_DISABLE_PLUGINS=a,b, and WNN_NO_PLUGINS=1 leaves out all. One
    PluginWarning for a name that is no package's.
    native: opens the shared libraries at once, so that the report shows their ABI and what is wrong
    with them.
    """
    ensure_std()
    names = _unwanted(block)
    blocked = _blocked(names)
    for entry in _scan():
        if not blocked(_unloaded(entry)):
            _load(entry)
    if native:
        for p in list(_packages.values()):
            if p.library and p.state == "ready" and not blocked(p):
                _try_open(p)
    report = Report(_rows(blocked))
    _warn_of_unknown(names, report)
    if strict and report.broken:
        raise PluginError("\n".join(p.says for p in report.broken))
    return report


def summon_domain(domain: str, at_least: str = "") -> Package:
    """Registers the package that provides a domain, without importing any other.

    MissingOperatorError where none is installed; PluginError where it is broken, blocked or older
    than `at_least`.
    """
    ensure_std()
    blocked = _blocked(_unwanted(()))
    p = _providing(domain)
    if p is None and not blocked(Package(domain, "")):
        entries = [e for e in _scan() if e.name == domain]
        if not entries:
            raise missing_operator([(f"{domain}:*", "", "")])
        p = _load(entries[0])
    if p is None or blocked(p):
        raise PluginError(
            f"[{domain}] the package is blocked by the environment; unset WNN_NO_PLUGINS and "
            "WNN_DISABLE_PLUGINS"
        )
    if p.state == "broken":
        raise PluginError(p.says)
    if at_least and numbers(p.version) < numbers(at_least):
        raise PluginError(
            f"[{domain}] found {p.who} {p.version}; expected {at_least} or later; pip install -U "
            f"{p.who}"
        )
    return p


def _providing(domain: str) -> Package | None:
    return next(
        (p for p in list(_packages.values()) if p.state != "broken" and domain in p.domains), None
    )


def _scan() -> list:
    """The entry points of group `wnn`, read once."""
    global _entries
    if _no_plugins():
        return []
    if _entries is None:
        from importlib.metadata import entry_points

        found = sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value))
        _entries = [e for e in dict.fromkeys(found) if e.module != STANDARD]
    return _entries


def _unloaded(entry: Any) -> Package:
    dist = entry.dist
    return Package(
        entry.name, entry.module, dist.name if dist else "", dist.version if dist else ""
    )


def _load(entry: Any) -> Package:
    """Imports the module of an entry point, which registers it. What goes wrong becomes the
    package's state.
    """
    p = _packages.get(entry.module)
    if p is None:
        started = time.perf_counter()
        try:
            importlib.import_module(entry.module)
            register(entry.module)
        except Exception as e:  # whatever a package raises, the others go on
            _mark_broken(_unloaded(entry), e)
        with _lock:
            p = _packages[entry.module]
            p.load_ms = (time.perf_counter() - started) * 1e3
    if not p.distribution:
        installed = _unloaded(entry)
        p.distribution, p.version = installed.distribution, p.version or installed.version
    return p


def _mark_broken(p: Package, error: Exception) -> None:
    p.state = "broken"
    p.explain(error)
    with _lock:
        _packages.setdefault(p.module, p)
    _warn_once(p)


def _warn_once(p: Package) -> None:
    _warn(p.module, f"{p.says} (all other packages are in use)")


def _warn(about: str, text: str) -> None:
    """A PluginWarning, once about each module or name."""
    with _lock:
        if about in _warned:
            return
        _warned.add(about)
    warnings.warn(text, PluginWarning, stacklevel=4)


def _unwanted(block: Iterable[str]) -> list[str]:
    """The names of packages to leave out, with those of the environment."""
    names = [block] if isinstance(block, str) else list(block)
    told = os.environ.get("WNN_DISABLE_PLUGINS", "").split(",")
    return names + [n.strip() for n in told if n.strip()]


def _no_plugins() -> bool:
    return os.environ.get("WNN_NO_PLUGINS", "0") not in ("", "0")


def _blocked(names: list[str]) -> Callable[[Package], bool]:
    nothing = _no_plugins()
    return lambda p: p.module != STANDARD and (nothing or p.answers_to(names))


def _warn_of_unknown(names: list[str], report: Report) -> None:
    """One PluginWarning for each name that no installed package answers to."""
    known = [p for p in report.packages if p.module != STANDARD]
    for n in () if _no_plugins() else names:
        if not any(p.answers_to([n]) for p in known):
            _warn(
                n,
                f"[plugins] found no op package {n!r} to leave out; installed are "
                f"{_installed(report)}; correct the name in block or WNN_DISABLE_PLUGINS",
            )


def _installed(report: Report) -> str:
    return ", ".join(p.name for p in report.packages if p.module != STANDARD) or "none"


def _rows(blocked: Callable[[Package], bool]) -> list[Package]:
    """Copies of all packages, the standard operators first, with blocked ones so marked."""
    with _lock:
        known = dict(_packages)
    for entry in _scan():
        known.setdefault(entry.module, _unloaded(entry))
    rows = sorted(known.values(), key=lambda p: (p.module != STANDARD, p.name))
    return [replace(p, state="blocked") if blocked(p) else replace(p) for p in rows]


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "1.2.0rc1" is (1, 2, 0)."""
    out = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        out.append(int(digits))
    return tuple(out)


# -- what a model uses -----------------------------------------------------------------------------
def resolve(plugins: Any) -> list[Package]:
    """The packages that NNForward(plugins=...) consults, without the standard operators.

    plugins: "auto" (every installed one), None (none), summon_plugins or any function that returns
    a Report, a Report, or names of packages.
    """
    ensure_std()
    if plugins is None:
        return []
    if isinstance(plugins, str) and plugins == "auto":
        plugins = summon_plugins
    if callable(plugins):
        plugins = plugins()
    if isinstance(plugins, Report):
        return [p for p in plugins.active if p.module != STANDARD]
    names = [plugins] if isinstance(plugins, (str, ModuleType)) else plugins
    if not isinstance(names, (list, tuple, set, frozenset)):
        raise PluginError(
            f"[plugins] found {type(names).__name__}; expected summon_plugins, None, or a list of "
            "names; "
            "pass one of these"
        )
    names = [getattr(n, "__name__", n) for n in names]
    if wrong := [n for n in names if not isinstance(n, str)]:
        raise PluginError(
            f"[plugins] found {wrong[0]!r} among the names of packages; expected strings or "
            "modules; pass those"
        )
    report = summon_plugins()
    for n in names:
        found = [p for p in report.packages if p.answers_to([n])]
        if not found:
            raise MissingOperatorError(
                f"[plugins] found no op package {n!r}; installed are {_installed(report)}; pip "
                "install it, or correct the name"
            )
        if found[0].state in ("broken", "blocked"):
            raise PluginError(
                found[0].says
                if found[0].reason
                else f"[plugins] found {n!r} blocked; expected it to be free; unblock it, or "
                "leave it out of plugins"
            )
    return [p for p in report.active if p.module != STANDARD and p.answers_to(names)]


def left_out(packages: list[Package]) -> set[str]:
    """The domains of all other packages that are loaded."""
    known = {d for p in list(_packages.values()) for d in p.domains if d}
    return known - {d for p in packages for d in p.domains}


def fusions(packages: list[Package]) -> list[Fusion]:
    """The patterns of these packages, largest first.

    What matches opens the package's library, and is declined where that cannot be used.
    """

    def usable(f: Fusion, p: Package) -> Fusion:
        return replace(
            f, where=lambda m: (not p.library or _try_open(p)) and (f.where is None or f.where(m))
        )

    return sorted((usable(f, p) for p in packages for f in p.fusions), key=lambda f: -f.size)


# -- native kernels --------------------------------------------------------------------------------
def kernel_handle(op: Op, name: str) -> int:
    """The host's handle of a kernel of a package's operator; the library is opened if need be.

    0 where the package cannot give it: the operator then runs on its reference.
    """
    from .runtime import _core

    p = _providing(op.domain)
    if p is None or not p.library or not _try_open(p):
        return 0
    try:
        return _core.kernel(f"{op.domain}:{name}")
    except MissingOperatorError:
        p.state = "no kernels"
        p.explain(
            PluginError(
                f"[{p.who}] {p.library} has no kernel {name!r} for {op.name}; pip install -U "
                f"--force-reinstall {p.who}"
            )
        )
        _warn_once(p)
        return 0


def _try_open(p: Package) -> bool:
    """Opens a package's library; a failure costs one warning, and its operators run on their
    references.
    """
    p = _packages.get(p.module, p)
    try:
        libraries.open_library(p)
    except PluginError as e:
        p.state = "no kernels"
        p.explain(e)
        _warn_once(p)
        return False
    return True
