"""``fairdeploy demo``: the main job on data that comes with it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from fairdeploy.cli.output import progress_for, show_text


def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path("fairdeploy-demo"),
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier demo.")] = False,
) -> None:
    """Train a small network on handwritten digits and shrink it, as you would your own."""
    from fairdeploy.cli.summaries.shrink import demo_ending
    from fairdeploy.runs.demo.run import SHRINK_ARGUMENTS, prepare_demo, run_shrink

    prepare_demo(folder, force=force, progress=progress_for(is_silent=False))
    typed = shlex.join(["fairdeploy", *SHRINK_ARGUMENTS])
    show_text(f"\n[bold]$ cd {escape(shlex.quote(str(folder)))}\n$ {escape(typed)}[/]\n")
    code = run_shrink(folder)
    if code == 0:
        show_text(demo_ending(folder))
    raise typer.Exit(code)
