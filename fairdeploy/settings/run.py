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
)
from fairdeploy.records.deployment import HostOptions
from fairdeploy.records.input_specs import InputSpec, parse_inputs
from fairdeploy.records.method import AttentionOption, choice_of
from fairdeploy.records.metrics import COUNTED
from fairdeploy.records.training import TuningOptions
from fairdeploy.settings.budgets import latency_apart, parse_budgets
from fairdeploy.settings.option import completed
from fairdeploy.settings.options import (
    ControlOptions,
    RecoveryMethod,
    RunOptions,
    ShrinkOptions,
    SweepOptions,
    TrainingOptions,
)
from fairdeploy.settings.project_file import (
    PROJECT_FILE_NAME,
    ProjectFile,
    load_project_file,
    overruled,
    refuse_foreign_code,
)
from fairdeploy.settings.target_profiles import load_profile
from fairdeploy.settings.values import InputShape

if TYPE_CHECKING:
    from torch import nn

DEFAULT_TEST_IMAGES = 2000
DEFAULT_SELECTION_IMAGES = 4000
ALL_IMAGES = sys.maxsize
"""For the smallest network within a drop: as many as there are, and as fit in memory."""
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
    asked: RunOptions
    """Every option as typed, written or by default: one that needs no more reading is used here."""

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
        said = options.said or ProjectFile()
        able = [key for key in ("arch", "data", "task") if hasattr(options, key)]
        used = {
            key: getattr(project, key)
            for key in able
            if getattr(options, key) is None and getattr(said, key) is None
        }
        refuse_foreign_code(folder / PROJECT_FILE_NAME, used)
    return overruled(project, options.said)


def asked_of(options: ControlOptions) -> Any:
    """The options with what ``fairdeploy.toml`` says, or the default, where nothing was typed.

    Raises:
        ProjectFileError: The project file is malformed.
    """
    return completed(options, project_of(options))


def resolve_model(asked: Any) -> ModelSettings:
    """Settings for loading the network; the image size may come from the target profile.

    Args:
        asked: Completed options, of ``asked_of``.
    """
    taken = {
        name: getattr(asked, name)
        for name in (field.name for field in fields(ModelSettings))
        if name not in ("source", "inputs", "fitting", "input_shape")
    }
    return ModelSettings(
        **taken,
        source=asked.model,
        input_shape=asked.input_shape or load_profile(asked.target).input_size,
        inputs=parse_inputs(asked.inputs or ()),
        fitting=asked.fitting(),
    )


def resolve_restrictions(asked: Any) -> Restrictions:
    """What the user keeps from being removed.

    Raises:
        UsageError: A glob is empty.
    """
    restrictions = Restrictions(
        include=asked.include or (),
        exclude=asked.exclude or (),
        max_prune=asked.max_prune or (),
        min_units=asked.min_units or (),
        round_to=asked.round_to,
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
    asked = asked_of(options)
    budgets, max_drop, steps = asked.budgets or (), asked.max_drop, asked.steps
    if not budgets and max_drop is None:
        raise UsageError(
            "no budget given; add --budget 40% (what may stay), or 'budget' in fairdeploy.toml, or "
            "--max-drop 1% for the smallest network that stays as accurate"
        )
    _refuse(_budget_contradictions(options, tuple(budgets), max_drop, steps))
    output = Path(asked.output) if asked.output else default_output(options.model)
    run = _resolve_run(options, asked, output, DEFAULT_SELECTION_IMAGES if budgets else ALL_IMAGES)
    _refuse(_step_contradictions(run, steps))
    if max_drop is not None and run.data is None:
        raise DataError("--max-drop needs labelled test images, and there are none; give --data")
    return ShrinkSettings(
        **_values(replace(run, max_drop=max_drop, host=options.host)),
        budgets=tuple(budgets),
        smallest=asked.smallest,
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
    output = options.output or default_output(options.model, "sweep")
    run = _resolve_run(options, asked_of(options), output)
    percents = None if options.at is None else tuple(sorted(set(options.at), reverse=True))
    return SweepSettings(**_values(run), metric=metric, num_points=num_points, percents=percents)


def _resolve_run(
    typed: RunOptions, asked: Any, output: Path, num_selection: int = DEFAULT_SELECTION_IMAGES
) -> RunSettings:
    """What all runs share; the last holds unless an option says otherwise."""
    tuning = resolve_tuning(typed, asked)
    for option, needs_images in (
        ("--recover distil", asked.recover == "distil"),
        ("--finetune", tuning),
    ):
        if needs_images and asked.data is None:
            raise DataError(f"{option} learns from images, and there are none; give --data")
    if asked.num_calibration < 2:
        raise UsageError(f"--num-calibration {asked.num_calibration} is too few; use 64 or more")
    return RunSettings(
        model=resolve_model(asked),
        data=asked.data,
        loaders=asked.loaders,
        class_names=asked.class_names,
        task=asked.task,
        class_order=asked.class_order,
        num_calibration=asked.num_calibration,
        max_test=asked.max_test or DEFAULT_TEST_IMAGES,
        output=output,
        target=asked.target,
        restrictions=resolve_restrictions(asked),
        recover=asked.recover,
        method=resolve_method(asked),
        num_selection=num_selection if asked.num_selection is None else asked.num_selection,
        tuning=tuning,
        force=asked.force,
        with_latency=asked.with_latency,
        command=asked.command,
        asked=replace(asked, output=output),
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


def resolve_tuning(typed: TrainingOptions, asked: Any) -> TuningOptions | None:
    """What was asked for; None where nobody asks to train.

    The project file may say how to train without asking for it.

    Args:
        typed: As typed.
        asked: The same, completed.

    Raises:
        UsageError: An option says how to train, but nothing says that; or a value can't be.
    """
    if not asked.finetune:
        _refuse_how_without_training(typed)
        return None
    rate = asked.learning_rate
    if rate is not None and not 0 < rate <= 1:
        raise UsageError(f"--learning-rate {rate:g} is not above 0 and at most 1")
    return TuningOptions(
        epochs=asked.finetune,
        distill=asked.distill,
        learning_rate=rate,
        batch_size=asked.batch_size,
    )


def _refuse_how_without_training(asked: TrainingOptions) -> None:
    given = {
        "--distill": asked.distill,
        "--learning-rate": asked.learning_rate is not None,
        "--batch-size": asked.batch_size is not None,
    }
    first = next((name for name, is_given in given.items() if is_given), None)
    if first is not None:
        raise UsageError(f"{first} says how to train; add --finetune EPOCHS")


# ---- what decides which units go: by the command line, ``fairdeploy.toml`` or a default ----------


DEFAULT_RECOVERY: RecoveryMethod = "least_squares"
REFITTING: tuple[RecoveryMethod, ...] = ("least_squares", "distil")


def resolve_method(asked: Any) -> PruningMethod:
    """What was asked for, or what suits the repair.

    Where every layer is refitted afterwards, that is what the others can make up for: at half of
    the MACs and below more accurate than the U-Score on five of six networks, 0.4 to 2.7 points,
    and 0.3 less on ConvNeXt (tests/benchmarks/RESULTS.md).
    """
    default = PruningMethod()
    if asked.data is not None and (asked.recover or DEFAULT_RECOVERY) in REFITTING:
        default = replace(default, signal="reconstruction")
    return PruningMethod(
        signal=asked.signal or default.signal,
        protect=asked.protect or default.protect,
        allocation=asked.allocation or default.allocation,
    )
