"""Numbers from environment variables (docs/environment.md)."""

from __future__ import annotations

import os

from .errors import WnnError


def number(name: str, default: float, least: float = 0, most: float = 1e6) -> float:
    """The value of a variable, `default` where it is unset or empty. WnnError for anything but a
    number in [least, most].
    """
    text = os.environ.get(name, "").strip()
    try:
        value = float(text or default)
        if least <= value <= most:
            return value
    except ValueError:
        pass
    raise WnnError(
        f"[environment] found {name}={text!r}; expected a number from {least} to {most:g}; "
        "correct or unset it"
    )
