"""The small fixed sample of the conformance table that runs with every test run."""

from __future__ import annotations

import pytest

from tests.conformance.surgery_table import BUDGET, LANDING, check
from tests.conformance.zoo import SAMPLE


@pytest.mark.parametrize("name", SAMPLE)
def test_architecture_is_halved_proved_and_exported(name: str) -> None:
    row = check(name)
    assert not row.failure
    assert BUDGET - LANDING <= row.kept <= BUDGET
    assert row.proof <= 1e-5
    assert max(row.onnx_1, row.onnx_3) <= 1e-4
    assert row.passed
