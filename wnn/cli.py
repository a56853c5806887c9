"""The command `wnn`; what it can do is in commands.py, which needs the extra `cli`."""

from __future__ import annotations

import os
import sys

from .errors import WnnError


def main() -> None:
    """Runs the command line; a WnnError is printed and gives exit code 1."""
    if sys.stdout is None:  # closed by who started it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        from .commands import app  # reads the environment, which may be wrong

        app(prog_name="wnn")
    except ModuleNotFoundError as e:
        if e.name not in ("typer", "rich"):
            raise
        sys.exit(
            f"[wnn] found no package {e.name}; expected those of the extra cli; "
            "pip install 'wnn[cli]'"
        )
    except WnnError as e:
        sys.exit(str(e))
    except BrokenPipeError:
        sys.exit(1)
    except OSError as e:
        if e.filename is not None:
            raise
        sys.stdout = None  # or Python tries again when it ends
        sys.exit(f"[wnn] found that nothing can be printed ({e}); expected room; print elsewhere")


if __name__ == "__main__":
    main()
