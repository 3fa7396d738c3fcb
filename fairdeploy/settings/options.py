"""What the user typed: one field for each option of the command line, None where it is absent.

A missing option is looked up in ``fairdeploy.toml`` and then has a default; see ``settings``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from fairdeploy.records import (
    AllocationRule,
    ClassOrder,
    ImageFitting,
    MetricName,
    ProtectName,
    SignalName,
)
from fairdeploy.records.deployment import HostOptions
from fairdeploy.records.method import AttentionOption

if TYPE_CHECKING:
    from torch import nn

    from fairdeploy.settings.project_file import ProjectFile

RecoveryMethod = Literal["least_squares", "distil", "batchnorm", "none"]
"""``distil``: least squares, then a short training without labels."""
RECOVERY_METHODS: tuple[RecoveryMethod, ...] = ("least_squares", "distil", "batchnorm", "none")


_Value = TypeVar("_Value")


def first_given(*values: _Value | None) -> _Value | None:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


InputShape = int | tuple[int, int, int]
"""Height = width, or [C, H, W]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which network, and what images it takes."""

    model: str
    """A path, ``timm:NAME`` or ``torchvision:NAME``; the name of ``module``, if that is given."""
    module: nn.Module | None = None
    """A network of this process, in place of one from a file."""
    said: ProjectFile | None = None
    """What a call from Python says in place of ``fairdeploy.toml``."""
    arch: str | None = None
    weights: str | None = None
    """Key or prefix of the weights to take where a checkpoint holds several."""
    num_classes: int | None = None
    input_shape: InputShape | None = None
    inputs: tuple[str, ...] | None = None
    """As typed, ``NAME:SIZES[:TYPE[:COUNT]]``; see ``input_specs``."""
    main_output: str | None = None
    """Name of the output that is scored and tested."""
    fixed_batch: int | None = None
    """The only number of images that the network shall take at a time."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fitting: ImageFitting = field(default_factory=ImageFitting)
    """How images are resized, cut and scaled."""
    seed: int | None = None
    trust_pickle: bool = False
    trust_project: bool = False
    """Let a ``fairdeploy.toml`` that lies outside the working folder name code to run."""
    attention: AttentionOption | None = None
    """What may go from attention."""
    allow_norm_coupled: bool = False
    """Let channels go that layer norms take their statistics over: not exact."""
    blocks: bool | None = None
    """Let residual branches go as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlOptions(ModelOptions):
    """What may be removed, and how much of it; see ``records.Restrictions``."""

    include: tuple[str, ...] | None = None
    """Globs on module paths."""
    exclude: tuple[str, ...] | None = None
    """Globs on module paths."""
    max_prune: tuple[tuple[str, float], ...] | None = None
    """Glob and share; ``*`` for all."""
    min_units: tuple[tuple[str, int], ...] | None = None
    """Glob and count; ``*`` for all."""
    round_to: int | None = None
    target: str | None = None
    """Name or path of a target profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectOptions(ControlOptions):
    """Everything that ``fairdeploy inspect`` can be told."""

    prove: bool = False
    """Remove about half of every group at random and prove it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """Training after the repair as it was typed; see ``TuningOptions``."""

    finetune: int | None = None
    """Epochs; 0: none, whatever ``fairdeploy.toml`` says."""
    distill: bool = False
    distill_features: bool = False
    learning_rate: float | None = None
    batch_size: int | None = None
    ema: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(ControlOptions):
    """What every command that scores and repairs can be told."""

    data: str | None = None
    """An image folder, an ``.npz`` file or ``package.module:factory``; what ``loaders`` are called,
    if they are given."""
    loaders: tuple[Iterable[object], ...] | None = None
    """Of this process: images to learn from, and images to test on."""
    class_names: tuple[str, ...] | None = None
    """In the order in which the model numbers its classes."""
    task: str | None = None
    """What the answers are for: a name, or ``file.py:factory``; None: what labels and output
    tell."""
    class_order: ClassOrder | None = None
    """How class folders are sorted where nobody names the classes."""
    output: Path | None = None
    recover: RecoveryMethod | None = None
    signal: SignalName | None = None
    """What is removed by; see ``records.PruningMethod``, also for the next two."""
    protect: ProtectName | None = None
    allocation: AllocationRule | None = None
    num_calibration: int | None = None
    num_selection: int | None = None
    """Held-out images to choose a network or an epoch with."""
    training: TrainingOptions = field(default_factory=TrainingOptions)
    force: bool = False
    """Replace an earlier result."""
    with_latency: bool = True
    command: tuple[str, ...] = ()
    """The command line as typed, for the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkOptions(RunOptions):
    """Everything that ``fairdeploy shrink`` can be told."""

    budgets: tuple[str, ...] | None = None
    """As typed: ``40%``, ``macs=50%,size=4MB``; see ``allocation.budget``."""
    max_drop: float | None = None
    """Share of all images that may be wrong in addition; without budgets the smallest network that
    keeps to it is found."""
    smallest: MetricName | None = None
    """What is made smallest then: one of ``COUNTED``."""
    steps: int | None = None
    """In how many steps to prune, each repaired and scored again."""
    host: HostOptions | None = None
    """Another machine that measures; None: this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions(RunOptions):
    """Everything that ``fairdeploy sweep`` can be told."""

    metric: str | None = None
    """What is swept: one of ``COUNTED``."""
    points: int | None = None
    """How many networks to measure, besides the original."""
    at: tuple[float, ...] | None = None
    """Percentages of the original's cost to measure at, instead of ``points``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleOptions:
    """Everything that ``fairdeploy bundle`` can be told."""

    output: Path
    sources: tuple[Path, ...]
    """One or two files, or a folder that holds them."""
    target: str
    batch: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = None
    idle_gap_ms: float | None = None
    seed: int = 0
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureOptions:
    """Everything that ``fairdeploy measure`` can be told."""

    files: tuple[Path, ...]
    """One, or two to race."""
    target: str
    batches: tuple[int, ...] = ()
    """Empty: the target's, or the only one that the file takes."""
    threads: tuple[int, ...] = ()
    """Empty: the target's."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Sizes that vary besides the batch."""
    seconds: float | None = None
    idle_gap_ms: float | None = None
    seed: int = 0
    host: HostOptions | None = None
    """Another machine that measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Everything that ``fairdeploy export`` can be told."""

    folder: Path
    """What ``fairdeploy shrink`` wrote."""
    formats: tuple[str, ...] = ("onnx",)
    """Names of exporters, and ``pt2``."""
    precisions: tuple[str, ...] = ("fp32",)
    data: str | None = None
    """None: that of the run, if it is still there."""
    num_calibration: int | None = None
    max_test: int | None = None
    max_drop: float | None = None
    """Share of right answers that a quantised file may lose."""
    batch: int | None = None
    """The only number of images that the files shall take."""
    opset: int | None = None
    embed_preprocess: bool = False
    probabilities: bool = False
    trust_project: bool = False
    """Let the folder's report name code to run: a factory of the images of the run."""
    target: str | None = None
    """Name or path of the target profile that files are opened with; None: cpu."""
