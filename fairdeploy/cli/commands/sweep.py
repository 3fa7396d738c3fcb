"""``fairdeploy sweep``: many budgets from one scoring run."""

from __future__ import annotations

import sys
from dataclasses import replace

from fairdeploy.cli.flags import with_options
from fairdeploy.cli.options import Json, Quiet
from fairdeploy.cli.output import progress_for, show, show_text
from fairdeploy.settings.options import SweepOptions


@with_options
def sweep(options: SweepOptions, *, as_json: Json = False, quiet: Quiet = False) -> None:
    """Show what each budget would give: cost, accuracy and latency, and where the knee is.

    Scores once, then plans, proves, repairs and races one network after the other.
    """
    options = replace(options, command=("fairdeploy", *sys.argv[1:]))
    from fairdeploy.cli.summaries.sweep import next_commands, sweep_summary
    from fairdeploy.runs import sweep as sweeping

    result = sweeping.sweep(options, progress_for(as_json or quiet))
    if not quiet or as_json:
        show(result.document, sweep_summary(result.document, result.output), as_json)
    if not (quiet or as_json):
        show_text(next_commands(result.document), is_unbroken=True)
