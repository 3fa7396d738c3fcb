"""Everything that makes a shrunk network accurate again: refitting, distillation, training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fairdeploy.errors import noted
from fairdeploy.files import cache_folder
from fairdeploy.graph.graph_text import graph_tensors, graph_text
from fairdeploy.inputs.fingerprint import sha256_of_images, sha256_of_tensors
from fairdeploy.records import (
    DataSplits,
    DistillationSummary,
    Mending,
    RecoverySummary,
    TuningSummary,
)
from fairdeploy.records.training import TuningOptions
from fairdeploy.recovery.batchnorm import reestimate_batchnorm
from fairdeploy.recovery.judgement import Judge, held_apart, kept_if_better
from fairdeploy.recovery.least_squares.fit import fit_least_squares
from fairdeploy.recovery.least_squares.fitted_weights import own_tensors
from fairdeploy.recovery.training.distillation import distil
from fairdeploy.recovery.training.finetuning import Pupil, finetune
from fairdeploy.recovery.training.processes import training_device
from fairdeploy.reporting.accuracy_rows import verdict_row
from fairdeploy.reporting.quantities import verdict_text
from fairdeploy.runs.run import Run
from fairdeploy.runs.stages.evaluation import Evaluation
from fairdeploy.runs.stages.removal import Shrunk
from fairdeploy.settings.options import RecoveryMethod
from fairdeploy.settings.run import DEFAULT_RECOVERY, RunSettings

Finished = Callable[[str], None]
"""Called with the name of each step when it is done: ``recovered``, ``distilled``, ``tuned``."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """A shrunk network after its repair, tested after each step."""

    shrunk: Shrunk
    mending: Mending
    evaluation: Evaluation


def repair_and_test(run: Run[RunSettings], shrunk: Shrunk, data: DataSplits) -> Repaired:
    """Repair ``shrunk`` (changes its module); test the original, and it, after each step."""
    evaluation = Evaluation(shrunk.graph, data.test, run.watch, data)
    evaluation.add("original", shrunk.graph.module)
    evaluation.add("pruned", shrunk.module)
    mending = repair(run, shrunk, data, lambda step: evaluation.add(step, shrunk.module))
    return Repaired(shrunk, mending, evaluation)


def repair(
    run: Run[RunSettings],
    shrunk: Shrunk,
    data: DataSplits,
    finished: Finished = lambda step: None,
) -> Mending:
    """Make ``shrunk`` (changes its module) as accurate as it gets by what the user chose."""
    method = recovery_method(data, run.settings)
    judged = held_apart(data) if method == "distil" else data
    # noise teaches nothing, so without images there is nothing to refit
    is_refitted = bool(shrunk.removed.any()) and method != "none"
    judge = _judge(shrunk, judged) if is_refitted else None
    recovery = _refit(run, shrunk, judged, method, judge) if is_refitted else None
    finished("recovered")
    distillation = None
    if method == "distil" and judge is not None:
        distillation = _distil(run, shrunk, judged, judge)
        finished("distilled")
    tuning = None
    if run.settings.tuning is not None:
        tuning = _finetune(run, shrunk, data, run.settings.tuning)
        finished("tuned")
    return Mending(recovery, distillation, tuning)


def recovery_method(data: DataSplits, settings: RunSettings) -> RecoveryMethod:
    """What the user chose; by default least squares, and nothing for noise."""
    default: RecoveryMethod = "none" if data.calibration.is_synthetic else DEFAULT_RECOVERY
    return settings.recover or default


def _judge(shrunk: Shrunk, data: DataSplits) -> Judge | None:
    """Of images that nothing is fitted to, if there are such; none where all are noise."""
    if data.calibration.is_synthetic:
        return None
    return Judge(shrunk.graph, data.selection or data.calibration, training_device())


def _refit(
    run: Run[RunSettings],
    shrunk: Shrunk,
    data: DataSplits,
    method: RecoveryMethod,
    judge: Judge | None,
) -> RecoverySummary:
    """Refit the layers; what that did is undone if ``judge`` finds no gain."""
    graph, module = shrunk.graph, shrunk.module
    images = graph.inputs.arranged(data.calibration)
    name = "batchnorm" if method == "batchnorm" else "least squares"
    own_tensors(module, graph.module)
    with run.watch.stage(f"recover ({name})") as stage:

        def fit() -> RecoverySummary:
            if method == "batchnorm":
                return reestimate_batchnorm(module, images)
            return fit_least_squares(
                graph, module, shrunk.removed, images, seed=run.seed,
                progress=lambda done, total: stage.note(f"layer {done} of {total}"),
            )  # fmt: skip

        summary, verdict = kept_if_better(judge, module, fit)
        if verdict is not None:
            verdict = replace(verdict, are_fitted=data.selection is None)
            stage.note(verdict_text(verdict_row(verdict)))
    return replace(summary, verdict=verdict)


def _distil(
    run: Run[RunSettings], shrunk: Shrunk, data: DataSplits, judge: Judge
) -> DistillationSummary | None:
    graph = shrunk.graph
    with run.watch.stage("distil") as stage:
        summary = distil(
            graph, shrunk.module, shrunk.removed, graph.inputs.arranged(data.calibration), judge,
            more=data.training, seed=run.seed,
            progress=lambda done, total: stage.note(f"step {done} of {total}"),
        )  # fmt: skip
        if summary is not None:
            stage.note(verdict_text(verdict_row(summary.verdict)))
    if summary is None:
        run.watch.warn(
            f"{len(data.calibration)} calibration images are too few to distil with; "
            "raise --num-calibration"
        )
    return summary


def _finetune(
    run: Run[RunSettings], shrunk: Shrunk, data: DataSplits, options: TuningOptions
) -> TuningSummary:
    kept = "the training is kept, the same command goes on after its last whole epoch"
    with run.watch.stage("train") as stage, noted(kept, KeyboardInterrupt):
        summary = finetune(
            Pupil(shrunk.graph, shrunk.module, shrunk.removed), data, options,
            seed=run.seed,
            checkpoint=_checkpoint(run, shrunk, data, options),
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
    run: Run[RunSettings], shrunk: Shrunk, data: DataSplits, options: TuningOptions
) -> Path:
    """Where the state of just this training is kept: another start or option has another file."""
    facts = [sha256_of_images(images) for images in data.image_sets().values()]
    for network in (shrunk.graph.module, shrunk.module):  # the teacher, and what learns from it
        facts += [graph_text(network), sha256_of_tensors(graph_tensors(network))]
    if data.training is not None:
        facts.append(f"{data.source} {data.training.num_images} {data.training.has_labels}")
    facts += [str(run.seed), str(options), torch.__version__]
    name = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
    return cache_folder() / "training" / f"{name}.pt"
