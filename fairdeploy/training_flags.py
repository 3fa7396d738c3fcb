"""Options about training after the repair, and about the images that something is chosen with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from fairdeploy.errors import UsageError
from fairdeploy.options import DEFAULT_BATCH_SIZE, DEFAULT_LEARNING_RATE, TuningOptions

_TRAINING = "Training"


@dataclass(frozen=True, kw_only=True)
class TrainingFlags:
    """What every command that repairs takes."""

    finetune: Annotated[
        int | None,
        typer.Option(
            metavar="EPOCHS",
            help="Train on the images that nothing else needs; the best epoch is kept.",
            min=1,
            rich_help_panel=_TRAINING,
        ),
    ] = None
    distill: Annotated[
        bool,
        typer.Option(
            "--distill",
            help="In training, imitate the original's answers; needs no labels.",
            rich_help_panel=_TRAINING,
        ),
    ] = False
    distill_features: Annotated[
        bool,
        typer.Option(
            "--distill-features",
            help="Imitate its inner values too.",
            rich_help_panel=_TRAINING,
        ),
    ] = False
    learning_rate: Annotated[
        float | None,
        typer.Option(help="At its highest; 0.01 if not given.", rich_help_panel=_TRAINING),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images of a training step; 64 if not given.", min=2, rich_help_panel=_TRAINING
        ),
    ] = None
    ema: Annotated[
        bool,
        typer.Option(
            "--ema", help="Keep a moving average of the weights.", rich_help_panel=_TRAINING
        ),
    ] = False
    num_selection: Annotated[
        int | None,
        typer.Option(
            help="Held-out images, apart from the test, to choose a network or an epoch with.",
            min=10,
            rich_help_panel=_TRAINING,
        ),
    ] = None

    def tuning(self) -> TuningOptions | None:
        """What was asked for; None without ``--finetune``.

        Raises:
            UsageError: An option says how to train, but none says that.
        """
        options = {
            "--distill": self.distill,
            "--distill-features": self.distill_features,
            "--learning-rate": self.learning_rate is not None,
            "--batch-size": self.batch_size is not None,
            "--ema": self.ema,
        }
        if self.finetune is None:
            first = next((name for name, is_given in options.items() if is_given), None)
            if first is not None:
                raise UsageError(f"{first} says how to train; add --finetune EPOCHS")
            return None
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:
            raise UsageError(f"--learning-rate {self.learning_rate:g} is not above 0 and at most 1")
        return TuningOptions(
            epochs=self.finetune,
            distill=self.distill or self.distill_features,
            distill_features=self.distill_features,
            learning_rate=self.learning_rate or DEFAULT_LEARNING_RATE,
            batch_size=self.batch_size or DEFAULT_BATCH_SIZE,
            ema=self.ema,
        )
