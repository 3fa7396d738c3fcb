"""For exporters that make their file from an ONNX file: whole files, and the way over ONNX."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch import Tensor, fx

from fairdeploy.deployment.exporter_api import Exporter, Guarded, get_exporter
from fairdeploy.errors import ExportError
from fairdeploy.records import Artifact, TargetProfile


@contextmanager
def appearing_files(path: Path) -> Iterator[Path]:
    """A path to write to; what was written beside it too appears in ``path``'s folder at the end.

    ``path`` itself appears last, so that it never lies there without what belongs to it. If the
    block fails, nothing appears.

    Raises:
        ExportError: The disk refused, in the block or at its end.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as scratch:
            written = Path(scratch) / path.name
            yield written
            for file in sorted(Path(scratch).iterdir(), key=lambda file: file == written):
                os.replace(file, path.parent / file.name)
    except OSError as error:
        raise ExportError(
            f"cannot write '{path}': {error.strerror or error}; "
            "choose a folder with enough space that you may write to"
        ) from error


def artifact_of(
    path: Path, file_format: str, precision: str, companions: tuple[Path, ...] = ()
) -> Artifact:
    """Size of a file with all that belongs to it, and the SHA-256 of the file itself."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size_bytes = sum(part.stat().st_size for part in (path, *companions))
    return Artifact(path.name, file_format, precision, sha256, size_bytes)


class ThroughOnnx(Exporter):
    """An exporter that makes its file from an ONNX file."""

    def export(
        self, module: fx.GraphModule, example_inputs: tuple[Tensor, ...], path: Path, **terms: Any
    ) -> Artifact:
        """Write ``module`` in fp32, by way of ONNX.

        Raises:
            ExportError: An operation has no form, or the disk refused.
        """
        return _exported(self, "fp32", module, example_inputs, path, **terms)


def _exported(
    exporter: Exporter,
    precision: str,
    module: fx.GraphModule,
    example_inputs: tuple[Tensor, ...],
    path: Path,
    **terms: Any,
) -> Artifact:
    """Export ``module`` as ONNX into a temporary folder, and make ``path`` of that.

    Without calibration images; by way of another ONNX precision where the exporter wants that.

    Raises:
        ExportError: As from each step.
    """
    onnx = get_exporter("onnx")
    with tempfile.TemporaryDirectory(prefix="export-") as scratch:
        file = Path(scratch) / f"{path.stem}{onnx.file_suffix}"
        onnx.export(module, example_inputs, file, **terms)
        wanted = "fp32" if precision == "fp32" else exporter.onnx_precision(precision)
        if wanted != "fp32":
            file = _in_other_precision(onnx, file, wanted)
        return exporter.convert(file, path, precision, None)


def _in_other_precision(onnx: Exporter, file: Path, precision: str) -> Path:
    if precision not in onnx.precisions:
        raise ExportError(f"the exporter 'onnx' does not write precision '{precision}'")
    path = file.with_name(f"model-{precision}{onnx.file_suffix}")
    onnx.convert(file, path, precision, None)
    return path


# ---- exporters that write in the precision of a target profile -----------------------------------


def exporter_for(profile: TargetProfile) -> Exporter:
    """The profile's exporter, which writes in the profile's precision.

    Raises:
        ExportError: It is not installed, its runtime is missing, or it lacks the precision.
    """
    exporter = get_exporter(profile.runtime)
    if profile.precision == "fp32":
        return exporter
    if profile.precision not in exporter.precisions:
        raise ExportError(
            f"target '{profile.name}' asks for precision '{profile.precision}', which the "
            f"exporter '{profile.runtime}' does not write; choose another target"
        )
    return cast(Exporter, _InPrecision(exporter, profile.precision))


class _InPrecision(Guarded):
    """An exporter that goes by way of ONNX, and there of another precision where it must."""

    def __init__(self, exporter: Exporter, precision: str) -> None:
        super().__init__(exporter, Exporter, f"exporter '{exporter.name}'")
        self.export = functools.partial(_exported, exporter, precision)
