"""``fairdeploy export``: more files of a shrunk network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairdeploy.cli.options import Json, Quiet, Target, TrustProject
from fairdeploy.cli.output import progress_for, show
from fairdeploy.errors import ParityError
from fairdeploy.settings.options import ExportOptions
from fairdeploy.settings.values import parse_words


def export(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder that fairdeploy shrink wrote.")
    ],
    *,
    precision: Annotated[
        str, typer.Option(metavar="P,P", help="fp32, fp16, int8, or others that a format has.")
    ] = "fp32",
    file_format: Annotated[
        str,
        typer.Option(
            "--format", metavar="F,F", help="onnx, pt2, or another exporter that is installed."
        ),
    ] = "onnx",
    data: Annotated[
        str | None,
        typer.Option(help="Images to calibrate and check with; those of the run if not given."),
    ] = None,
    num_calibration: Annotated[
        int | None, typer.Option(help="Images that INT8 ranges are measured on.", min=2)
    ] = None,
    max_test: Annotated[
        int | None, typer.Option(help="Images that every file is checked on.", min=1)
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="Accuracy that INT8 may lose, in per cent; layers stay in float until it holds. "
            "1 if not given.",
            min=0,
            max=100,
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="The only number of images that files shall take.", min=1)
    ] = None,
    opset: Annotated[int | None, typer.Option(help="Version of ONNX's operators.", min=1)] = None,
    embed_preprocess: Annotated[
        bool,
        typer.Option(
            "--embed-preprocess",
            help="Put resize and normalisation into the ONNX file: it takes uint8 images.",
        ),
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Let the ONNX file end in a softmax.")
    ] = False,
    trust_project: TrustProject = False,
    target: Target = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write more files of a shrunk network, in other precisions and formats, and check each."""
    options = ExportOptions(
        folder=folder,
        formats=parse_words("--format", file_format),
        precisions=parse_words("--precision", precision),
        data=data,
        num_calibration=num_calibration,
        max_test=max_test,
        max_drop=None if max_drop is None else max_drop / 100,
        batch=batch,
        opset=opset,
        embed_preprocess=embed_preprocess,
        probabilities=probabilities,
        trust_project=trust_project,
        target=target,
    )
    from fairdeploy.cli.summaries.export import export_summary
    from fairdeploy.runs.export import run as exporting

    result = exporting.export(options, progress_for(as_json or quiet))
    if not quiet or as_json:
        show(result.document, export_summary(result.document, result.folder), as_json)
    if any(check.passed is False for check in result.checks):
        raise typer.Exit(ParityError.exit_code)
