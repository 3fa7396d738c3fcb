"""Options about training after the repair, and about the images that something is chosen with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from fairdeploy.settings.options import TrainingOptions

_TRAINING = "Training"


@dataclass(frozen=True, kw_only=True)
class TrainingFlags:
    """What every command that repairs takes."""

    finetune: Annotated[
        int | None,
        typer.Option(
            metavar="EPOCHS",
            help="Train on the images that nothing else needs; the best epoch is kept. "
            "0: do not, whatever fairdeploy.toml says.",
            min=0,
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
        typer.Option(
            help="At its highest; 0.01 if not given, 0.0002 without batch norms.",
            rich_help_panel=_TRAINING,
        ),
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

    def training(self) -> TrainingOptions:
        """What was typed; ``fairdeploy.toml`` may add to it."""
        return TrainingOptions(
            finetune=self.finetune,
            distill=self.distill,
            distill_features=self.distill_features,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            ema=self.ema,
        )
