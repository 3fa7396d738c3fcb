"""The commands as Python calls, on networks and images of the calling program or on disk."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from fairdeploy.errors import DataError, UsageError
from fairdeploy.files import appearing_folder
from fairdeploy.inputs.factories import one_line
from fairdeploy.inputs.random_state import seeded_random_state
from fairdeploy.runs import shrink as shrinking
from fairdeploy.runs.export import run as exporting
from fairdeploy.runs.folder import reload
from fairdeploy.runs.inspect import document as inspecting
from fairdeploy.runs.measure import run as measuring
from fairdeploy.runs.progress import Progress
from fairdeploy.runs.sweep import run as sweeping
from fairdeploy.settings.options import (
    ExportOptions,
    InspectOptions,
    MeasureOptions,
    ShrinkOptions,
    SweepOptions,
)
from fairdeploy.settings.project_file import ProjectFile, settings_from_keywords
from fairdeploy.surgery.plan import Plan, read_plan

Data = Any
"""A path or factory; a ``DataLoader`` or ``Dataset``; tensors or arrays: images, or images with
labels; or a pair of loaders, to learn from and to test on."""
_DATA_NAME = "data of the call"
_DATASET_BATCH = 64


@dataclass(frozen=True)
class Written:
    """What a call made, in ``folder``, or in memory until ``save``."""

    report: Mapping[str, Any] = field(repr=False)
    """What ``report.json`` or ``sweep.json`` holds."""
    folder: Path | None
    """None: no ``output`` was named, nothing is kept on disk."""
    _files: Path = field(repr=False)
    _scratch: tempfile.TemporaryDirectory[str] | None = field(repr=False, compare=False)

    def save(self, folder: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write all files to ``folder``, which appears whole or not at all.

        Args:
            folder: Must not be there, unless ``force`` replaces an earlier result.
            force: Replace it.

        Raises:
            OutputError: It is there, or the disk refused.
        """
        path = Path(folder)
        with appearing_folder(path, force=force) as scratch:
            shutil.copytree(self._files, scratch, dirs_exist_ok=True)
        return path


@dataclass(frozen=True)
class Result(Written):
    """A shrunk network with its plan, report and files."""

    network: nn.Module = field(repr=False)
    """In eval mode, on the CPU: of the original's own class where that is possible, else the proved
    graph module (``report["model"]["own_class"]`` says why)."""
    plan: Plan = field(repr=False)
    """Which units went; ``apply`` removes them from the original."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What was asked for and is not met: budgets, and the accuracy that was to be kept."""
        missed = [f"{row['asked']} is not met" for row in self.report["budget"] if not row["met"]]
        gate = self.report.get("max_drop")
        return (*missed, *([gate["problem"]] if gate and not gate["passed"] else []))


@dataclass(frozen=True)
class SweepResult(Written):
    """Networks between the smallest and the original, measured, with their plans."""


