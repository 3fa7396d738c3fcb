from __future__ import annotations

import pytest

from fairdeploy.errors import UsageError
from fairdeploy.option_values import parse_drop
from fairdeploy.options import TuningOptions
from fairdeploy.training_flags import TrainingFlags


def test_training_options_have_sensible_defaults() -> None:
    assert TrainingFlags(finetune=5).tuning() == TuningOptions(
        epochs=5,
        distill=False,
        distill_features=False,
        learning_rate=0.01,
        batch_size=64,
        ema=False,
    )
    assert TrainingFlags().tuning() is None


def test_inner_values_come_with_answers() -> None:
    tuning = TrainingFlags(finetune=1, distill_features=True).tuning()
    assert tuning is not None
    assert tuning.distill


@pytest.mark.parametrize(
    ("flags", "option"),
    [
        (TrainingFlags(distill=True), "--distill"),
        (TrainingFlags(ema=True), "--ema"),
        (TrainingFlags(batch_size=8), "--batch-size"),
    ],
)
def test_how_to_train_without_training_is_refused(flags: TrainingFlags, option: str) -> None:
    with pytest.raises(UsageError, match=f"^{option} says how to train; add --finetune EPOCHS$"):
        flags.tuning()


def test_impossible_learning_rates_are_refused() -> None:
    with pytest.raises(UsageError, match="--learning-rate 3 is not above 0 and at most 1"):
        TrainingFlags(finetune=1, learning_rate=3.0).tuning()


def test_a_drop_is_a_percentage_or_a_share() -> None:
    assert parse_drop("1%") == parse_drop("0.01") == 0.01
    assert parse_drop("0%") == 0.0
    assert parse_drop(None) is None


def test_a_drop_of_everything_is_refused_with_what_was_meant() -> None:
    with pytest.raises(UsageError, match=r"--max-drop '1' is not .* did you mean 1%\?"):
        parse_drop("1")
    with pytest.raises(UsageError, match=r"use --max-drop 1%$"):
        parse_drop("much")
