"""The commands `wnn plugins` and `wnn plugin`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from .terminal import new_table, out

plugins_app = typer.Typer(
    invoke_without_command=True,
    help="List the installed op packages, with what is wrong with them.",
)
plugin_app = typer.Typer(help="Write an op package.", no_args_is_help=True)


@plugins_app.callback()
def plugins(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        show_plugins()


def show_plugins() -> None:
    from .plugins import summon_plugins

    report = summon_plugins(native=True)
    columns = ("package", "version", "operators", "patterns", "ABI", "state", "load")
    table = new_table("", *columns, right=(2, 3, 6))
    for p in report.packages:
        row = (p.name, p.version, len(p.operators), len(p.fusions), p.abi, p.state)
        table.add_row(*map(str, row), f"{p.load_ms:.1f} ms")
    out.print(table)
    for p in report.packages:
        if p.reason:
            out.print(p.says, style="yellow")


@plugins_app.command("check")
def plugins_check() -> None:
    """Run the kernels of every op package against their references, on every instruction set, in
    processes of their own.
    """
    from .plugins import resolve, summon_plugins
    from .testing import ISAS, OpCheckError, check_isa, other_isas

    isas = [i for i in ISAS if i in other_isas() or i == _isa()]
    table = new_table("", "package", *isas)
    said = []
    for p in resolve(summon_plugins):
        row = []
        for isa in isas:
            try:
                check_isa(isa, [op.name for op in p.operators])
                row.append(Text("passed", "green"))
            except OpCheckError as e:
                row.append(Text("failed", "red"))
                said.append(str(e))
        table.add_row(p.name, *row)
    out.print(table)
    for text in said:
        out.print(text, style="yellow")
    if said:
        raise typer.Exit(1)


def _isa() -> str:
    from .runtime import _core

    return _core.isa()


@plugin_app.command("new")
def plugin_new(
    name: Annotated[
        str, typer.Argument(help="A module name; the package will be wnn-contrib-NAME.")
    ],
    into: Annotated[Path, typer.Option(help="The folder to write it into.")] = Path("."),
) -> None:
    """Write a working op package: operator, kernel, pattern, tests. `pip install -e` it and change
    what it does.
    """
    from .plugin_template import write_package

    folder = write_package(name, into)
    out.print(f"{folder}: pip install -e {folder} && pytest {folder}/tests && wnn plugins")
