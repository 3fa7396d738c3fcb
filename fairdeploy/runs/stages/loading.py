"""The stages of a run, each with its line of progress; ``pipeline`` says in which order."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.pairing import places_in_groups
from fairdeploy.allocation.restrictions import (
    Rule,
    rules_without_an_option,
)
from fairdeploy.allocation.search import check_reachable, search
from fairdeploy.deployment.parity import predict, repeated
from fairdeploy.files import cache_folder
from fairdeploy.graph.capture.model_inputs import model_inputs
from fairdeploy.graph.graph_text import graph_tensors, graph_text
from fairdeploy.graph.residual_branches import blocks_hint
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.inputs.answers import checked_output, norm_distance
from fairdeploy.inputs.calibration import load_data
from fairdeploy.inputs.fingerprint import sha256_of_images, sha256_of_tensors
from fairdeploy.inputs.model_loading import adopt_module, load_model
from fairdeploy.inputs.other_inputs import with_noise_for_others
from fairdeploy.inputs.splits import with_rest_selected, with_spare_selection
from fairdeploy.records import (
    KNOBS,
    Allocation,
    AllocationRule,
    Budget,
    DataSplits,
    GroupScores,
    ImageSet,
    LoadedModel,
    Preprocessing,
    RecoverySummary,
    UnitScores,
)
from fairdeploy.recovery.batchnorm import reestimate_batchnorm
from fairdeploy.recovery.judgement import Judge, kept_if_better
from fairdeploy.recovery.least_squares.fit import fit_least_squares
from fairdeploy.recovery.least_squares.fitted_weights import own_tensors
from fairdeploy.recovery.training.finetuning import require_targets
from fairdeploy.reporting.accuracy_rows import verdict_row
from fairdeploy.reporting.quantities import verdict_text
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.runs.stages.groups import fitting_warning, method_warnings, unscored_groups
from fairdeploy.scoring.cache import cached_scores, scores_key
from fairdeploy.scoring.unit_scores import score_units
from fairdeploy.settings.options import RecoveryMethod
from fairdeploy.settings.run import DEFAULT_RECOVERY, ModelSettings, RunSettings
from fairdeploy.surgery.plan import Plan
from fairdeploy.tasks import task_for
from fairdeploy.tasks.base import NUM_ASKED, Original, pooled

SCORES_KEPT = "the scores are kept, the same command does not score again"
"""What is said to who interrupts a run after that."""


def load_network(settings: ModelSettings, watch: Stopwatch) -> LoadedModel:
    """Load the network and pass its warnings on."""
    with watch.stage("load model") as stage:
        images: dict[str, Any] = {
            "input_shape": settings.input_shape, "mean": settings.mean, "std": settings.std,
            "fitting": settings.fitting, "inputs": settings.inputs,
        }  # fmt: skip
        if settings.module is not None:
            model = adopt_module(settings.module, settings.source, **images)
        else:
            model = load_model(
                settings.source, arch=settings.arch, trust_pickle=settings.trust_pickle,
                num_classes=settings.num_classes, seed=settings.seed, weights=settings.weights,
                **images,
            )  # fmt: skip
        stage.note(f"{model.name}, weights: {model.weights}" if model.weights else model.name)
    for text in model.warnings:
        watch.warn(text)
    return model


def capture_network(model: LoadedModel, settings: ModelSettings, watch: Stopwatch) -> UnitGraph:
    """Trace the network and find its units."""
    with watch.stage("unit graph") as stage:
        inputs = model_inputs(
            model.module, model.inputs, model.preprocessing.shape, settings.fixed_batch
        )
        graph = build_unit_graph(
            model.module,
            inputs,
            settings.main_output,
            attention=settings.attention,
            allow_norm_coupled=settings.allow_norm_coupled,
            blocks=settings.blocks,
        )
        num_blocks = len(graph.branches)
        units, groups = graph.num_units - num_blocks, len(graph.groups) - num_blocks
        blocks = f", {num_blocks} residual blocks" if settings.blocks else ""
        stage.note(f"{units:,} units in {groups} groups{blocks}")
    if not graph.has_dynamic_batch and settings.fixed_batch is None:
        batch = graph.inputs.batch
        watch.warn(f"the model takes no other batch than {batch}; nor does what is written")
    return graph


def refuse_unreachable(
    graph: UnitGraph,
    costs: CostModel,
    budgets: tuple[Budget, ...],
    channel_multiple: int,
    rules: Sequence[Rule] = (),
) -> None:
    """Refuse an unreachable budget before any image is read."""
    relaxed = {
        name: unscored_groups(graph, channel_multiple, rest)
        for name, rest in rules_without_an_option(rules).items()
    }
    groups = unscored_groups(graph, channel_multiple, rules)
    check_reachable(groups, costs.costs, budgets, relaxed, lambda: blocks_hint(graph))


def load_images(
    settings: RunSettings, model: LoadedModel, graph: UnitGraph, watch: Stopwatch
) -> tuple[DataSplits, UnitGraph]:
    """Read calibration and test images, and settle what the network's answers are for.

    Labels that are missing are predicted where the task can.

    Returns:
        The images, and the graph with its task.
    """
    with watch.stage("load images") as stage, torch.no_grad():
        data = load_data(
            settings.data,
            model.preprocessing,
            loaders=settings.loaders,
            num_calibration=settings.num_calibration,
            max_test=settings.max_test,
            num_selection=settings.num_selection if settings.selects else 0,
            with_training=settings.tuning is not None,
            with_rest=settings.recover == "distil"
            or settings.is_repair_judged
            or settings.selects_with_rest,
            seed=settings.model.seed,
            class_names=settings.class_names,
            class_order=settings.class_order,
            others=graph.inputs.others,
            image_name=graph.inputs.names[graph.inputs.image],
        )
        if settings.is_repair_judged:
            data = with_spare_selection(data, settings.num_selection)
        if settings.recover == "distil" and data.training is not None and not settings.tuning:
            # Distillation alone: whatever labels there are, nothing learns from them.
            data = replace(data, training=replace(data.training, has_labels=False))
        data = with_noise_for_others(data, graph.inputs, settings.model.seed)
        graph = _with_task(graph, data, settings)
        task = graph.outputs.task
        if settings.tuning is not None:
            require_targets(task)
        original = _original(data, settings, model, graph)
        data = task.checked(
            data,
            original,
            names_are_given=settings.class_names is not None or not _is_folder(settings),
        )
        task.check_method(settings.method)
        if settings.selects_with_rest:
            data = with_rest_selected(data, settings.num_selection, _marks(graph, original))
        data = task.with_own_targets(data, original)
        num_test = len(data.test) if data.test is not None else 0
        stage.note(f"{len(data.calibration)} to calibrate, {num_test} to test")
    for text in data.warnings:
        watch.warn(fitting_warning(text, settings.method))
    return data, graph


def _with_task(graph: UnitGraph, data: DataSplits, settings: RunSettings) -> UnitGraph:
    """With the task that the user names, or that labels and output belong to."""
    count = min(NUM_ASKED, len(data.calibration)) if graph.has_dynamic_batch else graph.inputs.batch
    some = repeated(graph.inputs.arranged(data.calibration), 0, count)
    answer = checked_output(graph.outputs.main_tensor(graph.module(*some)), count)
    sets = [images for images in data.image_sets().values() if images.labels is not None]
    labels = torch.cat([s.labels for s in sets if s.labels is not None]) if sets else None
    return graph.for_task(task_for(answer, labels, settings.task))


def _original(
    data: DataSplits, settings: RunSettings, model: LoadedModel, graph: UnitGraph
) -> Original:
    """What the check of the labels asks the network, and how it gets a few images otherwise."""

    def reread(preprocessing: Preprocessing) -> ImageSet:
        again = load_data(
            settings.data,
            preprocessing,
            num_calibration=NUM_ASKED,
            max_test=0,
            seed=settings.model.seed,
            class_names=settings.class_names,
            class_order=settings.class_order,
            others=graph.inputs.others,
            image_name=graph.inputs.names[graph.inputs.image],
        )
        return with_noise_for_others(again, graph.inputs, settings.model.seed).calibration

    def distance(images: ImageSet) -> float | None:
        count = NUM_ASKED if graph.has_dynamic_batch else graph.inputs.batch
        some = repeated(graph.inputs.arranged(images), 0, count)
        return norm_distance(model.module, lambda: graph.inputs.call(model.module, some))

    answers = pooled_answers(graph)
    main = graph.outputs.main_tensor(graph.module(*graph.example_inputs))
    is_file = settings.loaders is None and _exists(settings)
    return Original(
        lambda images: answers(*graph.inputs.arranged(images)),
        distance,
        reread if is_file else None,
        data.preprocessing or model.preprocessing,
        pooled(checked_output(main, graph.inputs.batch)).shape[1],
    )


def _exists(settings: RunSettings) -> bool:
    return settings.data is not None and Path(settings.data).exists()


def _is_folder(settings: RunSettings) -> bool:
    is_named = settings.data is not None and settings.loaders is None
    return is_named and Path(settings.data or "").is_dir()


def _marks(graph: UnitGraph, original: Original) -> Callable[[ImageSet], Tensor]:
    """How good the original's answer to each labelled image is."""

    def marks(images: ImageSet) -> Tensor:
        assert images.labels is not None
        return graph.outputs.task.marks(original.answers(images), images.labels)

    return marks


