"""Shared libraries of op packages: each opened once, held against this host's ABI."""

from __future__ import annotations

import ctypes
import threading

from .errors import PluginError
from .packages import Package

_lock = threading.Lock()
_opened: dict[str, ctypes.CDLL | PluginError] = {}  # by path; a failure is kept


class PluginInfo(ctypes.Structure):
    """wnn_plugin_info of wnn_abi.h."""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("abi_major", ctypes.c_uint16),
        ("abi_minor", ctypes.c_uint16),
        ("host_minor", ctypes.c_uint16),
        ("reserved", ctypes.c_uint16),
    ]


def open_library(p: Package) -> None:
    """Opens the package's library and lets it register kernels; PluginError where it cannot be
    used.
    """
    with _lock:
        if p.library not in _opened:
            try:
                _opened[p.library] = _open(p)
            except PluginError as e:
                _opened[p.library] = e
        found = _opened[p.library]
    if isinstance(found, PluginError):
        raise found


def _open(p: Package) -> ctypes.CDLL:
    from .runtime import _core

    again = f"pip install -U --force-reinstall {p.who}"
    try:
        library = ctypes.CDLL(p.library)
        info = PluginInfo.in_dll(library, "wnn_plugin")
        init = library.wnn_plugin_init
    except (OSError, ValueError, AttributeError) as e:
        raise PluginError(f"[{p.who}] the shared library cannot be used: {e}; {again}") from None
    api = _core.api_address()
    host = PluginInfo.from_address(api)  # wnn_api starts with the same three fields
    p.abi = f"{info.abi_major}.{info.host_minor}+"
    if info.abi_major != host.abi_major or info.host_minor > host.abi_minor:
        newer = (info.abi_major, info.host_minor) > (host.abi_major, host.abi_minor)
        raise PluginError(
            f"[{p.who}] built for ABI {info.abi_major}.{info.abi_minor}, it needs a host of "
            f"{info.abi_major}.{info.host_minor} or later "
            f"in the same major; this wnn has ABI {host.abi_major}.{host.abi_minor}; pip install "
            f"-U {'wnn' if newer else p.who}"
        )
    init.argtypes, init.restype = [ctypes.c_void_p], ctypes.c_int
    if code := init(api):
        raise PluginError(
            f"[{p.who}] wnn_plugin_init declined this host with code {code}: a kernel's name is "
            f"taken, or the CPU is not supported; {again}"
        )
    return library
