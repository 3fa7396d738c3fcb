"""One value for each option: the command line first, then ``fairdeploy.toml``, then a default."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairdeploy.errors import DataError, UsageError
from fairdeploy.files import model_name
from fairdeploy.records import (
    ClassOrder,
    ImageFitting,
    MetricName,
    PruningMethod,
    Restrictions,
    TargetProfile,
)
from fairdeploy.records.deployment import HostOptions
from fairdeploy.records.input_specs import InputSpec, parse_inputs
from fairdeploy.records.method import AttentionOption, choice_of
from fairdeploy.records.metrics import COUNTED
from fairdeploy.records.training import DEFAULT_BATCH_SIZE, TuningOptions
from fairdeploy.settings.budgets import latency_apart, parse_budgets
from fairdeploy.settings.options import (
    RECOVERY_METHODS,
    ControlOptions,
    InputShape,
    RecoveryMethod,
    RunOptions,
    ShrinkOptions,
    SweepOptions,
    TrainingOptions,
    first_given,
)
from fairdeploy.settings.project_file import (
    PROJECT_FILE_NAME,
    ProjectFile,
    load_project_file,
    overruled,
    refuse_foreign_code,
)
from fairdeploy.settings.target_profiles import load_profile

if TYPE_CHECKING:
    from torch import nn

DEFAULT_CALIBRATION_IMAGES = 512
DEFAULT_TEST_IMAGES = 2000
DEFAULT_SELECTION_IMAGES = 4000
ALL_IMAGES = sys.maxsize
"""For the smallest network within a drop: as many as there are, and as fit in memory."""
DEFAULT_TARGET = "cpu"
DEFAULT_POINTS = 8
MIN_POINTS, MAX_POINTS = 2, 100


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How to load the network."""

    source: str
    """A path or a name; what ``module`` is called, if that is given."""
    module: nn.Module | None
    arch: str | None
    weights: str | None
    num_classes: int | None
    input_shape: InputShape | None
    inputs: tuple[InputSpec, ...]
    main_output: str | None
    fixed_batch: int | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    fitting: ImageFitting
    seed: int
    trust_pickle: bool
    attention: AttentionOption
    allow_norm_coupled: bool
    blocks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What every run that scores and repairs needs to know."""

    model: ModelSettings
    data: str | None
    """A path or a factory; what ``loaders`` are called, if they are given."""
    loaders: tuple[Iterable[object], ...] | None
    class_names: tuple[str, ...] | None
    class_order: ClassOrder
    task: str | None
    """A name, or ``file.py:factory``; None: what labels and output tell."""
    num_calibration: int
    max_test: int
    output: Path
    target: str
    restrictions: Restrictions
    recover: RecoveryMethod | None
    """None: the default, which depends on whether there are real images."""
    method: PruningMethod = field(default_factory=PruningMethod)
    num_selection: int = DEFAULT_SELECTION_IMAGES
    tuning: TuningOptions | None = None
    max_drop: float | None = None
    force: bool = False
    """Replace an earlier result."""
    with_latency: bool = True
    host: HostOptions | None = None
    """Another machine that measures."""
    command: tuple[str, ...] = ()
    """The command line as typed, for the report."""

    @property
    def selects(self) -> bool:
        """Whether held-out images are needed to choose something with."""
        return self.tuning is not None or self.recover == "distil" or self.searches_size

    @property
    def searches_size(self) -> bool:
        """Whether the smallest network within a drop is wanted."""
        return False

    @property
    def selects_with_rest(self) -> bool:
        """Whether nothing learns from what is left, so that all of it may select."""
        return self.searches_size and self.tuning is None and self.recover != "distil"

    @property
    def is_repair_judged(self) -> bool:
        """Whether images that nothing else wants shall judge the repair, and nothing else."""
        return not self.selects and self.recover != "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkSettings(RunSettings):
    """Everything that ``shrink`` needs to know."""

    budgets: tuple[str, ...]
    """Empty where the smallest network within ``max_drop`` is wanted."""
    smallest: MetricName = "params"
    steps: int = 1

    @property
    def searches_size(self) -> bool:
        """Whether the smallest network within a drop is wanted."""
        return not self.budgets


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSettings(RunSettings):
    """Everything that ``sweep`` needs to know."""

    metric: MetricName
    num_points: int
    percents: tuple[float, ...] | None
    """Per cent of the original's cost, falling; None: spread over what can be reached."""


