"""``fairdeploy measure``: how fast a file is, or how much faster than another."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fairdeploy.cli_options import IdleGap, Json, Quiet, Seconds, Seed, Sizes, Target
from fairdeploy.cli_output import progress_for, show
from fairdeploy.errors import UsageError
from fairdeploy.option_values import parse_sizes, parse_whole_numbers
from fairdeploy.options import HostOptions, MeasureOptions

_THERE = "On another machine"


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
    host: Annotated[
        str | None,
        typer.Option(metavar="USER@DEVICE", help="Measure there, by ssh.", rich_help_panel=_THERE),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Of its ssh server.", min=1, rich_help_panel=_THERE)
    ] = None,
    remote_python: Annotated[
        str,
        typer.Option(help="Python there, with numpy and onnxruntime.", rich_help_panel=_THERE),
    ] = "python3",
    ssh_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'-i KEY'", help="More for ssh itself. Repeatable.", rich_help_panel=_THERE
        ),
    ] = None,
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
        host=None
        if host is None
        else HostOptions(
            host=host,
            port=port,
            python=remote_python,
            ssh_options=tuple(part for text in ssh_option or () for part in shlex.split(text)),
        ),
    )
    from fairdeploy import measuring
    from fairdeploy.measure_summary import measure_summary

    document = measuring.measure(options, progress_for(as_json or quiet))
    show(document, measure_summary(document), as_json)
