"""The fixed sample of the conformance run that runs with every test run."""

from __future__ import annotations

import pytest

from fairdeploy.surgery.equivalence import PROOF_LIMIT
from tests.conformance.laws import BUDGET, ONNX_BATCHES, PARITY_LIMIT, check
from tests.conformance.zoo import find
from tests.conformance.zoo_sample import EXPORTED, SAMPLE


@pytest.mark.parametrize("name", SAMPLE)
def test_architecture_is_halved_and_proved_and_some_are_exported(name: str) -> None:
    row = check(find(name), with_onnx=name in EXPORTED)
    assert row.failure == ""
    assert row.passed == (name in EXPORTED)
    assert row.kept is not None
    assert 0 < row.kept <= BUDGET
    assert row.proof is not None
    assert row.proof <= PROOF_LIMIT
    assert set(row.onnx) == {str(batch) for batch in ONNX_BATCHES if name in EXPORTED}
    assert all(error <= PARITY_LIMIT for error in row.onnx.values())