def project_of(options: ControlOptions) -> ProjectFile:
    """``fairdeploy.toml`` beside the model, or in the working folder for a model given by name.

    Raises:
        ProjectFileError: It is malformed, or lies elsewhere and names code that would run.
    """
    if options.module is not None:
        return options.said or ProjectFile()
    path = Path(options.model)
    folder = path if path.is_dir() else path.parent if path.is_file() else Path()
    project = load_project_file(folder)
    if not options.trust_project:
        typed = {"arch": first_given(options.arch, options.said and options.said.arch)}
        if isinstance(options, RunOptions):
            typed["data"] = first_given(options.data, options.said and options.said.data)
            typed["task"] = first_given(options.task, options.said and options.said.task)
        used = {key: getattr(project, key) for key, given in typed.items() if given is None}
        refuse_foreign_code(folder / PROJECT_FILE_NAME, used)
    return overruled(project, options.said)


def resolve_model(options: ControlOptions, project: ProjectFile) -> ModelSettings:
    """Settings for loading the network; the image size may come from the target profile."""
    profile = load_profile(resolve_target(options, project))
    return ModelSettings(
        source=options.model,
        module=options.module,
        arch=first_given(options.arch, project.arch),
        weights=first_given(options.weights, project.weights),
        num_classes=first_given(options.num_classes, project.num_classes),
        input_shape=_input_shape(options, project, profile),
        inputs=parse_inputs(first_given(options.inputs, project.inputs) or ()),
        main_output=first_given(options.main_output, project.main_output),
        fixed_batch=first_given(options.fixed_batch, project.fixed_batch),
        mean=first_given(options.mean, project.mean),
        std=first_given(options.std, project.std),
        fitting=_fitting(options.fitting, project),
        seed=first_given(options.seed, project.seed) or 0,
        trust_pickle=options.trust_pickle,
        attention=first_given(options.attention, project.attention) or "heads",
        allow_norm_coupled=options.allow_norm_coupled or bool(project.allow_norm_coupled),
        blocks=bool(first_given(options.blocks, project.blocks)),
    )


def _fitting(typed: ImageFitting, project: ProjectFile) -> ImageFitting:
    return ImageFitting(
        crop_pct=first_given(typed.crop_pct, project.crop_pct),
        crop_mode=first_given(typed.crop_mode, project.crop_mode),
        interpolation=first_given(typed.interpolation, project.interpolation),
        channel_order=first_given(typed.channel_order, project.channel_order),
        white=first_given(typed.white, project.white),
    )


def _input_shape(
    options: ControlOptions, project: ProjectFile, profile: TargetProfile
) -> InputShape | None:
    if options.input_shape is not None:
        return options.input_shape
    return project.input_size if project.input_size is not None else profile.input_size


def resolve_target(options: ControlOptions, project: ProjectFile) -> str:
    """Name or path of the target profile."""
    return first_given(options.target, project.target) or DEFAULT_TARGET


def resolve_restrictions(options: ControlOptions, project: ProjectFile) -> Restrictions:
    """What the user keeps from being removed; each option replaces the project file's.

    Raises:
        UsageError: A glob is empty.
    """
    restrictions = Restrictions(
        include=first_given(options.include, project.include) or (),
        exclude=first_given(options.exclude, project.exclude) or (),
        max_prune=first_given(options.max_prune, project.max_prune) or (),
        min_units=first_given(options.min_units, project.min_units) or (),
        round_to=first_given(options.round_to, project.round_to),
    )
    for option, globs in (("--include", restrictions.include), ("--exclude", restrictions.exclude)):
        if not all(glob.strip() for glob in globs):
            raise UsageError(
                f"{option} '' is empty; give a glob on module paths such as 'layer4.*'"
            )
    return restrictions


