"""Options that several commands share: how each is spelled, and its line of help."""

from __future__ import annotations

from typing import Annotated

import typer

_THERE = "On another machine"

Target = Annotated[str | None, typer.Option(help="Where it will run; see 'fairdeploy targets'.")]
Seed = Annotated[int | None, typer.Option(help="Of every random choice; 0 if not given.", min=0)]
TrustProject = Annotated[
    bool,
    typer.Option(
        "--trust-project",
        help="Let a fairdeploy.toml or report.json that is not in the current folder name code to "
        "run.",
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option("--size", metavar="NAME=N", help="A size that varies beside the batch."),
]
Seconds = Annotated[
    float | None, typer.Option(help="The longest that one measurement may take.", min=0.1)
]
IdleGap = Annotated[
    float | None,
    typer.Option(
        metavar="MS", help="Time calls this far apart too, as a camera makes them.", min=0.001
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Host = Annotated[
    str | None,
    typer.Option(metavar="USER@DEVICE", help="Measure there, by ssh.", rich_help_panel=_THERE),
]
Port = Annotated[int | None, typer.Option(help="Of its ssh server.", min=1, rich_help_panel=_THERE)]
RemotePython = Annotated[
    str, typer.Option(help="Python there, with numpy and onnxruntime.", rich_help_panel=_THERE)
]
SshOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="'-i KEY'", help="More for ssh itself. Repeatable.", rich_help_panel=_THERE
    ),
]
