"""``fairdeploy inspect``: what can go, and what cannot."""

from __future__ import annotations

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
    MinUnits,
    Model,
    NumClasses,
    RoundTo,
    Seed,
    Target,
    TrustPickle,
)
from fairdeploy.cli_output import progress_for, show
from fairdeploy.errors import ParityError
from fairdeploy.option_values import chosen, given, parse_counts, parse_input_shape, parse_shares
from fairdeploy.options import ATTENTION_OPTIONS, InspectOptions


def inspect(
    model: Model,
    *,
    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="Remove about half of every group at random and prove it; needs no data. "
            "Exit code 4 if it fails.",
        ),
    ] = False,
    depth: Annotated[
        int | None,
        typer.Option(help="Levels of the module tree to show; as many as fit if not given.", min=0),
    ] = None,
    arch: Arch = None,
    target: Target = None,
    include: Include = None,
    exclude: Exclude = None,
    max_prune: MaxPrune = None,
    min_units: MinUnits = None,
    round_to: RoundTo = None,
    num_classes: NumClasses = None,
    input_size: InputSize = None,
    seed: Seed = None,
    inputs: Inputs = None,
    main_output: MainOutput = None,
    fixed_batch: FixedBatch = None,
    trust_pickle: TrustPickle = False,
    attention: Attention = None,
    allow_norm_coupled: AllowNormCoupled = False,
    as_json: Json = False,
) -> None:
    """Show what can be removed from a network, what cannot, and why."""
    options = InspectOptions(
        model=model,
        prove=prove,
        arch=arch,
        target=target,
        include=given(include),
        exclude=given(exclude),
        max_prune=parse_shares(max_prune),
        min_units=parse_counts(min_units),
        round_to=round_to,
        num_classes=num_classes,
        input_shape=parse_input_shape(input_size),
        seed=seed,
        inputs=given(inputs),
        main_output=main_output,
        fixed_batch=fixed_batch,
        trust_pickle=trust_pickle,
        attention=chosen("--attention", attention, ATTENTION_OPTIONS),
        allow_norm_coupled=allow_norm_coupled,
    )
    from fairdeploy import inspection
    from fairdeploy.inspection_summary import inspection_summary

    document = inspection.inspect(options, progress_for(as_json))
    show(document, inspection_summary(document, depth=depth), as_json)
    if document["proof"] is not None and not document["proof"]["passed"]:
        raise typer.Exit(ParityError.exit_code)
