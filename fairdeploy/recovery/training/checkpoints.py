"""The state of a training in a file, so that an interrupted one goes on where it was."""

from __future__ import annotations

import os
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx

from fairdeploy.errors import OutputError
from fairdeploy.records import TunedEpoch
from fairdeploy.recovery.training.best_weights import BestWeights, copied_state, load_state
from fairdeploy.recovery.training.moving_average import MovingAverage


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What happened so far."""

    history: tuple[TunedEpoch, ...]


class Checkpoints:
    """Writes, reads and removes one file; without a path it does nothing."""

    def __init__(self, written: Path | None, read: Path | None) -> None:
        """Of several processes only one writes, and all read."""
        self._written, self._read = written, read

    def save(
        self,
        network: fx.GraphModule,
        optimizer: torch.optim.Optimizer,
        average: MovingAverage | None,
        best: BestWeights,
        state: TrainingState,
    ) -> None:
        """Replace the file, whole or not at all.

        Raises:
            OutputError: The disk refused.
        """
        if self._written is None:
            return
        content = {
            "network": copied_state(network),
            "optimizer": optimizer.state_dict(),
            "average": average.tensors if average else {},
            "num_updates": average.num_updates if average else 0,
            "best": best.tensors,
            "best_error": best.error,
            "history": [asdict(epoch) for epoch in state.history],
        }
        unfinished = self._written.with_suffix(".part")
        try:
            self._written.parent.mkdir(parents=True, exist_ok=True)
            torch.save(content, unfinished)
            os.replace(unfinished, self._written)
        except OSError as error:
            raise OutputError(
                f"cannot write the checkpoint '{self._written}': {error.strerror or error}"
            ) from error

    def load(
        self,
        network: fx.GraphModule,
        optimizer: torch.optim.Optimizer,
        average: MovingAverage | None,
        best: BestWeights,
    ) -> TrainingState | None:
        """Change all four to what was saved; None if there is nothing, or it is damaged."""
        content = self._content()
        if content is None:
            return None
        load_state(network, content["network"])
        optimizer.load_state_dict(content["optimizer"])
        if average is not None:
            average.tensors = content["average"]
            average.num_updates = content["num_updates"]
        best.take(content["best"], content["best_error"])
        return TrainingState(tuple(TunedEpoch(**row) for row in content["history"]))

    def remove(self) -> None:
        """Nothing is left to go on with."""
        if self._written is not None:
            self._written.unlink(missing_ok=True)

    def _content(self) -> dict[str, Any] | None:
        if self._read is None or not self._read.exists():
            return None
        try:
            content: dict[str, Any] = torch.load(self._read, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None
        return content