def shrink(
    model: nn.Module | str | os.PathLike[str],
    data: Data = None,
    budget: str | Sequence[str] | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
    latency: bool = True,
    trust_pickle: bool = False,
    trust_project: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Result:
    """Shrink a network to a budget: remove, prove, repair, export, measure, report.

    Args:
        model: A network, which is left as it was, or what ``fairdeploy shrink`` takes: a file,
            ``timm:NAME`` or ``torchvision:NAME``.
        data: Images to score and repair with, and to test on where they have labels. In memory:
            float32 [N, C, H, W], prepared as the network takes them; labels int64 [N]. Batches are
            images, (images, labels), or for several inputs ({name: tensor}, labels).
        budget: What may stay: ``"40%"`` of the parameters, ``"latency=5ms"``, ``"macs=50%"``,
            several in a list.
        output: A folder to write to; None: nothing is kept on disk.
        force: Replace an earlier result in ``output``.
        latency: Whether to race original and shrunk network on the target.
        trust_pickle: Let a file run code.
        trust_project: Let a ``fairdeploy.toml`` outside the working folder name code to run.
        progress: Listens to the stages; None: silence.
        settings: The keys of ``fairdeploy.toml``: ``seed=0``, ``recover="distil"``,
            ``max_drop="1%"``, ``attention="both"``, ``target="cpu-1thread"`` and so on.

    Raises:
        FairdeployError: With one line that says what is wrong and what would be right. Missed
            budgets are not raised: see ``Result.problems``.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise UsageError(
            "training in several processes is for the command: torchrun -m fairdeploy shrink"
        )
    with ExitStack() as stack:
        _enter_own_modes(stack)
        said = settings_from_keywords({"budget": budget, **settings})
        files, scratch = _where(output)
        given, said = _given(model, data, said)
        options = ShrinkOptions(
            **given, said=said, output=files, force=force, with_latency=latency,
            trust_pickle=trust_pickle, trust_project=trust_project,
        )  # fmt: skip
        made = shrinking.shrink(options, progress)
        comes_back = made.document["model"]["own_class"]["rebuilt"]
        own = made.original.module if made.original and comes_back else None
        network = reload.load(files, own)
    folder = None if output is None else files
    plan = read_plan(files / reload.PLAN_FILE)
    return Result(made.document, folder, files, scratch, network, plan)


def sweep(
    model: nn.Module | str | os.PathLike[str],
    data: Data = None,
    *,
    metric: str | None = None,
    points: int | None = None,
    at: Sequence[float] | None = None,
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
    latency: bool = True,
    trust_pickle: bool = False,
    trust_project: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> SweepResult:
    """Measure what each of many budgets would give, from one scoring run.

    Args:
        model: As for ``shrink``, like all that is not here.
        data: As for ``shrink``.
        metric: What is swept: ``params``, ``macs`` or ``size``.
        points: How many networks besides the original.
        at: Percentages of the original's cost to measure at, instead of ``points``.
        output: As for ``shrink``.
        force: As for ``shrink``.
        latency: Whether to race each network against the original.
        trust_pickle: As for ``shrink``.
        trust_project: As for ``shrink``.
        progress: As for ``shrink``.
        settings: As for ``shrink``.

    Raises:
        FairdeployError: As from ``shrink``.
    """
    with ExitStack() as stack:
        _enter_own_modes(stack)
        files, scratch = _where(output)
        given, said = _given(model, data, settings_from_keywords(settings))
        options = SweepOptions(
            **given, said=said, output=files, force=force, with_latency=latency, metric=metric,
            points=points, at=None if at is None else tuple(at),
            trust_pickle=trust_pickle, trust_project=trust_project,
        )  # fmt: skip
        made = sweeping.sweep(options, progress)
    return SweepResult(made.document, None if output is None else files, files, scratch)


def inspect(
    model: nn.Module | str | os.PathLike[str],
    *,
    prove: bool = False,
    trust_pickle: bool = False,
    trust_project: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Tell what can be removed from a network, what cannot, and why; needs no data.

    Args:
        model: As for ``shrink``; a network in memory needs ``input_size`` (H, or C, H, W).
        prove: Remove about half of every group at random and prove it.
        trust_pickle: As for ``shrink``.
        trust_project: As for ``shrink``.
        progress: As for ``shrink``.
        settings: As for ``shrink``.

    Returns:
        What ``fairdeploy inspect --json`` prints.

    Raises:
        FairdeployError: As from ``shrink``.
    """
    with ExitStack() as stack:
        _enter_own_modes(stack)
        given, said = _given(model, None, settings_from_keywords(settings))
        options = InspectOptions(
            **given, said=said, prove=prove, trust_pickle=trust_pickle, trust_project=trust_project
        )
        return inspecting.inspect(options, progress)


def measure(
    *files: str | os.PathLike[str],
    target: str = "cpu",
    batches: Sequence[int] = (),
    threads: Sequence[int] = (),
    sizes: Mapping[str, int] | None = None,
    seconds: float | None = None,
    idle_gap_ms: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure an ONNX file, or race two in turn.

    Args:
        files: One or two.
        target: Name or path of a target profile.
        batches: Numbers of images at a time; none: the target's, or the only one the file takes.
        threads: Numbers of threads, 0 for all; none: the target's.
        sizes: Sizes that vary besides the batch.
        seconds: How long to race at most.
        idle_gap_ms: Milliseconds of rest between two calls.
        seed: Of the made-up inputs.
        progress: Listens to the stages; None: silence.

    Returns:
        What ``fairdeploy measure --json`` prints.

    Raises:
        FairdeployError: A file cannot be opened, or the two take different inputs.
    """
    if not 1 <= len(files) <= 2:
        raise UsageError(f"{len(files)} files given; give one to measure, or two to race")
    options = MeasureOptions(
        files=tuple(map(Path, files)), target=target, batches=tuple(batches),
        threads=tuple(threads), sizes=sizes or {}, seconds=seconds, idle_gap_ms=idle_gap_ms,
        seed=seed,
    )  # fmt: skip
    return measuring.measure(options, progress)


def export(
    result: Result | str | os.PathLike[str],
    *,
    formats: Sequence[str] = ("onnx",),
    precisions: Sequence[str] = ("fp32",),
    data: str | None = None,
    num_calibration: int | None = None,
    max_test: int | None = None,
    max_drop: float | None = None,
    batch: int | None = None,
    opset: int | None = None,
    embed_preprocess: bool = False,
    probabilities: bool = False,
    trust_project: bool = False,
    target: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write more files of a shrunk network, in other precisions and formats, and check each.

    Args:
        result: What ``shrink`` gave, or the folder that it wrote.
        formats: Names of exporters, and ``pt2``.
        precisions: ``fp32``, ``fp16``, ``int8`` or others that a format has.
        data: Images to calibrate and check with; None: those of the run, if they are on disk.
        num_calibration: Images that INT8 ranges are measured on.
        max_test: Images that every file is checked on.
        max_drop: Share of right answers that INT8 may lose: 0.01.
        batch: The only number of images that the files shall take.
        opset: Version of ONNX's operators.
        embed_preprocess: Put resize and normalisation into the ONNX file.
        probabilities: Let the ONNX file end in a softmax.
        trust_project: Let the folder's report name code to run.
        target: Name or path of a target profile.
        progress: Listens to the stages; None: silence.

    Returns:
        The report as it is now; ``report["variants"]`` has a row for each file, with ``passed``.

    Raises:
        FairdeployError: Nothing was written then.
    """
    folder = result._files if isinstance(result, Result) else Path(result)
    options = ExportOptions(
        folder=folder, formats=tuple(formats), precisions=tuple(precisions), data=data,
        num_calibration=num_calibration, max_test=max_test, max_drop=max_drop, batch=batch,
        opset=opset, embed_preprocess=embed_preprocess, probabilities=probabilities,
        trust_project=trust_project, target=target,
    )  # fmt: skip
    return dict(exporting.export(options, progress).document)


def _enter_own_modes(stack: ExitStack) -> None:
    """Let gradients be computed, whatever the caller has switched off."""
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.enable_grad())


def _where(
    output: str | os.PathLike[str] | None,
) -> tuple[Path, tempfile.TemporaryDirectory[str] | None]:
    if output is not None:
        return Path(output), None
    scratch = tempfile.TemporaryDirectory(prefix="fairdeploy-")
    return Path(scratch.name) / "result", scratch


def _given(
    model: nn.Module | str | os.PathLike[str], data: Data, said: ProjectFile
) -> tuple[dict[str, Any], ProjectFile]:
    """Model and data as options, and the settings with the images' size where the data tells it."""
    given: dict[str, Any] = {}
    if isinstance(model, nn.Module):
        given = {"model": type(model).__name__, "module": model}
    elif isinstance(model, str | os.PathLike):
        given = {"model": os.fspath(model)}
    else:
        raise UsageError(
            f"the model is a {type(model).__name__}; give a torch.nn.Module or the path of a file"
        )
    if data is None:
        return given, said
    if isinstance(data, str | os.PathLike):
        return {**given, "data": os.fspath(data)}, said
    loaders, shape = _with_shape(_loaders_of(data), said.seed or 0)
    if shape is not None and said.input_size is None and said.inputs is None:
        given["input_shape"] = shape
    return {**given, "data": _DATA_NAME, "loaders": loaders}, said


def _loaders_of(data: Data) -> tuple[Iterable[object], ...]:
    """One iterable of batches, or two: to learn from and to test on."""
    if _is_array(data) or isinstance(data, Mapping):
        return ([_tensors(data)],)
    if isinstance(data, tuple) and len(data) == 2:
        if all(map(_is_array, data)):
            return ([_tensors(data)],)
        if all(_is_loader(one) for one in data):
            return tuple(_loader(one) for one in data)
    if not _is_loader(data):
        raise DataError(
            f"the data is a {type(data).__name__}; give a path, a DataLoader, a Dataset, a tensor "
            "of images, (images, labels), or a pair of loaders (train, test)"
        )
    return (_loader(data),)


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _is_loader(value: object) -> bool:
    is_dataset = isinstance(value, Dataset) and not isinstance(value, IterableDataset)
    return is_dataset or (isinstance(value, Iterable) and not _is_array(value))


def _loader(value: Any) -> Iterable[object]:
    is_dataset = isinstance(value, Dataset) and not isinstance(value, IterableDataset)
    return DataLoader(value, batch_size=_DATASET_BATCH) if is_dataset else value


def _tensors(value: Any) -> object:
    """The same with arrays as tensors."""
    if isinstance(value, Mapping):
        return {name: _tensors(one) for name, one in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_tensors, value))
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _with_shape(
    loaders: tuple[Iterable[object], ...], seed: int
) -> tuple[tuple[Iterable[object], ...], tuple[int, int, int] | None]:
    """The loaders, and [C, H, W] of the first batch's images; None where it has not four sizes."""
    first, *others = loaders
    try:
        with seeded_random_state(seed):
            items = iter(first)
            batch = next(items, None)
    except Exception as error:  # user code
        raise DataError(
            f"the loader of the {_DATA_NAME} fails with {type(error).__name__}: {one_line(error)}"
        ) from error
    if items is first and batch is not None:  # a generator: what was taken is put back
        first = itertools.chain([batch], items)
    part = batch[0] if isinstance(batch, tuple | list) and batch else batch
    named = list(part.values()) if isinstance(part, Mapping) else [part]
    images = next((t for t in named if isinstance(t, Tensor) and t.dim() == 4), None)
    shape = None if images is None else (images.shape[1], images.shape[2], images.shape[3])
    return (first, *others), shape