def resolve_shrink(options: ShrinkOptions) -> ShrinkSettings:
    """Settings for a whole run.

    Raises:
        UsageError: No budget is given anywhere, or a value can't be.
        ProjectFileError: The project file is malformed.
    """
    project = project_of(options)
    budgets = first_given(options.budgets, project.budget) or ()
    max_drop = first_given(options.max_drop, project.max_drop)
    steps = first_given(options.steps, project.steps) or 1
    if not budgets and max_drop is None:
        raise UsageError(
            "no budget given; add --budget 40% (what may stay), or 'budget' in fairdeploy.toml, or "
            "--max-drop 1% for the smallest network that stays as accurate"
        )
    _refuse(_budget_contradictions(options, tuple(budgets), max_drop, steps))
    output = Path(project.output) if project.output else default_output(options.model)
    most = DEFAULT_SELECTION_IMAGES if budgets else ALL_IMAGES
    run = _resolve_run(options, project, output, most)
    _refuse(_step_contradictions(run, steps))
    if max_drop is not None and run.data is None:
        raise DataError("--max-drop needs labelled test images, and there are none; give --data")
    return ShrinkSettings(
        **_values(replace(run, max_drop=max_drop, host=options.host)),
        budgets=tuple(budgets),
        smallest=first_given(options.smallest, project.smallest) or "params",
        steps=steps,
    )


Contradictions = Iterator[tuple[bool, str]]
"""Whether options contradict each other, and what to say then."""


def _refuse(contradictions: Contradictions) -> None:
    """Refuse what can't be meant, before any work.

    Raises:
        UsageError: The first one that holds.
    """
    for holds, text in contradictions:
        if holds:
            raise UsageError(text)


def _budget_contradictions(
    options: ShrinkOptions, budgets: tuple[str, ...], max_drop: float | None, steps: int
) -> Contradictions:
    """Options that only mean something without a budget, with one, or with a measurement."""
    _, latency = latency_apart(parse_budgets(budgets)) if budgets else ((), None)
    yield (
        options.smallest is not None and (bool(budgets) or max_drop is None),
        f"--smallest {options.smallest} says what --max-drop makes smallest where no budget is "
        "given; drop it, or the budget",
    )
    yield (
        steps > 1 and (not budgets or latency is not None),
        "--steps goes with a --budget of parameters, MACs or bytes; drop it, or give --steps 1",
    )
    if latency is not None:
        yield (
            not options.with_latency,
            f"'{latency.text}' cannot be met without measuring; drop --no-latency",
        )
    if options.host is not None:
        yield (
            not options.with_latency,
            f"--host {options.host.host} says where to measure; drop it, or --no-latency",
        )


def _step_contradictions(run: RunSettings, steps: int) -> Contradictions:
    yield (
        steps > 1 and run.model.blocks,
        "--steps does not go with --blocks; drop one of them",
    )
    yield (  # what went could not be put back as zeros
        steps > 1 and run.model.allow_norm_coupled,
        "--steps does not go with --allow-norm-coupled; prune in one step",
    )


def resolve_sweep(options: SweepOptions) -> SweepSettings:
    """Settings for a sweep. The project file's ``budget`` and ``output`` are for ``shrink``.

    Raises:
        UsageError: A value can't be.
        ProjectFileError: The project file is malformed.
    """
    metric = choice_of(options.metric or COUNTED[0], COUNTED)
    if metric is None:
        raise UsageError(f"no metric '{options.metric}'; use one of {', '.join(COUNTED)}")
    if options.points is not None and options.at is not None:
        raise UsageError("--points and --at both say where to measure; give one of them")
    num_points = DEFAULT_POINTS if options.points is None else options.points
    if not MIN_POINTS <= num_points <= MAX_POINTS:
        raise UsageError(
            f"--points {num_points} is not a number from {MIN_POINTS} to {MAX_POINTS}; "
            "for a single one use fairdeploy shrink"
        )
    output = default_output(options.model, "sweep")
    run = _resolve_run(options, project_of(options), output)
    percents = None if options.at is None else tuple(sorted(set(options.at), reverse=True))
    return SweepSettings(**_values(run), metric=metric, num_points=num_points, percents=percents)


