"""``fairdeploy shrink``: the main job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fairdeploy.cli_options import (
    AllowNormCoupled,
    Arch,
    Attention,
    Exclude,
    FixedBatch,
    Include,
    Inputs,
    InputSize,
    Json,
    MainOutput,
    MaxPrune,
    Mean,
    MinUnits,
    Model,
    NumClasses,
    Quiet,
    RoundTo,
    Seed,
    Std,
    Target,
    TrustPickle,
)
from fairdeploy.cli_output import progress_for, show
from fairdeploy.errors import BudgetError
from fairdeploy.option_values import (
    chosen,
    given,
    parse_counts,
    parse_input_shape,
    parse_numbers,
    parse_shares,
)
from fairdeploy.options import ATTENTION_OPTIONS, RECOVERY_METHODS, ShrinkOptions


def shrink(
    model: Model,
    *,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            "-b",
            help="What may stay: 40% (of the parameters), latency=60%, latency=5ms, macs=50%, "
            "params=1.2M, size=4MB. "
            "Give several to meet them all.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images: a folder of class folders, an .npz file, or package.module:factory."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the results; MODEL-shrunk if not given."),
    ] = None,
    arch: Arch = None,
    target: Target = None,
    include: Include = None,
    exclude: Exclude = None,
    max_prune: MaxPrune = None,
    min_units: MinUnits = None,
    round_to: RoundTo = None,
    recover: Annotated[
        str | None, typer.Option(metavar="|".join(RECOVERY_METHODS), help="How to repair it.")
    ] = None,
    num_calibration: Annotated[
        int | None, typer.Option(help="Images to score and repair with.", min=2)
    ] = None,
    num_classes: NumClasses = None,
    input_size: InputSize = None,
    inputs: Inputs = None,
    main_output: MainOutput = None,
    fixed_batch: FixedBatch = None,
    mean: Mean = None,
    std: Std = None,
    seed: Seed = None,
    trust_pickle: TrustPickle = False,
    attention: Attention = None,
    allow_norm_coupled: AllowNormCoupled = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier result.")] = False,
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Do not measure.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Shrink a network to a budget: remove, prove, repair, export, measure, report.

    A fairdeploy.toml beside the model supplies what is not given here.
    """
    options = ShrinkOptions(
        model=model,
        budgets=given(budget),
        data=data,
        output=output,
        arch=arch,
        target=target,
        include=given(include),
        exclude=given(exclude),
        max_prune=parse_shares(max_prune),
        min_units=parse_counts(min_units),
        round_to=round_to,
        recover=chosen("recovery", recover, RECOVERY_METHODS),
        num_calibration=num_calibration,
        num_classes=num_classes,
        input_shape=parse_input_shape(input_size),
        inputs=given(inputs),
        main_output=main_output,
        fixed_batch=fixed_batch,
        mean=parse_numbers("--mean", mean),
        std=parse_numbers("--std", std),
        seed=seed,
        trust_pickle=trust_pickle,
        attention=chosen("--attention", attention, ATTENTION_OPTIONS),
        allow_norm_coupled=allow_norm_coupled,
        force=force,
        with_latency=not no_latency,
        command=("fairdeploy", *sys.argv[1:]),
    )
    from fairdeploy import pipeline
    from fairdeploy.summary import shrink_summary

    result = pipeline.shrink(options, progress_for(as_json or quiet))
    if not quiet or as_json:
        show(result.document, shrink_summary(result.document, result.output), as_json)
    if not all(row["met"] for row in result.document["budget"]):
        raise typer.Exit(BudgetError.exit_code)