def pooled_answers(graph: UnitGraph) -> Callable[..., Tensor]:
    """The network as a function of one tensor per input to pooled answers, of any N images."""

    def reduced(*inputs: Tensor) -> Tensor:
        return pooled(graph.outputs.main_tensor(graph.module(*inputs)))

    def answers(*inputs: Tensor) -> Tensor:
        is_fixed = not graph.has_dynamic_batch
        batch = graph.inputs.batch if is_fixed else min(NUM_ASKED, len(inputs[0]))
        return predict(reduced, inputs, batch, is_batch_fixed=is_fixed)

    return answers


def score(
    graph: UnitGraph,
    model: LoadedModel,
    data: DataSplits,
    settings: RunSettings,
    watch: Stopwatch,
) -> UnitScores:
    """U and R of all units, or what takes their places: from the cache, or in one pass."""
    seed, method = settings.model.seed, settings.method
    key = _scores_key(graph, data, settings)
    for text in method_warnings(method):
        watch.warn(text)
    with watch.stage("score units", total=len(data.calibration)) as stage:
        return cached_scores(
            cache_folder(),
            key,
            graph.num_units,
            lambda: score_units(
                graph,
                data.calibration,
                seed=seed,
                signal=method.signal,
                protect=method.protect,
                progress=stage.advance,
            ),
            tell_found=lambda: stage.note("from the cache"),
        )


