"""What decides which units go: by the command line, ``fairdeploy.toml`` or a default."""

from __future__ import annotations

from dataclasses import replace

from fairdeploy.records import PruningMethod
from fairdeploy.settings.options import RecoveryMethod, RunOptions, first_given
from fairdeploy.settings.project_file import ProjectFile

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
