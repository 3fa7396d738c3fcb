from __future__ import annotations

from typing import Any

import pytest

from fairdeploy.cli.summaries.shrink import training_lines


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


def test_a_step_that_lost_accuracy_on_the_test_is_told_as_a_loss_with_word_and_sign() -> None:
    run = document(-0.10, -0.08)
    step = {"value": -0.104, "low": -0.126, "high": -0.082}
    run["changes"]["since_last"] = {"recovered": step | {"value": 0.3}, "distilled": step}
    run["distillation"] = {
        "num_steps": 700, "num_images": 936, "verdict": verdict("improved", 0.625, 0.64)
    }  # fmt: skip
    lines = dict.fromkeys(text for _, text in training_lines(run))
    (fall,) = (text for text in lines if "distilled:" in text)
    assert "the accuracy fell: -10.40 points (-12.60 to -8.20) with this step" in fall
    (told,) = (text for text in lines if "without labels" in text)
    assert told.replace("\N{NO-BREAK SPACE}", " ").endswith(
        "accuracy 62.5 %, now 64.0 % on 700 selection images (+1.5 points, interval +0.5 points "
        "to +2.5 points)"
    )
    assert any(text.startswith("accuracy fell: -10.00 points") for text in lines)


def test_a_gain_that_may_be_chance_and_no_gain_at_all_are_told_as_that() -> None:
    for outcome, words in (("unclear", ", which may be chance"), ("kept", "nothing was better on")):
        run = {"recovery": None, "tuning": {
            "epochs": [{"epoch": 0}], "best_epoch": 0, "num_images": 9, "verdict": verdict(outcome),
        }}  # fmt: skip
        (text,) = (text for title, text in training_lines(run) if title == "trained")
        assert words in text


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