def _resolve_run(
    options: RunOptions,
    project: ProjectFile,
    output: Path,
    num_selection: int = DEFAULT_SELECTION_IMAGES,
) -> RunSettings:
    """What all runs share; the last two hold unless an option says otherwise."""
    recover = first_given(options.recover, project.recover)
    if recover is not None and recover not in RECOVERY_METHODS:
        raise UsageError(f"no recovery '{recover}'; use one of {', '.join(RECOVERY_METHODS)}")
    data = first_given(options.data, project.data)
    tuning = resolve_tuning(options.training, project)
    for option, needs_images in (("--recover distil", recover == "distil"), ("--finetune", tuning)):
        if needs_images and data is None:
            raise DataError(f"{option} learns from images, and there are none; give --data")
    num_calibration = first_given(
        options.num_calibration, project.num_calibration, DEFAULT_CALIBRATION_IMAGES
    )
    assert num_calibration is not None
    if num_calibration < 2:
        raise UsageError(f"--num-calibration {num_calibration} is too few; use 64 or more")
    return RunSettings(
        model=resolve_model(options, project),
        data=data,
        loaders=options.loaders,
        class_names=first_given(options.class_names, project.class_names),
        task=first_given(options.task, project.task),
        class_order=first_given(options.class_order, project.class_order) or "natural",
        num_calibration=num_calibration,
        max_test=project.max_test or DEFAULT_TEST_IMAGES,
        output=options.output or output,
        target=resolve_target(options, project),
        restrictions=resolve_restrictions(options, project),
        recover=recover,
        method=resolve_method(options, project, recover),
        num_selection=first_given(options.num_selection, project.num_selection, num_selection) or 0,
        tuning=tuning,
        force=options.force,
        with_latency=options.with_latency,
        command=options.command,
    )


def _values(run: RunSettings) -> dict[str, Any]:
    return {field.name: getattr(run, field.name) for field in fields(run)}


def default_output(model: str, ending: str = "shrunk") -> Path:
    """``model-shrunk`` beside ``model.pt``; ``resnet18-shrunk`` here for ``timm:resnet18``."""
    path = Path(model)
    if path.is_dir():
        return path / f"model-{ending}"
    if path.is_file():
        return path.with_name(f"{model_name(path)}-{ending}")
    name = re.sub(r"[^\w.-]+", "-", model.partition(":")[2].partition(",")[0]).strip("-")
    return Path(f"{name or 'model'}-{ending}")


# ---- how to train after the repair: by the command line, ``fairdeploy.toml`` or a default --------


def resolve_tuning(asked: TrainingOptions, project: ProjectFile) -> TuningOptions | None:
    """What was asked for; None where nobody asks to train.

    The project file may say how to train without asking for it.

    Raises:
        UsageError: An option says how to train, but nothing says that; or a value can't be.
    """
    epochs = first_given(asked.finetune, project.finetune)
    if not epochs:
        _refuse_how_without_training(asked)
        return None
    rate = first_given(asked.learning_rate, project.learning_rate)
    size = first_given(asked.batch_size, project.batch_size, DEFAULT_BATCH_SIZE)
    assert size is not None
    if rate is not None and not 0 < rate <= 1:
        raise UsageError(f"--learning-rate {rate:g} is not above 0 and at most 1")
    with_features = asked.distill_features or bool(project.distill_features)
    return TuningOptions(
        epochs=epochs,
        distill=asked.distill or bool(project.distill) or with_features,
        distill_features=with_features,
        learning_rate=rate,
        batch_size=size,
        ema=asked.ema or bool(project.ema),
    )


def _refuse_how_without_training(asked: TrainingOptions) -> None:
    given = {
        "--distill": asked.distill,
        "--distill-features": asked.distill_features,
        "--learning-rate": asked.learning_rate is not None,
        "--batch-size": asked.batch_size is not None,
        "--ema": asked.ema,
    }
    first = next((name for name, is_given in given.items() if is_given), None)
    if first is not None:
        raise UsageError(f"{first} says how to train; add --finetune EPOCHS")


# ---- what decides which units go: by the command line, ``fairdeploy.toml`` or a default ----------


DEFAULT_RECOVERY: RecoveryMethod = "least_squares"
REFITTING: tuple[RecoveryMethod, ...] = ("least_squares", "distil")


def resolve_method(
    options: RunOptions, project: ProjectFile, recover: RecoveryMethod | None
) -> PruningMethod:
    """What was asked for, or what suits the repair.

    Where every layer is refitted afterwards, that is what the others can make up for: at half of
    the MACs and below more accurate than the U-Score on five of six networks, 0.4 to 2.7 points,
    and 0.3 less on ConvNeXt (tests/benchmarks/RESULTS.md).
    """
    default = PruningMethod()
    has_images = first_given(options.data, project.data) is not None
    if has_images and (recover or DEFAULT_RECOVERY) in REFITTING:
        default = replace(default, signal="reconstruction")
    return PruningMethod(
        signal=first_given(options.signal, project.signal) or default.signal,
        protect=first_given(options.protect, project.protect) or default.protect,
        allocation=first_given(options.allocation, project.allocation) or default.allocation,
    )
