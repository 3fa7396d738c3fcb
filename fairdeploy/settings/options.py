"""Every option of the commands, written once: a field with its flag, key, check, default and help.

A field is None, or False, where it was not typed; ``fairdeploy.toml`` and then a default come in
its place in ``settings.run``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from fairdeploy.records import (
    ALLOCATION_RULES,
    CHANNEL_ORDERS,
    CLASS_ORDERS,
    CROP_MODES,
    INTERPOLATIONS,
    PROTECTIONS,
    SIGNALS,
    AllocationRule,
    ChannelOrder,
    ClassOrder,
    CropMode,
    ImageFitting,
    Interpolation,
    MetricName,
    ProtectName,
    SignalName,
)
from fairdeploy.records.deployment import HostOptions
from fairdeploy.records.method import ATTENTION_OPTIONS, AttentionOption
from fairdeploy.records.metrics import COUNTED
from fairdeploy.records.task_names import TASKS
from fairdeploy.records.training import DEFAULT_BATCH_SIZE
from fairdeploy.settings.kinds import (
    counts_by_glob,
    drop,
    input_size,
    path,
    positive_numbers,
    rate,
    shares_by_glob,
    task,
)
from fairdeploy.settings.option import argument, option
from fairdeploy.settings.toml import (
    LARGEST,
    numbers,
    one_of,
    positive_number,
    text,
    text_or_texts,
    texts,
    truth,
    whole_number,
)
from fairdeploy.settings.values import InputShape, parse_percents

if TYPE_CHECKING:
    from torch import nn

RecoveryMethod = Literal["least_squares", "distil", "batchnorm", "none"]
"""``distil``: least squares, then a short training without labels."""
RECOVERY_METHODS: tuple[RecoveryMethod, ...] = get_args(RecoveryMethod)

DEFAULT_CALIBRATION_IMAGES = 512
DEFAULT_TARGET = "cpu"

_MAY_GO = "What may go"
_TRAINING = "Training"
_HOW = "How it decides"


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How images are resized, cut and scaled; see ``records.ImageFitting``."""

    mean: tuple[float, ...] | None = option(
        "Mean per channel, of pixels in [0, 1].", numbers, metavar="M,M,M"
    )
    std: tuple[float, ...] | None = option(
        "Standard deviation per channel.", positive_numbers, metavar="S,S,S"
    )
    crop_pct: float | None = option(
        "Share of the resized image that is cut out of its centre: 0.875, 1 for all of it.",
        positive_number,
        metavar="SHARE",
    )
    crop_mode: CropMode | None = option(
        "center: the shorter side is scaled to fit, the centre cut out; squash: both sides are "
        "scaled to fit; border: the longer side is, with borders.",
        one_of(CROP_MODES),
    )
    interpolation: Interpolation | None = option("Of resizing.", one_of(INTERPOLATIONS))
    channel_order: ChannelOrder | None = option(
        "The order of the colours that the network takes; bgr where OpenCV read its images.",
        one_of(CHANNEL_ORDERS),
    )
    white: int | None = option(
        "The value of white in images of 16 bits a colour: 4095 for 12 bits; found from the images "
        "if not given.",
        whole_number(1, 65535),
    )

    def fitting(self) -> ImageFitting:
        """As the preparation of images takes it."""
        return ImageFitting(
            self.crop_pct, self.crop_mode, self.interpolation, self.channel_order, self.white
        )


@dataclass(frozen=True, kw_only=True)
class ModelOptions(ImageOptions):
    """Which network, and what images it takes."""

    model: str = argument(
        "A checkpoint (.pt, .pth, .safetensors, .pt2), timm:NAME or torchvision:NAME.", text
    )
    """The name of ``module``, if that is given."""
    module: nn.Module | None = None
    """A network of this process, in place of one from a file."""
    said: Any = None
    """What a call from Python says in place of ``fairdeploy.toml``: a ``ProjectFile``."""
    arch: str | None = option(
        "The network of a state dict: timm:NAME, torchvision:NAME or package.module:factory.", text
    )
    weights: str | None = option(
        "Which weights of a checkpoint that holds several: a key or prefix of names, such as "
        "model_ema or student; if not given, averaged ones are taken where they are there.",
        text,
        metavar="KEY",
    )
    target: str | None = option(
        "Where it will run; see 'fairdeploy targets'.", text, default=DEFAULT_TARGET
    )


