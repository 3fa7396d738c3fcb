"""Run the reference implementation (``network-pruner`` on PyPI) on a model and images.

Its ``get_metrics`` calls ``model.train()`` before each layer's gradient pass, so batch norm uses
batch statistics there and every pass moves the running ones, which the later distances then see.
``in_eval_mode`` keeps the model in eval mode, which is the only way to compare scores fairly; the
time is taken as shipped.
"""

from __future__ import annotations

import contextlib
import copy
import io
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """Images with the ``targets`` and ``classes`` that the reference looks for."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.targets = [int(label) for label in labels]
        self.classes = [str(label) for label in range(max(self.targets) + 1)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]


class EvalOnly(nn.Module):
    """Mixed into a model's class: ``train()`` leaves it in eval mode."""

    def train(self, mode: bool = True) -> EvalOnly:
        """Go into eval mode whatever ``mode`` says; changes the model."""
        return super().train(False)


@dataclass(frozen=True, slots=True)
class ReferenceScores:
    """Per scored layer (by the convolution's name): U, R, and the seconds for all layers."""

    u: dict[str, Tensor]
    r: dict[str, Tensor]
    wall_s: float
    cpu_s: float


def reference_scores(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    measured_at: dict[str, str],
    batch_size: int,
    in_eval_mode: bool,
    seed: int,
) -> ReferenceScores:
    """Score a copy of ``model`` with the reference's ``get_metrics``.

    Args:
        measured_at: Scored layer to the module whose output is compared between classes; the
            reference calls the two lists ``layers2prune`` and ``layers2analysis``.
        in_eval_mode: Forbid the reference its training-mode passes.
    """
    # an optional package, found through --reference-path
    from Network_Pruner import get_metrics  # type: ignore[import-not-found,unused-ignore]

    model = copy.deepcopy(model).eval()
    if in_eval_mode:
        model.__class__ = type("EvalOnlyModel", (EvalOnly, model.__class__), {})
    index = {name: position for position, (name, _) in enumerate(model.named_modules())}
    loader = DataLoader(LabelledImages(images, labels), batch_size=batch_size)
    arguments: dict[str, Any] = {
        "layers2prune": [index[name] for name in measured_at],
        "layers2analysis": [index[name] for name in measured_at.values()],
        "the_samplesize_for_compute_distance": len(images),
        "device": torch.device("cpu"),
    }
    random.seed(seed)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        arguments["results_save_path"] = str(Path(folder) / "results.pkl")
        wall, cpu = time.perf_counter(), time.process_time()
        results = get_metrics(model, loader, **arguments)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    names = list(measured_at)
    return ReferenceScores(
        u={name: results[f"D_{j}"] for j, name in enumerate(names)},
        r={name: results[f"RE_{j}_hat"] for j, name in enumerate(names)},
        wall_s=wall,
        cpu_s=cpu,
    )


def add_reference_path(path: Path | None) -> None:
    """Make a ``pip install --target`` folder importable (changes ``sys.path``)."""
    if path is not None:
        sys.path.append(str(path))
