"""Every registered operator against its own record, on every instruction set of this CPU."""

import pytest

from wnn import testing
from wnn.plugins import ensure_std
from wnn.registry import REGISTRY

ensure_std()
OPS = sorted(REGISTRY.ops)


@pytest.mark.parametrize("name", OPS)
def test_operator_agrees_with_its_reference(name):
    testing.opcheck(REGISTRY.get(name))


@pytest.mark.parametrize("isa", testing.other_isas())
def test_kernels_agree_with_the_reference_on_other_instruction_sets(isa):
    testing.check_isa(isa)


@pytest.mark.parametrize("name", OPS)
def test_record_is_complete(name):
    op = REGISTRY.get(name)
    assert not op.missing()
    assert "Source" in op.doc, f"the docstring of {op.module} names no source"
    if op._cases is not None:
        assert list(op.case_list()), "cases() yields nothing"
