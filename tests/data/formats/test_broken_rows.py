"""Every broken row is a fault that names its field, in every format."""

import pytest

from ...helpers.broken_rows import BROKEN
from ...helpers.rows import fault


@pytest.mark.parametrize(("name", "row", "field", "kind"), BROKEN)
def test_a_broken_row_is_a_fault_with_its_field(name, row, field, kind):
    assert fault(name, row) == (field, kind)


def test_there_are_more_than_a_hundred():
    assert len(BROKEN) > 100
