"""What the stages hand over, in the order in which it is made.

Records are frozen: a stage that changes something makes a new one. Arrays inside are not copied,
and nobody writes into them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from fairdeploy.input_specs import InputSpec, VaryingSize

LabelSource = Literal["given", "predicted", "none"]
MetricName = Literal["params", "macs", "size", "latency"]


# ---- inputs ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image file becomes the model's input: resize, scale to [0, 1], normalise."""

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one input image, [C, H, W]."""
        return (self.channels, self.height, self.width)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in eval mode, ready to be captured."""

    name: str
    module: nn.Module
    """The user's module, or the unlifted graph of a ``.pt2`` (then ``is_user_class`` is false)."""
    is_user_class: bool
    preprocessing: Preprocessing
    sha256: str
    """Of the weights, names and shapes; equal weights give equal hashes."""
    source: str
    """What the user typed: a path, ``timm:NAME`` or ``torchvision:NAME``."""
    warnings: tuple[str, ...] = ()
    """What was assumed in loading and should be told: random weights, unknown mean and std, …"""
    inputs: tuple[InputSpec, ...] = ()
    """As the user described them; empty for one image and nothing else."""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images as the model takes them, float32 [N, C, H, W], with int64 labels [N]."""

    images: Tensor
    labels: Tensor | None
    label_source: LabelSource
    is_synthetic: bool = False
    others: Mapping[str, Tensor] = field(default_factory=dict)
    """What the network's other inputs take with each image, by input name, [N, ...]."""

    def __len__(self) -> int:
        return int(self.images.shape[0])


@dataclass(frozen=True, slots=True)
class DataSplits:
    """Calibration and test images, which never overlap; ``test`` is None without labels."""

    calibration: ImageSet
    test: ImageSet | None
    class_names: tuple[str, ...] | None
    source: str
    sha256: str
    """Of the calibration images and labels."""
    warnings: tuple[str, ...] = ()


# ---- control -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Restrictions:
    """What the user keeps from being removed, on top of what the network keeps by itself.

    A glob matches a group through the modules that make its units; see
    ``allocation.module_globs``. Where several values hold for a group, the strictest counts.
    """

    include: tuple[str, ...] = ()
    """Globs; if any is given, only groups that they cover can shrink."""
    exclude: tuple[str, ...] = ()
    """Globs; every group that one of them touches stays whole."""
    max_prune: tuple[tuple[str, float], ...] = ()
    """Globs, and the largest share of a group's units that may go, 0 to 1."""
    min_units: tuple[tuple[str, int], ...] = ()
    """Globs, and how many units a group keeps at least."""
    round_to: int | None = None
    """Channel counts become multiples of this; None: as the target likes them."""


@dataclass(frozen=True, slots=True)
class GroupRemark:
    """What a restriction means for one group, or why the group could not honour it."""

    group: str
    text: str


@dataclass(frozen=True, slots=True)
class RestrictionOutcome:
    """What came of one restriction in a plan."""

    option: str
    """As typed: ``--exclude 'layer4.*'``."""
    num_groups: int
    """Removable groups that it applies to."""
    num_held: int
    """Of these: groups that it kept from losing more, in this plan."""
    exceptions: tuple[GroupRemark, ...] = ()
    """Groups that could not honour it, and why."""
    notes: tuple[GroupRemark, ...] = ()
    """What it means for groups where that is not plain."""


# ---- scoring -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UnitScores:
    """U and R of every unit, float64 [num_units]."""

    u: NDArray[np.float64]
    """Distance between classes within the layer, 1 on average; low is proposed for removal."""
    r: NDArray[np.float64]
    """Estimated change of the mean loss if the unit goes; high is protected."""
    num_classes: int
    """Classes that were compared."""
    num_unmeasured: int
    """Units that no layer's output shows; their U is their R rank in the group."""


# ---- allocation --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit: ``metric`` may be at most ``fraction`` of the original, or ``absolute`` units.

    Exactly one of the two is set. Units: parameters, MACs per image, bytes, milliseconds.
    """

    metric: MetricName
    text: str
    fraction: float | None = None
    absolute: float | None = None

    def allowed(self, original: float) -> float:
        """The largest value that meets this budget, in the metric's own unit."""
        if self.fraction is not None:
            return self.fraction * original
        assert self.absolute is not None
        return self.absolute


