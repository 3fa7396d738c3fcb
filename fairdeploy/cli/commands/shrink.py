"""``fairdeploy shrink``: the main job."""

from __future__ import annotations

from typing import Annotated

import typer

from fairdeploy.cli.flags import RunFlags, with_flags
from fairdeploy.cli.options import Host, Model, Port, RemotePython, SshOption
from fairdeploy.cli.output import progress_for, show
from fairdeploy.errors import AccuracyError, BudgetError
from fairdeploy.records.metrics import COUNTED
from fairdeploy.settings.options import ShrinkOptions
from fairdeploy.settings.values import chosen, given, host_options, parse_drop


@with_flags
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
    max_drop: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Accuracy may fall by 1% at most, by the low end of its interval. Without "
            "--budget: find the smallest network that keeps to it; with it: a gate (exit code 5).",
        ),
    ] = None,
    smallest: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(COUNTED),
            help="What --max-drop makes smallest; params if not given.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Prune in this many steps, each repaired and scored again.", min=1, max=20
        ),
    ] = None,
    host: Host = None,
    port: Port = None,
    remote_python: RemotePython = "python3",
    ssh_option: SshOption = None,
    flags: RunFlags,
) -> None:
    """Shrink a network to a budget: remove, prove, repair, export, measure, report.

    A fairdeploy.toml beside the model supplies what is not given here.
    """
    options = ShrinkOptions(
        model=model,
        budgets=given(budget),
        max_drop=parse_drop(max_drop),
        smallest=chosen("metric", smallest, COUNTED),
        steps=steps,
        host=host_options(host, port, remote_python, ssh_option),
        **flags.values(),
    )
    from fairdeploy.cli.summaries.shrink import shrink_summary
    from fairdeploy.recovery.training.processes import launched_rank
    from fairdeploy.runs import shrink as pipeline

    # Of several processes that train together the first one reports.
    is_silent = flags.as_json or flags.quiet or launched_rank() > 0
    result = pipeline.shrink(options, progress_for(is_silent))
    if not result.document:
        return
    if not flags.quiet or flags.as_json:
        show(result.document, shrink_summary(result.document, result.output), flags.as_json)
    if not all(row["met"] for row in result.document["budget"]):
        raise typer.Exit(BudgetError.exit_code)
    gate = result.document.get("max_drop")
    if gate and not gate["passed"]:
        raise AccuracyError(f"{gate['problem']}; the result is in '{result.output}'")
