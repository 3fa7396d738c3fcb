"""What an exporter may do besides: make its file from an ONNX file, in the precisions it knows.

``fairdeploy export`` finds exporters by their entry point and asks each for its precisions; a new
exporter needs no change of the command. Precisions are ``fp32``, ``fp16``, ``bf16`` and ``int8``;
an exporter may have others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from fairdeploy.deployment.exporter_api import Array, Exporter, GuardedExporter, guarded
from fairdeploy.records import Artifact

Batches = Iterable[tuple[Array, ...]]
"""One array per input for each batch; may be gone through several times."""


@runtime_checkable
class ConvertsOnnx(Protocol):
    """An exporter that makes its file from an ONNX file."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """What it can write: ``("fp32", "fp16", "int8")``."""

    def convert(
        self, onnx_path: Path, path: Path, precision: str, calibration: Batches | None
    ) -> Artifact:
        """Write ``path`` in ``precision``; it appears whole or not at all.

        Args:
            onnx_path: The ONNX file: fp32, unless ``onnx_precision`` asks for another.
            path: The file; its folder exists. Files that belong to it lie beside it and their
                names begin with its stem.
            precision: One of ``precisions``.
            calibration: Real inputs, a few images in each batch; None: there are none.

        Returns:
            The file; its ``path`` is the bare file name.

        Raises:
            ExportError: The file is not ONNX, the format lacks an operator, the precision needs
                calibration, or the disk refused.
        """


@runtime_checkable
class ChoosesOnnx(Protocol):
    """A converter that takes another ONNX file than the fp32 one for some precisions."""

    def onnx_precision(self, precision: str) -> str:
        """Precision of the ONNX file to convert from: ``fp32``, ``fp16`` or ``int8`` (QDQ)."""


@dataclass(frozen=True, slots=True)
class GuardedConverter:
    """A plug-in's converter whose exceptions come out as ``ExportError``."""

    converter: ConvertsOnnx
    name: str

    @property
    def precisions(self) -> tuple[str, ...]:
        """What it can write."""
        return self.converter.precisions

    def onnx_precision(self, precision: str) -> str:
        """Precision of the ONNX file to convert from."""
        if not isinstance(self.converter, ChoosesOnnx):
            return "fp32"
        with guarded(f"exporter '{self.name}' failed"):
            return self.converter.onnx_precision(precision)

    def convert(
        self, onnx_path: Path, path: Path, precision: str, calibration: Batches | None
    ) -> Artifact:
        """Write ``path`` in ``precision``."""
        with guarded(f"exporter '{self.name}' could not write '{path.name}'"):
            return self.converter.convert(onnx_path, path, precision, calibration)


def converter_of(exporter: Exporter) -> GuardedConverter | None:
    """The exporter's way to make its file from ONNX, or None if it has none."""
    plug_in = exporter.exporter if isinstance(exporter, GuardedExporter) else exporter
    return GuardedConverter(plug_in, exporter.name) if isinstance(plug_in, ConvertsOnnx) else None
