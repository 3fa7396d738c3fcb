"""Which files ``fairdeploy export`` shall write, checked before any work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fairdeploy.deployment.exporter_api import Exporter
from fairdeploy.errors import ExportError, UsageError
from fairdeploy.runs.folder.artifact_folder import ONNX, ONNX_FILE
from fairdeploy.settings.options import ExportOptions

PROGRAM = "pt2"
"""The exported program of torch: there already, in fp32 only."""
NEEDS_IMAGES = "int8"


@dataclass(frozen=True, slots=True)
class Request:
    """One file."""

    exporter: Exporter
    precision: str
    file_name: str


def requests_of(options: ExportOptions, exporters: Mapping[str, Exporter]) -> tuple[Request, ...]:
    """One for each format and each precision that it has.

    A precision that one of several formats lacks is left out there.

    Raises:
        UsageError: An unknown format, or a precision that no format has.
        ExportError: The runtime of a format is missing.
    """
    found: list[Request] = []
    known: dict[str, tuple[str, ...]] = {}
    for name in options.formats:
        if name == PROGRAM:
            known[name] = ("fp32",)
            continue
        exporter = _exporter(name, exporters)
        known[name] = exporter.precisions
        found += [
            Request(exporter, precision, _file_name(options, exporter, precision))
            for precision in options.precisions
            if precision in exporter.precisions
        ]
    for precision in options.precisions:
        if not any(precision in precisions for precisions in known.values()):
            choices = "; ".join(f"{name} has {', '.join(own)}" for name, own in known.items())
            raise UsageError(f"no format has precision '{precision}': {choices}")
    _check_int8_only(options)
    _check_onnx_only(options)
    new = tuple(request for request in found if request.file_name != ONNX_FILE)
    if not new:
        raise UsageError(
            f"all that is asked for is there already ({ONNX_FILE}, model.pt2); add a precision, "
            "such as --precision fp16,int8, or another format"
        )
    return new


def needs_images(requests: Sequence[Request]) -> bool:
    """Whether a file can't be made without calibration images."""
    return any(request.precision.startswith(NEEDS_IMAGES) for request in requests)


def skipped(options: ExportOptions, exporters: Mapping[str, Exporter]) -> Iterator[str]:
    """Which combinations are left out, in words."""
    for name in options.formats:
        own = exporters[name].precisions if name in exporters else ("fp32",)
        for precision in options.precisions:
            if precision not in own:
                yield f"{name} has no precision {precision}: left out"


def _exporter(name: str, exporters: Mapping[str, Exporter]) -> Exporter:
    exporter = exporters.get(name)
    if exporter is None:
        choices = ", ".join(sorted([*exporters, PROGRAM]))
        raise UsageError(f"no format '{name}'; use one of {choices}")
    missing = exporter.is_available()
    if missing is not None:
        raise ExportError(missing)
    if not exporter.precisions:
        raise UsageError(
            f"exporter '{name}' cannot make its files from ONNX; use it as a target of "
            "fairdeploy shrink"
        )
    return exporter


def _check_int8_only(options: ExportOptions) -> None:
    if any(precision.startswith(NEEDS_IMAGES) for precision in options.precisions):
        return
    for option, value in (
        ("--max-drop", options.max_drop), ("--num-calibration", options.num_calibration),
    ):  # fmt: skip
        if value is not None:
            raise UsageError(f"{option} is about int8; drop it, or add --precision int8")


def _check_onnx_only(options: ExportOptions) -> None:
    if options.opset and ONNX not in options.formats:
        raise UsageError(f"--opset {options.opset} is about ONNX; drop it, or add --format onnx")
    others = [name for name in options.formats if name != ONNX]
    if others and (options.embed_preprocess or options.probabilities):
        option = "--embed-preprocess" if options.embed_preprocess else "--probabilities"
        raise UsageError(f"{option} is for --format onnx alone, not for {', '.join(others)}")


def _file_name(options: ExportOptions, exporter: Exporter, precision: str) -> str:
    """``model-int8-batch4-images.onnx``."""
    parts = [
        "model",
        "" if precision == "fp32" else precision,
        f"batch{options.batch}" if options.batch else "",
        f"opset{options.opset}" if options.opset and exporter.name == ONNX else "",
        "images" if options.embed_preprocess else "",
        "probabilities" if options.probabilities else "",
    ]
    return "-".join(filter(None, parts)) + exporter.file_suffix
