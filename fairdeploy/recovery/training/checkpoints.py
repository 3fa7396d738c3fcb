"""The state of a training in a file, so that an interrupted one goes on where it was."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from fairdeploy.errors import OutputError
from fairdeploy.files import open_regular
from fairdeploy.records import TunedEpoch
from fairdeploy.recovery.training.best_weights import (
    BestWeights,
    copied_state,
    load_state,
    named_tensors,
)


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
        best: BestWeights,
    ) -> TrainingState | None:
        """Change all three to what was saved; None if there is nothing, or it is damaged."""
        content = self._content()
        try:
            state = _require_whole(content, network, optimizer)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        load_state(network, content["network"])
        optimizer.load_state_dict(content["optimizer"])
        best.take(content["best"], content["best_error"])
        return state

    def remove(self) -> None:
        """Nothing is left to go on with."""
        if self._written is not None:
            self._written.unlink(missing_ok=True)

    def _content(self) -> Any:
        if self._read is None or not self._read.exists():
            return None
        try:
            with open_regular(self._read) as file:
                return torch.load(file, weights_only=True)
        except Exception:  # a damaged archive or pickle raises whatever it happens to hit
            return None


def _require_whole(
    content: Any,
    network: fx.GraphModule,
    optimizer: torch.optim.Optimizer,
) -> TrainingState:
    """The history in a file whose every part can be taken.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: It is not a state of this training.
    """
    wanted = {name: tensor.shape for name, tensor in named_tensors(network)}
    for part in ("network", "best"):
        found = {name: tensor.shape for name, tensor in content[part].items()}
        if found != wanted:
            raise ValueError(f"'{part}' is of another network")
    _require_fitting(content["optimizer"], optimizer)
    if not math.isfinite(content["best_error"]):
        raise ValueError("its numbers make no sense")
    return TrainingState(tuple(TunedEpoch(**row) for row in content["history"]))


def _require_fitting(state: Any, optimizer: torch.optim.Optimizer) -> None:
    """What ``Optimizer.load_state_dict`` takes without looking ends in the next step."""
    own = optimizer.state_dict()["param_groups"]
    theirs = state["param_groups"]
    if [(group.keys(), group["params"]) for group in theirs] != [
        (group.keys(), group["params"]) for group in own
    ]:
        raise ValueError("the optimizer is of another network")
    shapes = [p.shape for group in optimizer.param_groups for p in group["params"]]
    for index, values in state["state"].items():
        for tensor in values.values():
            if isinstance(tensor, Tensor) and tensor.dim() and tensor.shape != shapes[index]:
                raise ValueError("the optimizer is of another network")
