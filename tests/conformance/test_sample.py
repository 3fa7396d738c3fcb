"""The fixed sample of the conformance run that runs with every test run."""

from __future__ import annotations

import pytest

from fairdeploy.surgery.equivalence import PROOF_LIMIT
from tests.conformance.laws import BUDGET, ONNX_BATCHES, PARITY_LIMIT, check
from tests.conformance.rows import Row
from tests.conformance.zoo import find
from tests.conformance.zoo_sample import EXPORTED, SAMPLE

NOT_EXPORTED = tuple(name for name in SAMPLE if name not in EXPORTED)


@pytest.mark.parametrize(
    "name", [*EXPORTED, *(pytest.param(name, marks=pytest.mark.slow) for name in NOT_EXPORTED)]
)
def test_architecture_is_halved_proved_and_exported(name: str) -> None:
    row = check(find(name))
    require_halved_and_proved(row)
    assert row.passed
    assert set(row.onnx) == {str(batch) for batch in ONNX_BATCHES}
    assert max(row.onnx.values()) <= PARITY_LIMIT


@pytest.mark.parametrize("name", NOT_EXPORTED)
def test_architecture_is_halved_and_proved(name: str) -> None:
    row = check(find(name), with_onnx=False)
    require_halved_and_proved(row)
    assert row.stage == "done but ONNX"


def require_halved_and_proved(row: Row) -> None:
    assert row.failure == ""
    assert row.kept is not None
    assert 0 < row.kept <= BUDGET
    assert row.proof is not None
    assert row.proof <= PROOF_LIMIT
