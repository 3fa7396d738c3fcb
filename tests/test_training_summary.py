from __future__ import annotations

from typing import Any

import pytest

from fairdeploy.training_summary import training_lines


def document(value: float, high: float, **more: Any) -> dict[str, Any]:
    step = {
        "value": value, "low": 2 * value - high, "high": high, "num_lost": 9, "num_gained": 1,
        "changed_share": 0.1,
    }  # fmt: skip
    worst = {"class": "cat", "before": 0.9, "after": 0.8}
    return {"changes": {"by_step": {"exported": step}, "by_class": [worst]}, **more}


def verdict(outcome: str, before: float = 0.5, after: float = 0.5) -> dict[str, Any]:
    gain = after - before
    return {
        "measure": "accuracy", "before": before, "after": after, "low": gain - 0.01,
        "high": gain + 0.01, "num_images": 700, "outcome": outcome, "are_fitted": False,
    }  # fmt: skip


def advised(run: dict[str, Any]) -> bool:
    return any("--recover distil" in text for _, text in training_lines(run))


def test_who_lost_accuracy_and_did_not_train_is_told_what_brings_it_back() -> None:
    assert advised(document(-0.03, -0.01))


@pytest.mark.parametrize(
    "run",
    [
        document(-0.03, 0.002),
        document(-0.005, -0.001),
        document(0.02, 0.04),
        document(-0.03, -0.01, tuning={"epochs": [{"epoch": 0, "score": 0.5}], "best_epoch": 0,
                                       "num_images": 9, "verdict": verdict("kept")}),
        {"changes": None},
    ],
    ids=["perhaps chance", "little", "gained", "trained", "not measured"],
)  # fmt: skip
def test_nobody_else_is(run: dict[str, Any]) -> None:
    assert not advised(run)