@dataclass(frozen=True, slots=True)
class GroupScores:
    """Scores of one group's N units, and how many of them may go (at most N - 1).

    In a balanced group one of each block goes at a time, so these are N sets of units.
    """

    name: str
    u: NDArray[np.float64]
    r: NDArray[np.float64]
    max_removed: int
    step: int = 1
    """What stays is a multiple of this, or all N: runtimes are fast at multiples of 4 to 16."""
    reluctance: float = 0.0
    """Shared tolerance below which this group stays whole, in [0, 1); from there on its own
    tolerance rises from 0 to 1."""
    places: NDArray[np.int64] | None = None
    """Shape [N, B]: the units of the graph's group that each of the N stands for, one per block;
    None where there is one block."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """Which units go, by group, and how the search got there."""

    tolerance: float
    removed: Mapping[str, tuple[int, ...]]
    """Group name to the local indices of the removed units, ascending; every group is a key."""
    prefix_lengths: Mapping[str, int]
    """Group name to the ``k`` that the tolerance allowed, before rounding to multiples and before
    the top-up gave units back."""
    costs: Mapping[str, float]
    num_evaluations: int


@dataclass(frozen=True, slots=True)
class GroupDiagnostics:
    """R-mass (sum of R-Scores, in units of the loss) that one group gave up."""

    tod: float
    """ToD at the prefix that the tolerance allowed; 0 where nothing went."""
    r_mass_removed: float
    """After the top-up."""
    r_mass_prefix: float
    """Before the top-up."""
    r_mass_bound: float
    """No prefix of that length with that ToD can have more."""
    r_mass_uniform: float
    """What uniform pruning at the same budgets removes."""


@dataclass(frozen=True, slots=True)
class AllocationDiagnostics:
    """R-mass by group name, and the sum over groups of uniform minus ToD.

    An ``exchange`` above 0 speaks for ToD against uniform pruning at the same budgets.
    """

    groups: Mapping[str, GroupDiagnostics]
    uniform_fraction: float
    exchange: float


# ---- surgery and recovery ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProofResult:
    """Zeroed original against shrunk network."""

    max_relative_error: float
    limit: float
    num_inputs: int
    batch_sizes: tuple[int, ...]
    precision: str = "float32"
    """``float64`` where float32 was beyond the limit: the network magnifies rounding."""
    num_coupled_norms: int = 0
    """Norms that lost channels they take statistics over; the proof covers everything else."""
    norm_coupled_difference: float | None = None
    """What that makes of the outputs: the largest difference between the shrunk network and the
    original with plain zeros, relative to the latter; None if no norm lost channels."""
    image_sizes: tuple[str, ...] = ()
    """Where sizes vary: those that were tried, as ``H=192, W=224``."""

    @property
    def passed(self) -> bool:
        """Whether the error is a number and within the limit."""
        return self.max_relative_error <= self.limit


@dataclass(frozen=True, slots=True)
class AccuracyEstimate:
    """Share of right answers with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    num_images: int


@dataclass(frozen=True, slots=True)
class LayerFit:
    """What recovery did to one layer; errors are shares of the target's variance, held out."""

    layer: str
    outcome: Literal["fitted", "kept", "exact", "skipped"]
    """``kept``: no change helped on held-out images; ``exact``: nothing was lost so far;
    ``skipped``: the layer has too many unknowns."""
    error_before: float | None
    error_after: float | None
    ridge: float | None
    """Penalty on the change of the weights, relative to the mean squared input."""


@dataclass(frozen=True, slots=True)
class RecoverySummary:
    """How the shrunk network was repaired."""

    method: Literal["least_squares", "batchnorm"]
    layers: tuple[LayerFit, ...]
    num_images: int
    seconds: float


# ---- deployment --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TargetProfile:
    """The device and runtime that counts (``profiles/*.toml``)."""

    name: str
    description: str
    runtime: str
    """Which exporter's runner opens the file: ``onnx``, ``tensorrt``, …"""
    providers: tuple[str, ...]
    precision: str
    batch: int
    threads: int
    """0: all cores."""
    channel_multiple: int
    """Channel counts that are multiples of this run faster; 1: any count."""
    warmup_seconds: float
    min_pairs: int
    max_seconds: float
    ratio_interval: float
    """Stop once the 95 % interval of the ratio is narrower than this share of it."""
    parity_limit: float


@dataclass(frozen=True, slots=True)
class TensorNames:
    """What the inputs, outputs and varying sizes of an exported file are called."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sizes: tuple[Mapping[int, VaryingSize], ...]
    """For each input, its dimensions that vary besides the batch."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that was written for deployment. ``path`` is relative to the output folder."""

    path: str
    format: str
    precision: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ParityResult:
    """An artifact against the torch network at one batch size; error relative to output scale."""

    artifact: str
    batch: int
    max_relative_error: float
    limit: float
    top1_agreement: float
    image_size: str = ""
    """Where sizes vary: ``H=192, W=224``."""

    @property
    def passed(self) -> bool:
        """Whether the error is a number and within the limit."""
        return self.max_relative_error <= self.limit


@dataclass(frozen=True, slots=True)
class LatencyStats:
    """Milliseconds per call (not per image) of one network."""

    median_ms: float
    p90_ms: float
    p99_ms: float
    cold_start_ms: float
    """Opening the file and the first call."""
    raw_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LatencyComparison:
    """Original and shrunk in turn in one process; ``speedup`` is original / shrunk."""

    target: str
    batch: int
    original: LatencyStats
    shrunk: LatencyStats
    speedup: float
    speedup_low: float
    speedup_high: float
    stopped_because: str
    providers: tuple[str, ...]
    threads: int
    load_average: float
    is_noisy: bool


@dataclass(frozen=True, slots=True)
class AccuracyByStage:
    """Accuracy on the same test images along the run; None where it was not measured."""

    original: AccuracyEstimate | None = None
    pruned: AccuracyEstimate | None = None
    """After removal, before recovery."""
    recovered: AccuracyEstimate | None = None
    exported: AccuracyEstimate | None = None
    """Of the exported file, through the target's runtime."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """``report.json`` as a plain dictionary tree plus what only the HTML page draws."""

    document: Mapping[str, Any]
    tod_curves: Mapping[str, NDArray[np.float64]]
    latency: LatencyComparison | None
