"""Ties the bench to pytest: options, the fixture `timed`, the comparison at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .baselines import Book, machine
from .measure import Run, measure

BOOK = pytest.StashKey[Book]()
REGRESSED = pytest.StashKey[list]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    default = Path(__file__).parent / "baselines"
    group.addoption("--baselines", type=Path, default=default, help="Folder of the baselines.")
    group.addoption("--update", action="store_true", help="Write a new baseline.")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--baselines") / f"{machine()}.json"
    config.stash[BOOK] = Book(path, config.getoption("--update"))


@pytest.fixture
def timed(benchmark, request: pytest.FixtureRequest) -> Callable:
    """timed(name, make, seconds): measures make()() and keeps it for the comparison."""

    def run(name: str, make: Callable[[], Run], seconds: float) -> None:
        found = measure(make(), seconds, benchmark.pedantic)
        if found.ns:
            request.config.stash[BOOK].add(name, make, seconds, found)

    return run


def pytest_sessionfinish(session: pytest.Session) -> None:
    book = session.config.stash[BOOK]
    if book.cases and session.config.getoption("--benchmark-only"):
        regressed = session.config.stash[REGRESSED] = book.settle()
        if regressed and not session.exitstatus:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if REGRESSED in config.stash:
        terminalreporter.section("against the baseline")
        for line in config.stash[BOOK].report(config.stash[REGRESSED]):
            terminalreporter.write_line(line, red=line.startswith("REGRESSED"))
