"""Everything that makes a shrunk network accurate again: repair, distillation, training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fairdeploy.errors import noted
from fairdeploy.files import cache_folder
from fairdeploy.graph.graph_text import graph_tensors, graph_text
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.inputs.fingerprint import sha256_of_images, sha256_of_tensors
from fairdeploy.records import DataSplits, DistillationSummary, Mending, TuningSummary
from fairdeploy.records.training import TuningOptions
from fairdeploy.recovery.judgement import Judge, held_apart
from fairdeploy.recovery.training.distillation import distil
from fairdeploy.recovery.training.finetuning import Pupil, finetune
from fairdeploy.recovery.training.processes import training_device
from fairdeploy.reporting.accuracy_rows import verdict_row
from fairdeploy.reporting.quantities import verdict_text
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.runs.stages.loading import recover, recovery_method
from fairdeploy.settings.run import RunSettings

Finished = Callable[[str], None]
"""Told the name of each step when it is done: ``recovered``, ``distilled``, ``tuned``."""


def mend(
    graph: UnitGraph,
    shrunk: fx.GraphModule,
    removed: NDArray[np.bool_],
    data: DataSplits,
    settings: RunSettings,
    watch: Stopwatch,
    finished: Finished = lambda step: None,
) -> Mending:
    """Change ``shrunk`` so that it is as accurate as it gets by what the user chose."""
    method = recovery_method(data, settings)
    judged = held_apart(data) if method == "distil" else data
    judge = _judge(graph, judged) if removed.any() and method != "none" else None
    recovery = recover(graph, shrunk, removed, judged, settings, watch, judge)
    finished("recovered")
    distillation = None
    if method == "distil" and judge is not None:
        distillation = _distil(graph, shrunk, removed, judged, judge, settings, watch)
        finished("distilled")
    tuning = None
    if settings.tuning is not None:
        tuning = _finetune(graph, shrunk, removed, data, settings, settings.tuning, watch)
        finished("tuned")
    return Mending(recovery, distillation, tuning)


def _judge(graph: UnitGraph, data: DataSplits) -> Judge | None:
    """Of images that nothing is fitted to, if there are such; none where all are noise."""
    if data.calibration.is_synthetic:
        return None
    return Judge(graph, data.selection or data.calibration, training_device())


def _distil(
    graph: UnitGraph,
    shrunk: fx.GraphModule,
    removed: NDArray[np.bool_],
    data: DataSplits,
    judge: Judge,
    settings: RunSettings,
    watch: Stopwatch,
) -> DistillationSummary | None:
    with watch.stage("distil") as stage:
        summary = distil(
            graph, shrunk, removed, graph.inputs.arranged(data.calibration), judge,
            more=data.training, seed=settings.model.seed,
            progress=lambda done, total: stage.note(f"step {done} of {total}"),
        )  # fmt: skip
        if summary is not None:
            stage.note(verdict_text(verdict_row(summary.verdict)))
    if summary is None:
        watch.warn(
            f"{len(data.calibration)} calibration images are too few to distil with; "
            "raise --num-calibration"
        )
    return summary


def _finetune(
    graph: UnitGraph,
    shrunk: fx.GraphModule,
    removed: NDArray[np.bool_],
    data: DataSplits,
    settings: RunSettings,
    options: TuningOptions,
    watch: Stopwatch,
) -> TuningSummary:
    kept = "the training is kept, the same command goes on after its last whole epoch"
    with watch.stage("train") as stage, noted(kept, KeyboardInterrupt):
        summary = finetune(
            Pupil(graph, shrunk, removed), data, options,
            seed=settings.model.seed,
            checkpoint=_checkpoint(graph, shrunk, data, settings, options),
            progress=lambda done, total, score: stage.note(
                f"epoch {done} of {total}, {score:.2%} of the selection images"
            ),
        )  # fmt: skip
        stage.note(
            f"best of {len(summary.epochs) - 1} epochs: {summary.best_epoch}"
            + (f", resumed after {summary.resumed_from}" if summary.resumed_from else "")
            + f"; {verdict_text(verdict_row(summary.verdict))}"
        )
    return summary


def _checkpoint(
    graph: UnitGraph,
    shrunk: fx.GraphModule,
    data: DataSplits,
    settings: RunSettings,
    options: TuningOptions,
) -> Path:
    """Where the state of just this training is kept: another start or option has another file."""
    facts = [sha256_of_images(images) for images in data.image_sets().values()]
    for network in (graph.module, shrunk):  # the teacher, and what learns from it
        facts += [graph_text(network), sha256_of_tensors(graph_tensors(network))]
    if data.training is not None:
        facts.append(f"{data.source} {data.training.num_images} {data.training.has_labels}")
    facts += [str(settings.model.seed), str(options), torch.__version__]
    name = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
    return cache_folder() / "training" / f"{name}.pt"
