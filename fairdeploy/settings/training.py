"""How to train after the repair: by the command line, ``fairdeploy.toml`` or a default."""

from __future__ import annotations

from fairdeploy.errors import UsageError
from fairdeploy.records.training import DEFAULT_BATCH_SIZE, TuningOptions
from fairdeploy.settings.options import TrainingOptions, first_given
from fairdeploy.settings.project_file import ProjectFile


def resolve_tuning(asked: TrainingOptions, project: ProjectFile) -> TuningOptions | None:
    """What was asked for; None where nobody asks to train.

    The project file may say how to train without asking for it.

    Raises:
        UsageError: An option says how to train, but nothing says that; or a value can't be.
    """
    epochs = first_given(asked.finetune, project.finetune)
    if not epochs:
        _refuse_how_without_training(asked)
        return None
    rate = first_given(asked.learning_rate, project.learning_rate)
    size = first_given(asked.batch_size, project.batch_size, DEFAULT_BATCH_SIZE)
    assert size is not None
    if rate is not None and not 0 < rate <= 1:
        raise UsageError(f"--learning-rate {rate:g} is not above 0 and at most 1")
    with_features = asked.distill_features or bool(project.distill_features)
    return TuningOptions(
        epochs=epochs,
        distill=asked.distill or bool(project.distill) or with_features,
        distill_features=with_features,
        learning_rate=rate,
        batch_size=size,
        ema=asked.ema or bool(project.ema),
    )


def _refuse_how_without_training(asked: TrainingOptions) -> None:
    given = {
        "--distill": asked.distill,
        "--distill-features": asked.distill_features,
        "--learning-rate": asked.learning_rate is not None,
        "--batch-size": asked.batch_size is not None,
        "--ema": asked.ema,
    }
    first = next((name for name, is_given in given.items() if is_given), None)
    if first is not None:
        raise UsageError(f"{first} says how to train; add --finetune EPOCHS")
