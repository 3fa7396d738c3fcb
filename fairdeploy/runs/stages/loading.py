"""The stages that begin a run: load the network, capture it, read the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairdeploy.deployment.parity import predict, repeated
from fairdeploy.errors import DataError, UsageError
from fairdeploy.graph.capture.model_inputs import model_inputs
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.graph.walk.freezes import unused_modules, unused_tensors
from fairdeploy.inputs.answers import checked_output, norm_distance, require_judged
from fairdeploy.inputs.calibration import load_data
from fairdeploy.inputs.factories import load_factory, one_line
from fairdeploy.inputs.model_loading import adopt_module, load_model
from fairdeploy.inputs.other_inputs import with_noise_for_others
from fairdeploy.inputs.splits import with_rest_selected, with_spare_selection
from fairdeploy.records import (
    DataSplits,
    ImageSet,
    LoadedModel,
    Preprocessing,
)
from fairdeploy.records.method import choice_of
from fairdeploy.records.task_names import TASKS, task_spec
from fairdeploy.recovery.training.finetuning import require_targets
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.runs.run import Run
from fairdeploy.runs.stages.groups import fitting_warning
from fairdeploy.settings.run import ModelSettings, RunSettings
from fairdeploy.tasks import task_for
from fairdeploy.tasks.base import NUM_ASKED, Original, Task, pooled
from fairdeploy.tasks.guarded import guarded, tried


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
    if unused := unused_tensors(graph.module):
        watch.warn(_unused_text(graph, unused))
    if not graph.has_dynamic_batch and settings.fixed_batch is None:
        batch = graph.inputs.batch
        watch.warn(f"the model takes no other batch than {batch}; nor does what is written")
    return graph


def _unused_text(graph: UnitGraph, unused: frozenset[str]) -> str:
    sizes = {name: tensor.numel() for name, tensor in graph.module.named_parameters()}
    share = sum(sizes.get(name, 0) for name in unused) / sum(sizes.values())
    first, *others = unused_modules(graph.module)
    more = f" and {len(others)} more" if others else ""
    return (
        f"{share:.1%} of the parameters are never used ({first}{more}); they count, they stay, and "
        "only the files for devices leave them out: delete them from the network"
    )


def load_images(
    run: Run[RunSettings], model: LoadedModel, graph: UnitGraph
) -> tuple[DataSplits, UnitGraph]:
    """Read calibration and test images; predict the labels that are missing.

    Returns:
        The images, and the graph with what its answers are for.

    Raises:
        DataError: They cannot be used, or lack the labels that an option needs.
    """
    settings = run.settings
    with run.watch.stage("load images") as stage, torch.no_grad():
        data = _read(settings, model, graph)
        graph = graph.for_task(_task(graph, data, settings))
        if data.preprocessing is not None and data.preprocessing.item is not None:
            graph = replace(graph, inputs=replace(graph.inputs, are_pixels=False))
        data = _checked(data, settings, model, graph)
        num_test = len(data.test) if data.test is not None else 0
        stage.note(f"{len(data.calibration)} to calibrate, {num_test} to test")
    for text in data.warnings:
        run.watch.warn(fitting_warning(text, settings.method))
    learns_labels = settings.tuning is not None and not settings.tuning.distill
    require_judged(data, max_drop=settings.max_drop, learns_labels=learns_labels)
    is_gated = settings.max_drop is not None and not settings.searches_size
    if is_gated and (data.test is None or data.test.labels is None):
        raise DataError("--max-drop needs labelled test images, and there are none; give --data")
    return data, graph


def _task(graph: UnitGraph, data: DataSplits, settings: RunSettings) -> Task:
    """The one that the user names, or that labels and output belong to."""
    checked_output(
        graph.outputs.main_tensor(graph.module(*graph.example_inputs)), graph.inputs.batch
    )
    count = min(NUM_ASKED, len(data.calibration)) if graph.has_dynamic_batch else graph.inputs.batch
    some = repeated(graph.inputs.arranged(data.calibration), 0, count)
    answer = checked_output(graph.outputs.main_tensor(graph.module(*some)), count)
    sets = [images for images in data.image_sets().values() if images.labels is not None]
    labels = torch.cat([s.labels for s in sets if s.labels is not None]) if sets else None
    spec = None if settings.task is None else task_spec(settings.task)
    if settings.task is None or spec is None:
        return task_for(answer, labels, choice_of(settings.task, TASKS))
    targets = data.calibration.labels
    task = _own_task(spec, settings.task)
    return tried(task, answer, None if targets is None else targets[:count])


def _own_task(spec: str, called: str) -> Task:
    """What the user's factory makes, behind its guard."""
    factory = load_factory(spec, UsageError)
    try:
        made = factory()
    except Exception as error:  # user code
        raise UsageError(
            f"'{called}' fails with {type(error).__name__}: {one_line(error)}"
        ) from error
    return guarded(made, called)


def _read(settings: RunSettings, model: LoadedModel, graph: UnitGraph) -> DataSplits:
    """As they are given, with what the options need of them."""
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
    return with_noise_for_others(data, graph.inputs, settings.model.seed)


def _checked(
    data: DataSplits, settings: RunSettings, model: LoadedModel, graph: UnitGraph
) -> DataSplits:
    """With labels that belong to the network, or none."""
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
    if settings.selects_with_rest and task.judges_by_marks:
        data = with_rest_selected(data, settings.num_selection, marks_of(graph))
    elif settings.selects_with_rest:  # marks of other images than those compared mean nothing
        data = replace(data, training=None)
    return task.with_own_targets(data, original)


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


def marks_of(graph: UnitGraph) -> Callable[[ImageSet], Tensor]:
    """How good the original's answer to each labelled image is."""
    task = graph.outputs.task
    batch = NUM_ASKED if graph.has_dynamic_batch else graph.inputs.batch

    def marks(images: ImageSet) -> Tensor:
        assert images.labels is not None
        tensors, parts = graph.inputs.arranged(images), []
        for start in range(0, len(images), batch):
            labels = images.labels[start : start + batch]
            count = len(labels) if graph.has_dynamic_batch else batch
            answer = graph.outputs.main_tensor(graph.module(*repeated(tensors, start, count)))
            parts.append(task.marks(answer[: len(labels)].float(), labels))
        return torch.cat(parts)

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
