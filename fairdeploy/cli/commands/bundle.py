"""``fairdeploy bundle``: carry a measurement to a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from fairdeploy.cli.options import IdleGap, Seconds, Seed, Sizes, Target
from fairdeploy.cli.output import show_text
from fairdeploy.settings.options import BundleOptions
from fairdeploy.settings.values import parse_sizes


def bundle(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="A.onnx [B.onnx] | DIR", help="One file, two to race, or their folder."
        ),
    ],
    *,
    target: Target = None,
    batch: Annotated[int | None, typer.Option(help="Images at a time.", min=1)] = None,
    sizes: Sizes = None,
    seconds: Seconds = None,
    idle_gap: IdleGap = None,
    seed: Seed = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier bundle.")] = False,
) -> None:
    """Write a small folder that measures ONNX files on a device with numpy and onnxruntime."""
    options = BundleOptions(
        output=output,
        sources=tuple(sources),
        target=target or "cpu",
        batch=batch,
        sizes=parse_sizes(sizes),
        seconds=seconds,
        idle_gap_ms=idle_gap,
        seed=seed or 0,
        force=force,
    )
    from fairdeploy.runs.measure import bundle as bundling

    names = bundling.bundle(options)
    folder = escape(str(output))
    show_text(
        f"[bold]{folder}[/]: {escape(', '.join(names))}\n"
        f"copy it to the device, then: cd {folder} && python3 measure.py"
    )
