"""``fairdeploy measure``: how fast a file is, or how much faster than another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairdeploy.cli.options import (
    Host,
    IdleGap,
    Json,
    Port,
    Quiet,
    RemotePython,
    Seconds,
    Seed,
    Sizes,
    SshOption,
    Target,
)
from fairdeploy.cli.output import progress_for, show
from fairdeploy.errors import UsageError
from fairdeploy.settings.options import MeasureOptions
from fairdeploy.settings.values import host_options, parse_sizes, parse_whole_numbers


def measure(
    files: Annotated[
        list[Path], typer.Argument(metavar="A.onnx [B.onnx]", help="One file, or two to race.")
    ],
    *,
    target: Target = None,
    batch: Annotated[int | None, typer.Option(help="Images at a time.", min=1)] = None,
    batches: Annotated[
        str | None, typer.Option(metavar="N,N", help="Several numbers of images at a time: 1,4,16.")
    ] = None,
    threads: Annotated[
        str | None, typer.Option(metavar="N,N", help="Threads, one or several numbers; 0: all.")
    ] = None,
    sizes: Sizes = None,
    seconds: Seconds = None,
    idle_gap: IdleGap = None,
    host: Host = None,
    port: Port = None,
    remote_python: RemotePython = "python3",
    ssh_option: SshOption = None,
    seed: Seed = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure an ONNX file, or race two in turn, whoever made them; inputs are made up."""
    if len(files) > 2:
        raise UsageError(f"{len(files)} files given; give one to measure, or two to race")
    if batch is not None and batches is not None:
        raise UsageError("--batch and --batches are both given; use --batches alone")
    options = MeasureOptions(
        files=tuple(files),
        target=target or "cpu",
        batches=(batch,) if batch else parse_whole_numbers("--batches", batches, minimum=1),
        threads=parse_whole_numbers("--threads", threads, minimum=0),
        sizes=parse_sizes(sizes),
        seconds=seconds,
        idle_gap_ms=idle_gap,
        seed=seed or 0,
        host=host_options(host, port, remote_python, ssh_option),
    )
    from fairdeploy.cli.summaries.measure import measure_summary
    from fairdeploy.runs.measure import run as measuring

    document = measuring.measure(options, progress_for(as_json or quiet))
    show(document, measure_summary(document), as_json)
