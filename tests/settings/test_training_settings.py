"""How to train: the command line wins over the project file, and the project file over defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairdeploy.errors import UsageError
from fairdeploy.records.training import TuningOptions
from fairdeploy.settings.option import completed
from fairdeploy.settings.options import ShrinkOptions, TrainingOptions
from fairdeploy.settings.project_file import ProjectFile
from fairdeploy.settings.run import resolve_shrink, resolve_tuning

NO_FILE = ProjectFile()
WHOLE_FILE = ProjectFile(finetune=4, distill=True, learning_rate=0.1, batch_size=8)


def tuning_of(typed: TrainingOptions, written: ProjectFile = NO_FILE) -> TuningOptions | None:
    return resolve_tuning(typed, completed(typed, written))


def test_training_options_have_sensible_defaults() -> None:
    assert tuning_of(TrainingOptions(finetune=5), NO_FILE) == TuningOptions(
        epochs=5,
        distill=False,
        learning_rate=None,
        batch_size=64,
    )
    assert tuning_of(TrainingOptions(), NO_FILE) is None


@pytest.mark.parametrize(
    ("asked", "option"),
    [
        (TrainingOptions(distill=True), "--distill"),
        (TrainingOptions(learning_rate=0.1), "--learning-rate"),
        (TrainingOptions(batch_size=8), "--batch-size"),
    ],
)
def test_how_to_train_without_training_is_refused(asked: TrainingOptions, option: str) -> None:
    with pytest.raises(UsageError, match=f"^{option} says how to train; add --finetune EPOCHS$"):
        tuning_of(asked, NO_FILE)


def test_impossible_learning_rates_are_refused() -> None:
    with pytest.raises(UsageError, match="--learning-rate 3 is not above 0 and at most 1"):
        tuning_of(TrainingOptions(finetune=1, learning_rate=3.0), NO_FILE)


def test_the_project_file_says_what_is_not_typed() -> None:
    assert tuning_of(TrainingOptions(), WHOLE_FILE) == TuningOptions(
        epochs=4,
        distill=True,
        learning_rate=0.1,
        batch_size=8,
    )
    typed = TrainingOptions(finetune=1, learning_rate=0.5, batch_size=16)
    tuning = tuning_of(typed, WHOLE_FILE)
    assert tuning is not None
    assert (tuning.epochs, tuning.learning_rate, tuning.batch_size) == (1, 0.5, 16)


def test_the_project_file_may_say_how_without_asking_to_train() -> None:
    how = ProjectFile(learning_rate=0.1, batch_size=8)
    assert tuning_of(TrainingOptions(), how) is None
    tuning = tuning_of(TrainingOptions(finetune=2), how)
    assert tuning is not None
    assert (tuning.learning_rate, tuning.batch_size) == (0.1, 8)


def test_no_epochs_on_the_command_line_turn_the_project_file_s_training_off() -> None:
    assert tuning_of(TrainingOptions(finetune=0), WHOLE_FILE) is None


def with_file(folder: Path, text: str) -> str:
    (folder / "net.pt").write_bytes(b"")
    (folder / "fairdeploy.toml").write_text(text)
    return str(folder / "net.pt")


def test_drop_steps_and_selection_come_from_the_project_file(tmp_path: Path) -> None:
    model = with_file(
        tmp_path,
        'max_drop = "2%"\nsmallest = "macs"\nnum_selection = 300\nfinetune = 3\ndata = "x"\n',
    )
    settings = resolve_shrink(ShrinkOptions(model=model))
    assert (settings.budgets, settings.max_drop, settings.smallest) == ((), 0.02, "macs")
    assert (settings.num_selection, settings.steps) == (300, 1)
    assert settings.tuning is not None
    assert settings.tuning.epochs == 3
    with_budget = resolve_shrink(ShrinkOptions(model=model, budgets=("40%",), max_drop=0.05))
    assert (with_budget.budgets, with_budget.max_drop) == (("40%",), 0.05)


def test_steps_of_the_project_file_can_be_overruled(tmp_path: Path) -> None:
    model = with_file(tmp_path, 'budget = "40%"\nsteps = 3\n')
    assert resolve_shrink(ShrinkOptions(model=model)).steps == 3
    assert resolve_shrink(ShrinkOptions(model=model, steps=1)).steps == 1
    with pytest.raises(UsageError, match=r"drop it, or give --steps 1$"):
        resolve_shrink(ShrinkOptions(model=model, budgets=("latency=60%",)))