def _scores_key(graph: UnitGraph, data: DataSplits, settings: RunSettings) -> str:
    """Everything that scores hang on: what is computed, on what, and what may go."""
    units = [(group.name, group.blocks.tolist()) for group in graph.groups]
    return scores_key(
        sha256_of_tensors(graph_tensors(graph.module)),
        sha256_of_images(data.calibration),
        graph=graph_text(graph.module), units=json.dumps(units), attention=graph.attention,
        norms=graph.allow_norm_coupled, branches=" ".join(b.name for b in graph.branches),
        inputs=" ".join(map(str, graph.inputs.specs)), output=graph.outputs.main,
        task=graph.outputs.task.words.name,
        batch=graph.inputs.batch if graph.inputs.is_batch_fixed else 0,
        signal=settings.method.signal, protect=settings.method.protect,
        seed=settings.model.seed, device=graph.device.type,
        versions=f"torch {torch.__version__}, numpy {np.__version__}",
    )  # fmt: skip


def allocate(
    groups: tuple[GroupScores, ...],
    costs: CostModel,
    budgets: tuple[Budget, ...],
    watch: Stopwatch,
    rule: AllocationRule = "tod",
) -> Allocation:
    """Which units go; ``rule`` is the one that ``groups`` follow."""
    knob = KNOBS[rule]
    with watch.stage(f"search {knob}") as stage:
        allocation = search(groups, costs.costs, budgets)
        stage.note(f"{knob} {allocation.tolerance:.3f}")
    return allocation


def recover(
    graph: UnitGraph,
    shrunk: fx.GraphModule,
    removed: NDArray[np.bool_],
    data: DataSplits,
    settings: RunSettings,
    watch: Stopwatch,
    judge: Judge | None = None,
) -> RecoverySummary | None:
    """Repair ``shrunk`` (changes it); noise teaches it nothing, so without images it stays.

    What the repair did to it is undone if ``judge`` finds no gain.
    """
    method = recovery_method(data, settings)
    if method == "none" or not removed.any():
        return None
    images = graph.inputs.arranged(data.calibration)
    name = "batchnorm" if method == "batchnorm" else "least squares"
    own_tensors(shrunk, graph.module)
    with watch.stage(f"recover ({name})") as stage:

        def repair() -> RecoverySummary:
            if method == "batchnorm":
                return reestimate_batchnorm(shrunk, images)
            return fit_least_squares(
                graph, shrunk, removed, images, seed=settings.model.seed,
                progress=lambda done, total: stage.note(f"layer {done} of {total}"),
            )  # fmt: skip

        summary, verdict = kept_if_better(judge, shrunk, repair)
        if verdict is not None:
            verdict = replace(verdict, are_fitted=data.selection is None)
            stage.note(verdict_text(verdict_row(verdict)))
    return replace(summary, verdict=verdict)


def recovery_method(data: DataSplits, settings: RunSettings) -> RecoveryMethod:
    """What the user chose; by default least squares, and nothing for noise."""
    default: RecoveryMethod = "none" if data.calibration.is_synthetic else DEFAULT_RECOVERY
    return settings.recover or default


def make_plan(
    model: LoadedModel,
    graph: UnitGraph,
    groups: tuple[GroupScores, ...],
    allocation: Allocation,
) -> Plan:
    """The plan that ``plan.json`` holds."""
    removed = places_in_groups(groups, allocation.removed)
    return Plan(
        model_name=model.name,
        model_sha256=model.sha256,
        input_shape=model.preprocessing.shape,
        tolerance=allocation.tolerance,
        attention=graph.attention,
        allow_norm_coupled=graph.allow_norm_coupled,
        blocks=bool(graph.branches),
        group_sizes={group.name: group.blocks.size for group in graph.groups},
        removed={name: units for name, units in removed.items() if units},
        inputs=model.inputs,
        fixed_batch=graph.inputs.batch if graph.inputs.is_batch_fixed else None,
    )
