"""``fairdeploy sweep``: many budgets from one scoring run."""

from __future__ import annotations

from typing import Annotated

import typer

from fairdeploy.cli.flags import RunFlags, with_flags
from fairdeploy.cli.options import Model
from fairdeploy.cli.output import progress_for, show, show_text
from fairdeploy.records.metrics import COUNTED
from fairdeploy.settings.options import SweepOptions
from fairdeploy.settings.values import chosen, parse_percents


@with_flags
def sweep(
    model: Model,
    *,
    metric: Annotated[
        str | None,
        typer.Option(metavar="|".join(COUNTED), help="What is swept; parameters if not given."),
    ] = None,
    points: Annotated[
        int | None,
        typer.Option(help="How many networks to measure besides the original; 8 if not given."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="90%,70%,…", help="Measure at these shares of the original, not at even steps."
        ),
    ] = None,
    flags: RunFlags,
) -> None:
    """Show what each budget would give: cost, accuracy and latency, and where the knee is.

    Scores once, then plans, proves, repairs and races one network after the other.
    """
    options = SweepOptions(
        model=model,
        metric=chosen("metric", metric, COUNTED),
        points=points,
        at=parse_percents("--at", at),
        **flags.values(),
    )
    from fairdeploy.cli.summaries.sweep import next_commands, sweep_summary
    from fairdeploy.runs import sweep as sweeping

    result = sweeping.sweep(options, progress_for(flags.as_json or flags.quiet))
    if not flags.quiet or flags.as_json:
        show(result.document, sweep_summary(result.document, result.output), flags.as_json)
    if not (flags.quiet or flags.as_json):
        show_text(next_commands(result.document), is_unbroken=True)