@dataclass(frozen=True, kw_only=True)
class ControlOptions(ModelOptions):
    """What may be removed and how much of it (see ``records.Restrictions``), and what is read."""

    include: tuple[str, ...] | None = option(
        "Only these modules may shrink: layer4, 'blocks.*.mlp'. Repeatable.",
        text_or_texts,
        metavar="GLOB",
        panel=_MAY_GO,
    )
    exclude: tuple[str, ...] | None = option(
        "These modules keep their width, and all that share it. Repeatable.",
        text_or_texts,
        metavar="GLOB",
        panel=_MAY_GO,
    )
    max_prune: tuple[tuple[str, float], ...] | None = option(
        "Largest share of any group's units that may go: 0.7, 'layer4.*=0.3'. Repeatable.",
        shares_by_glob,
        metavar="[GLOB=]SHARE",
        panel=_MAY_GO,
    )
    min_units: tuple[tuple[str, int], ...] | None = option(
        "What every group keeps at least: 8, 'layer4.*=16'. Repeatable.",
        counts_by_glob,
        metavar="[GLOB=]N",
        panel=_MAY_GO,
    )
    round_to: int | None = option(
        "Make channel counts multiples of this, instead of what the target likes.",
        whole_number(1),
        panel=_MAY_GO,
    )
    attention: AttentionOption | None = option(
        "What may go from attention: whole heads (the default), channels within heads.",
        one_of(ATTENTION_OPTIONS),
        default="heads",
        panel=_MAY_GO,
    )
    allow_norm_coupled: bool = option(
        "Let channels go that layer norms take statistics over: not exact, and reported.",
        truth,
        absent=False,
        panel=_MAY_GO,
    )
    blocks: bool | None = option(
        "Let whole residual blocks go, so that deep networks get shallower (default: no).",
        truth,
        flags=("--blocks/--no-blocks",),
        default=False,
        panel=_MAY_GO,
    )
    num_classes: int | None = option("Length of the classifier.", whole_number(1))
    input_shape: InputShape | None = option(
        "Image size that the network takes.", input_size, name="input_size", metavar="H or C,H,W"
    )
    inputs: tuple[str, ...] | None = option(
        "An input of a network that takes more than one image; give one for each. NAME is the "
        "parameter of its forward. SIZES leave the batch out: 3,224,224; a size that may change is "
        "NAME=MIN-MAX or NAME=MIN-MAX/STEP, as in 3,H=192-320/32,W=192-320/32, and NAME alone is "
        "the same size again. TYPE: float32, int64, int32 or bool. COUNT: whole numbers lie below "
        "it. The first float32 input of three sizes takes the images.",
        text_or_texts,
        flags=("--input",),
        metavar="NAME:SIZES[:TYPE[:COUNT]]",
    )
    main_output: str | None = option(
        "The output with the scores, where there are several; the first if not given.",
        text,
        metavar="NAME",
    )
    fixed_batch: int | None = option(
        "Images at a time, for a network that takes no other number, or a file that shall.",
        whole_number(1),
    )
    seed: int | None = option("Of every random choice; 0 if not given.", whole_number(0), default=0)
    trust_pickle: bool = option(
        "Let the checkpoint run its own code.", truth, absent=False, has_key=False
    )
    trust_project: bool = option(
        "Let a fairdeploy.toml or report.json that is not in the current folder name code to run.",
        truth,
        absent=False,
        has_key=False,
    )


