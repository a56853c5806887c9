"""Fixtures for the tests of op packages; pytest finds them wherever wnn is installed.

def test_operator(opcheck):
    opcheck(op)

def test_other_instruction_sets(opcheck_isa):  # once for each that this CPU has
    opcheck_isa(op)
"""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def opcheck() -> Callable:
    """`wnn.testing.opcheck`: everything that an operator's record says, against its reference."""
    from .testing import opcheck

    return opcheck


@pytest.fixture
def opcheck_isa(request: pytest.FixtureRequest) -> Callable:
    """opcheck_isa(*ops): their kernels on another instruction set, in a process of its own."""
    from .testing import check_isa

    return lambda *ops: check_isa(request.param, [op.name for op in ops])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that uses `opcheck_isa` runs once for each instruction set but the one in use."""
    if "opcheck_isa" in metafunc.fixturenames:
        from .testing import other_isas

        metafunc.parametrize("opcheck_isa", other_isas(), indirect=True)
