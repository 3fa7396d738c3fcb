"""``fairdeploy shrink``: the main job."""

from __future__ import annotations

import sys
from dataclasses import replace

import typer

from fairdeploy.cli.flags import with_options
from fairdeploy.cli.options import Host, Json, Port, Quiet, RemotePython, SshOption
from fairdeploy.cli.output import progress_for, show
from fairdeploy.errors import AccuracyError, BudgetError
from fairdeploy.settings.options import ShrinkOptions
from fairdeploy.settings.values import host_options


@with_options
def shrink(
    options: ShrinkOptions,
    *,
    host: Host = None,
    port: Port = None,
    remote_python: RemotePython = "python3",
    ssh_option: SshOption = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Shrink a network to a budget: remove, prove, repair, export, measure, report.

    A fairdeploy.toml beside the model supplies what is not given here.
    """
    machine = host_options(host, port, remote_python, ssh_option)
    options = replace(options, host=machine, command=("fairdeploy", *sys.argv[1:]))
    from fairdeploy.cli.summaries.shrink import shrink_summary
    from fairdeploy.recovery.training.processes import launched_rank
    from fairdeploy.runs import shrink as pipeline

    # Of several processes that train together the first one reports.
    is_silent = as_json or quiet or launched_rank() > 0
    result = pipeline.shrink(options, progress_for(is_silent))
    if not result.document:
        return
    if not quiet or as_json:
        show(result.document, shrink_summary(result.document, result.output), as_json)
    if not all(row["met"] for row in result.document["budget"]):
        raise typer.Exit(BudgetError.exit_code)
    gate = result.document.get("max_drop")
    if gate and not gate["passed"]:
        raise AccuracyError(f"{gate['problem']}; the result is in '{result.output}'")
