"""What trained the shrunk network after the closed-form repair, and on which images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fairdeploy.records.accuracy import Measure, Verdict
from fairdeploy.records.surgery import RecoverySummary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fairdeploy.records.inputs import ImageSet


@dataclass(frozen=True, slots=True)
class TrainingImages:
    """Images of the training split that serve for nothing else, fetched when they are needed."""

    num_images: int
    has_labels: bool
    fetch: Callable[[NDArray[np.int64]], ImageSet]
    """From places, 0 to ``num_images`` - 1, to images; copies of images that something is chosen
    or measured with are left out."""


@dataclass(frozen=True, slots=True)
class DistillationSummary:
    """What the short label-free training after least squares did."""

    num_blocks: int
    num_steps: int
    num_images: int
    """Trained on, without labels."""
    verdict: Verdict
    """Against the network after least squares."""
    seconds: float


@dataclass(frozen=True, slots=True)
class TunedEpoch:
    """One round over the training images."""

    epoch: int
    """From 1; 0 is the network before tuning."""
    loss: float | None
    """Mean over the round; None for epoch 0."""
    score: float
    """On the selection images: accuracy, or without labels agreement with the original."""


@dataclass(frozen=True, slots=True)
class TuningSummary:
    """What ``--finetune`` did."""

    epochs_asked: int
    epochs: tuple[TunedEpoch, ...]
    best_epoch: int
    """Whose weights were kept."""
    measure: Measure
    num_images: int
    num_selection: int
    uses_labels: bool
    """Whether it was trained on given labels."""
    teacher: Literal["none", "logits"]
    """What of the original it imitated: nothing, or its answers."""
    optimizer: Literal["SGD", "AdamW"]
    learning_rate: float
    """At its highest."""
    resumed_from: int
    """Epoch of the checkpoint that it went on from; 0 if there was none."""
    device: str
    ended_because: str
    verdict: Verdict
    """Against the network before the training."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Mending:
    """Everything that was done to a network after units were removed, in this order."""

    recovery: RecoverySummary | None = None
    distillation: DistillationSummary | None = None
    tuning: TuningSummary | None = None


DEFAULT_BATCH_SIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningOptions:
    """Training after the repair, everything decided; see ``recovery.finetuning``."""

    epochs: int
    distill: bool = False
    """Imitate the original's answers; without labels this is all there is to learn."""
    learning_rate: float | None = None
    """At its highest; None: what suits the kind of network."""
    batch_size: int = DEFAULT_BATCH_SIZE
