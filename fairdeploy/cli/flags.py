"""Options that several commands take, as one value: each field is an option of its own.

A command that ends in ``flags: RunFlags`` and is wrapped in ``with_flags`` takes all of them, in
the same words and with the same help as every other such command.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from fairdeploy.cli.options import (
    AllocationBy,
    AllowNormCoupled,
    Arch,
    Attention,
    Blocks,
    ChannelsIn,
    ClassNames,
    CropBy,
    CropPct,
    Exclude,
    FixedBatch,
    Include,
    Inputs,
    InputSize,
    InterpolateBy,
    Json,
    MainOutput,
    MaxPrune,
    Mean,
    MinUnits,
    NumClasses,
    OrderBy,
    ProtectBy,
    Quiet,
    RoundTo,
    Seed,
    SignalBy,
    Std,
    Target,
    TaskName,
    TrustPickle,
    TrustProject,
    WeightsKey,
    White,
)
from fairdeploy.records import (
    ALLOCATION_RULES,
    CHANNEL_ORDERS,
    CLASS_ORDERS,
    CROP_MODES,
    INTERPOLATIONS,
    PROTECTIONS,
    SIGNALS,
    ImageFitting,
)
from fairdeploy.records.method import ATTENTION_OPTIONS
from fairdeploy.records.task_names import parse_task
from fairdeploy.settings.options import RECOVERY_METHODS, TrainingOptions
from fairdeploy.settings.values import (
    chosen,
    given,
    parse_counts,
    parse_input_shape,
    parse_numbers,
    parse_shares,
    parse_words,
)


@dataclass(frozen=True, kw_only=True)
class ControlFlags:
    """Which network, and what may go from it."""

    arch: Arch = None
    weights: WeightsKey = None
    target: Target = None
    include: Include = None
    exclude: Exclude = None
    max_prune: MaxPrune = None
    min_units: MinUnits = None
    round_to: RoundTo = None
    attention: Attention = None
    allow_norm_coupled: AllowNormCoupled = False
    blocks: Blocks = None
    num_classes: NumClasses = None
    input_size: InputSize = None
    inputs: Inputs = None
    main_output: MainOutput = None
    fixed_batch: FixedBatch = None
    seed: Seed = None
    trust_pickle: TrustPickle = False
    trust_project: TrustProject = False
    as_json: Json = False

    def values(self) -> dict[str, Any]:
        """The fields of ``ControlOptions``, read.

        Raises:
            UsageError: A value can never be right.
        """
        return {
            "arch": self.arch,
            "weights": self.weights,
            "target": self.target,
            "include": given(self.include),
            "exclude": given(self.exclude),
            "max_prune": parse_shares(self.max_prune),
            "min_units": parse_counts(self.min_units),
            "round_to": self.round_to,
            "attention": chosen("--attention", self.attention, ATTENTION_OPTIONS),
            "allow_norm_coupled": self.allow_norm_coupled,
            "blocks": self.blocks,
            "num_classes": self.num_classes,
            "input_shape": parse_input_shape(self.input_size),
            "inputs": given(self.inputs),
            "main_output": self.main_output,
            "fixed_batch": self.fixed_batch,
            "seed": self.seed,
            "trust_pickle": self.trust_pickle,
            "trust_project": self.trust_project,
        }


# ---- options about training after the repair, and about the images that something is chosen with -


_TRAINING = "Training"


@dataclass(frozen=True, kw_only=True)
class TrainingFlags:
    """What every command that repairs takes."""

    finetune: Annotated[
        int | None,
        typer.Option(
            metavar="EPOCHS",
            help="Train on the images that nothing else needs; the best epoch is kept. "
            "0: do not, whatever fairdeploy.toml says.",
            min=0,
            rich_help_panel=_TRAINING,
        ),
    ] = None
    distill: Annotated[
        bool,
        typer.Option(
            "--distill",
            help="In training, imitate the original's answers; needs no labels.",
            rich_help_panel=_TRAINING,
        ),
    ] = False
    distill_features: Annotated[
        bool,
        typer.Option(
            "--distill-features",
            help="Imitate its inner values too.",
            rich_help_panel=_TRAINING,
        ),
    ] = False
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="At its highest; 0.01 if not given, 0.0002 without batch norms.",
            rich_help_panel=_TRAINING,
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images of a training step; 64 if not given.", min=2, rich_help_panel=_TRAINING
        ),
    ] = None
    ema: Annotated[
        bool,
        typer.Option(
            "--ema", help="Keep a moving average of the weights.", rich_help_panel=_TRAINING
        ),
    ] = False
    num_selection: Annotated[
        int | None,
        typer.Option(
            help="Held-out images, apart from the test, to choose a network or an epoch with.",
            min=10,
            rich_help_panel=_TRAINING,
        ),
    ] = None

    def training(self) -> TrainingOptions:
        """What was typed; ``fairdeploy.toml`` may add to it."""
        return TrainingOptions(
            finetune=self.finetune,
            distill=self.distill,
            distill_features=self.distill_features,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            ema=self.ema,
        )


@dataclass(frozen=True, kw_only=True)
class RunFlags(TrainingFlags, ControlFlags):
    """What every command that scores and repairs takes."""

    data: Annotated[
        str | None,
        typer.Option(
            help="Images: a folder of class folders, an .npz file, or package.module:factory."
        ),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for the results; made beside the model if not given."
        ),
    ] = None
    recover: Annotated[
        str | None, typer.Option(metavar="|".join(RECOVERY_METHODS), help="How to repair it.")
    ] = None
    signal: SignalBy = None
    protect: ProtectBy = None
    allocation: AllocationBy = None
    num_calibration: Annotated[
        int | None, typer.Option(help="Images to score and repair with.", min=2)
    ] = None
    mean: Mean = None
    std: Std = None
    crop_pct: CropPct = None
    crop_mode: CropBy = None
    interpolation: InterpolateBy = None
    channel_order: ChannelsIn = None
    white: White = None
    class_names: ClassNames = None
    class_order: OrderBy = None
    task: TaskName = None
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier result.")] = False
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Do not measure.")] = False
    quiet: Quiet = False

    def values(self) -> dict[str, Any]:
        """The fields of ``RunOptions``, read.

        Raises:
            UsageError: A value can never be right.
        """
        return {
            **super().values(),
            "data": self.data,
            "output": self.output,
            "recover": chosen("recovery", self.recover, RECOVERY_METHODS),
            "signal": chosen("--signal", self.signal, SIGNALS),
            "protect": chosen("--protect", self.protect, PROTECTIONS),
            "allocation": chosen("--allocation", self.allocation, ALLOCATION_RULES),
            "num_calibration": self.num_calibration,
            "num_selection": self.num_selection,
            "training": self.training(),
            "mean": parse_numbers("--mean", self.mean),
            "std": parse_numbers("--std", self.std),
            "fitting": self.fitting(),
            "class_names": parse_words("--class-names", self.class_names)
            if self.class_names is not None
            else None,
            "class_order": chosen("--class-order", self.class_order, CLASS_ORDERS),
            "task": None if self.task is None else parse_task(self.task),
            "force": self.force,
            "with_latency": not self.no_latency,
            "command": ("fairdeploy", *sys.argv[1:]),
        }

    def fitting(self) -> ImageFitting:
        """How images are resized, cut and scaled.

        Raises:
            UsageError: A word is not one of the choices.
        """
        return ImageFitting(
            crop_pct=self.crop_pct,
            crop_mode=chosen("--crop-mode", self.crop_mode, CROP_MODES),
            interpolation=chosen("--interpolation", self.interpolation, INTERPOLATIONS),
            channel_order=chosen("--channel-order", self.channel_order, CHANNEL_ORDERS),
            white=self.white,
        )


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The same command, with each field of its parameter ``flags`` as an option."""
    hints = get_type_hints(command, include_extras=True)
    kind = hints["flags"]
    kind_hints = get_type_hints(kind, include_extras=True)
    defaults = {field.name: field.default for field in fields(kind)}
    # What a class adds comes before what it has from its base: the help is read from the top.
    names = [name for owner in kind.__mro__ for name in vars(owner).get("__annotations__", ())]

    @functools.wraps(command)
    def flattened(**values: Any) -> None:
        flags = kind(**{name: values.pop(name) for name in names})
        command(**values, flags=flags)

    parameters = [
        parameter.replace(annotation=hints[parameter.name])
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name != "flags"
    ] + [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY,
            default=defaults[name], annotation=kind_hints[name],
        )
        for name in names
    ]  # fmt: skip
    signature = inspect.Signature(parameters, return_annotation=None)
    # Some versions of typer read the signature, some the annotations.
    flattened.__dict__["__signature__"] = signature
    flattened.__annotations__ = {item.name: item.annotation for item in parameters}
    return flattened