@dataclass(frozen=True, kw_only=True)
class InspectOptions(ControlOptions):
    """Everything that ``fairdeploy inspect`` can be told; of images only by ``fairdeploy.toml``."""

    UNTYPED: ClassVar[type] = ImageOptions

    prove: bool = option(
        "Remove about half of every group at random and prove it; needs no data. Exit code 4 if it "
        "fails.",
        truth,
        absent=False,
        has_key=False,
    )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Training after the repair; see ``TuningOptions``."""

    finetune: int | None = option(
        "Train on the images that nothing else needs; the best epoch is kept. 0: do not, whatever "
        "fairdeploy.toml says.",
        whole_number(0),
        metavar="EPOCHS",
        panel=_TRAINING,
    )
    distill: bool = option(
        "In training, imitate the original's answers; needs no labels.",
        truth,
        absent=False,
        panel=_TRAINING,
    )
    learning_rate: float | None = option(
        "At its highest; 0.01 if not given, 0.0002 without batch norms.", rate, panel=_TRAINING
    )
    batch_size: int | None = option(
        "Images of a training step; 64 if not given.",
        whole_number(2),
        default=DEFAULT_BATCH_SIZE,
        panel=_TRAINING,
    )
    num_selection: int | None = option(
        "Held-out images, apart from the test, to choose a network or an epoch with.",
        whole_number(10),
        panel=_TRAINING,
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions(TrainingOptions, ControlOptions):
    """What every command that scores and repairs can be told."""

    data: str | None = option(
        "Images: a folder of class folders, an .npz file, or package.module:factory.", text
    )
    """What ``loaders`` are called, if they are given."""
    loaders: tuple[Iterable[object], ...] | None = None
    """Of this process: images to learn from, and images to test on."""
    output: Path | None = option(
        "Folder for the results; made beside the model if not given.",
        path,
        flags=("--output", "-o"),
    )
    recover: RecoveryMethod | None = option(
        "How to repair it.", one_of(RECOVERY_METHODS, "recovery")
    )
    signal: SignalName | None = option(
        "What is removed by; if not given: reconstruction where layers are refitted, else the "
        f"U-Score (wasserstein): {', '.join(SIGNALS)}.",
        one_of(SIGNALS),
        metavar="NAME",
        panel=_HOW,
    )
    protect: ProtectName | None = option(
        "What protects, instead of the R-Score (taylor): one of the signals, or none, with which "
        "the removal signal protects too.",
        one_of(PROTECTIONS),
        metavar="NAME",
        panel=_HOW,
    )
    allocation: AllocationRule | None = option(
        "How much goes from each group: by the tolerance of difference (tod), the same share "
        "(uniform), or one threshold (global).",
        one_of(ALLOCATION_RULES),
        panel=_HOW,
    )
    num_calibration: int | None = option(
        "Images to score and repair with.", whole_number(2), default=DEFAULT_CALIBRATION_IMAGES
    )
    max_test: int | None = option(
        "Most images that are held back to test on; 0: 2000.", whole_number(0), flags=()
    )
    class_names: tuple[str, ...] | None = option(
        "The classes in the order in which the network has them.", texts, metavar="A,B,C"
    )
    class_order: ClassOrder | None = option(
        "Class folders are numbered with 2 before 10 (natural, as timm does, if not given) or 10 "
        "before 2 (text, as torchvision does).",
        one_of(CLASS_ORDERS),
        default="natural",
    )
    task: str | None = option(
        "What the answers are for; told from the labels and the output if not given.",
        task,
        metavar="|".join((*TASKS, "FILE.PY:FACTORY")),
    )
    force: bool = option("Replace an earlier result.", truth, absent=False, has_key=False)
    with_latency: bool = option(
        "Do not measure.",
        truth,
        absent=True,
        has_key=False,
        flags=("--no-latency",),
        parse=lambda _, is_off: not is_off,
    )
    command: tuple[str, ...] = ()
    """The command line as typed, for the report."""


@dataclass(frozen=True, kw_only=True)
class ShrinkOptions(RunOptions):
    """Everything that ``fairdeploy shrink`` can be told."""

    budgets: tuple[str, ...] | None = option(
        "What may stay: 40% (of the parameters), latency=60%, latency=5ms, macs=50%, params=1.2M, "
        "size=4MB. Give several to meet them all.",
        text_or_texts,
        name="budget",
        flags=("--budget", "-b"),
    )
    max_drop: float | None = option(
        "Accuracy may fall by 1% at most, by the low end of its interval. Without --budget: find "
        "the smallest network that keeps to it; with it: a gate (exit code 5).",
        drop,
        metavar="SHARE",
    )
    smallest: MetricName | None = option(
        "What --max-drop makes smallest; params if not given.",
        one_of(COUNTED, "metric"),
        default="params",
    )
    steps: int | None = option(
        "Prune in this many steps, each repaired and scored again.", whole_number(1, 20), default=1
    )
    host: HostOptions | None = None
    """Another machine that measures; None: this one."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions(RunOptions):
    """Everything that ``fairdeploy sweep`` can be told."""

    metric: str | None = option(
        "What is swept; parameters if not given.", one_of(COUNTED, "metric"), has_key=False
    )
    points: int | None = option(
        "How many networks to measure besides the original; 8 if not given.",
        whole_number(-LARGEST),
        has_key=False,
    )
    at: tuple[float, ...] | None = option(
        "Measure at these shares of the original, not at even steps.",
        text,
        has_key=False,
        metavar="90%,70%,…",
        parse=parse_percents,
    )


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
