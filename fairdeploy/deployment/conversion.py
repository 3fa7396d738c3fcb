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
from fairdeploy.records import Artifact, Divergence, OnnxChanges

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
        """Precision of the ONNX file to convert from.

        ``fp32``, ``fp16``, ``int8`` (QDQ, activations with zero points) or ``int8-symmetric`` (QDQ
        without zero points, biases in float, as TensorRT wants it).
        """


@runtime_checkable
class LimitsDrop(Protocol):
    """A converter that can hold the loss of accuracy within a limit."""

    def with_max_drop(self, max_drop: float) -> ConvertsOnnx:
        """The same, keeping in float what would lose more than this share of right answers."""


@runtime_checkable
class ChangesOnnx(Protocol):
    """An exporter that can change a finished ONNX file."""

    def change(self, onnx_path: Path, path: Path, changes: OnnxChanges) -> Artifact:
        """Write the changed file to ``path``; it appears whole or not at all.

        Raises:
            ExportError: A change does not fit the network, or the disk refused.
        """


@runtime_checkable
class FindsDivergence(Protocol):
    """An exporter that can look into two of its files."""

    def first_divergence(
        self, reference: Path, suspect: Path, inputs: tuple[Array, ...], limit: float
    ) -> Divergence | None:
        """The first node of ``reference`` whose result differs by more than ``limit``."""


@runtime_checkable
class RunsAlone(Protocol):
    """An exporter whose files a small script can run without fairdeploy."""

    def stand_alone_script(self) -> str:
        """Text of ``run.py``: it classifies an image with a file that lies beside it."""


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

    def with_max_drop(self, max_drop: float) -> GuardedConverter:
        """The same with a limit, if the plug-in knows limits."""
        if not isinstance(self.converter, LimitsDrop):
            return self
        with guarded(f"exporter '{self.name}' failed"):
            return GuardedConverter(self.converter.with_max_drop(max_drop), self.name)

    def convert(
        self, onnx_path: Path, path: Path, precision: str, calibration: Batches | None
    ) -> Artifact:
        """Write ``path`` in ``precision``."""
        with guarded(f"exporter '{self.name}' could not write '{path.name}'"):
            return self.converter.convert(onnx_path, path, precision, calibration)


def converter_of(exporter: Exporter) -> GuardedConverter | None:
    """The exporter's way to make its file from ONNX, or None if it has none."""
    plug_in = plug_in_of(exporter)
    return GuardedConverter(plug_in, exporter.name) if isinstance(plug_in, ConvertsOnnx) else None


def plug_in_of(exporter: Exporter) -> object:
    """The plug-in itself, to ask for what it can do besides; guard every call of it."""
    return exporter.exporter if isinstance(exporter, GuardedExporter) else exporter
