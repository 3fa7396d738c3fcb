"""What an exporter plug-in provides, and how plug-ins are found.

An exporter writes a file and opens it again as a runner. Plug-ins announce themselves through the
entry-point group ``fairdeploy.exporters``; the entry point is a class that takes no arguments::

    [project.entry-points."fairdeploy.exporters"]
    onnx = "fairdeploy_onnx:OnnxExporter"

Plug-ins are other people's code: every call goes through a guard that turns whatever they raise
into one ``ExportError``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.deployment.broken_exporter import BrokenExporter
from fairdeploy.errors import ExportError, FairdeployError
from fairdeploy.files import require_regular
from fairdeploy.records import Artifact, OperatorTime, TargetProfile, TensorNames

ENTRY_POINT_GROUP = "fairdeploy.exporters"

Array = NDArray[Any]


@runtime_checkable
class Runner(Protocol):
    """An opened file, ready to run."""

    @property
    def providers(self) -> tuple[str, ...]:
        """The back ends that the runtime really uses, first choice first."""

    @property
    def threads(self) -> int:
        """Threads that work on one operator."""

    def run(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        """Outputs for one batch, in the order of the network's outputs."""

    def close(self) -> None:
        """Give the runtime's memory and threads back; may be called twice."""


@runtime_checkable
class Exporter(Protocol):
    """Writes a network in one format and opens it."""

    @property
    def name(self) -> str:
        """Name of the entry point and of ``runtime`` in a target profile."""

    @property
    def file_suffix(self) -> str:
        """How its file names end: ``.onnx``, ``.plan``."""

    def is_available(self) -> str | None:
        """None if it can work here, else what is missing and how to install it."""

    def export(
        self,
        module: fx.GraphModule,
        example_inputs: tuple[Tensor, ...],
        path: Path,
        *,
        dynamic_batch: bool,
        metadata: Mapping[str, str],
        names: TensorNames | None = None,
    ) -> Artifact:
        """Write ``module`` to ``path``; the file appears whole or not at all.

        Args:
            module: Functional ATen graph in eval mode; not changed.
            example_inputs: One tensor per input, batch first, at least two images.
            path: The file; its folder exists.
            dynamic_batch: Whether the file must take any batch size.
            metadata: Texts to store in the file.
            names: What inputs, outputs and varying sizes are called; None: the format's own names,
                and only the batch may vary.

        Returns:
            The file; its ``path`` is the bare file name.

        Raises:
            ExportError: The format cannot express the network, or the disk refused.
        """

    def open(self, path: Path, profile: TargetProfile) -> Runner:
        """Open a file on the profile's providers with its number of threads.

        Raises:
            ExportError: Not a file of this format, or the runtime would run it elsewhere.
        """


@runtime_checkable
class OperatorProfiler(Protocol):
    """What an exporter may do besides: tell how long each operator takes."""

    def operator_times(
        self,
        path: Path,
        inputs: tuple[Array, ...],
        profile: TargetProfile,
        *,
        num_runs: int = 20,
    ) -> tuple[OperatorTime, ...]:
        """Medians over ``num_runs`` runs of a file, in the order in which the operators run.

        Raises:
            ExportError: As from ``Exporter.open``, or the runtime fails to run it.
        """


@dataclass(frozen=True, slots=True)
class GuardedRunner:
    """A plug-in's runner whose exceptions come out as ``ExportError``."""

    runner: Runner
    file_name: str

    @property
    def providers(self) -> tuple[str, ...]:
        """The back ends that the runtime really uses, first choice first."""
        return self.runner.providers

    @property
    def threads(self) -> int:
        """Threads that work on one operator."""
        return self.runner.threads

    def run(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        """Outputs for one batch."""
        with guarded(f"'{self.file_name}' failed to run"):
            return self.runner.run(inputs)

    def close(self) -> None:
        """Give the runtime's memory and threads back."""
        with guarded(f"'{self.file_name}' failed to close"):
            self.runner.close()


@dataclass(frozen=True, slots=True)
class GuardedExporter:
    """A plug-in whose exceptions come out as ``ExportError``."""

    exporter: Exporter

    @property
    def name(self) -> str:
        """Name of the entry point."""
        return self.exporter.name

    @property
    def file_suffix(self) -> str:
        """How its file names end."""
        return self.exporter.file_suffix

    def is_available(self) -> str | None:
        """None if it can work here, else what is missing."""
        with guarded(f"exporter '{self.name}' failed"):
            return self.exporter.is_available()

    def export(
        self,
        module: fx.GraphModule,
        example_inputs: tuple[Tensor, ...],
        path: Path,
        *,
        dynamic_batch: bool,
        metadata: Mapping[str, str],
        names: TensorNames | None = None,
    ) -> Artifact:
        """Write ``module`` to ``path``."""
        with guarded(f"exporter '{self.name}' could not write '{path.name}'"):
            return self.exporter.export(
                module,
                example_inputs,
                path,
                dynamic_batch=dynamic_batch,
                metadata=metadata,
                names=names,
            )

    def open(self, path: Path, profile: TargetProfile) -> GuardedRunner:
        """Open a file as a guarded runner."""
        with guarded(f"exporter '{self.name}' could not open '{path.name}'"):
            if path.exists() and not path.is_dir():  # some formats are folders
                require_regular(path)
            return GuardedRunner(self.exporter.open(path, profile), path.name)


@dataclass(frozen=True, slots=True)
class GuardedProfiler:
    """A plug-in's profiler whose exceptions come out as ``ExportError``."""

    profiler: OperatorProfiler

    def operator_times(
        self,
        path: Path,
        inputs: tuple[Array, ...],
        profile: TargetProfile,
        *,
        num_runs: int = 20,
    ) -> tuple[OperatorTime, ...]:
        """Medians over ``num_runs`` runs of a file."""
        with guarded(f"'{path.name}' could not be timed by operator"):
            return self.profiler.operator_times(path, inputs, profile, num_runs=num_runs)


def load_exporters() -> dict[str, Exporter]:
    """All installed exporters by name; a broken one is there too and says what is wrong with it."""
    return {name: _load(entry) for name, entry in sorted(_entries().items())}


def get_exporter(name: str) -> Exporter:
    """The exporter of that name, ready to work.

    Raises:
        ExportError: Not installed, cannot be loaded, or its runtime is missing.
    """
    entries = _entries()
    if name not in entries:
        choices = ", ".join(sorted(entries)) or "none is installed"
        raise ExportError(
            f"no exporter '{name}'; use one of: {choices}; plug-ins register under the entry-point "
            f"group '{ENTRY_POINT_GROUP}'"
        )
    exporter = _load(entries[name])
    missing = exporter.is_available()
    if missing is not None:
        raise ExportError(missing)
    return exporter


def profiler_of(exporter: Exporter) -> OperatorProfiler | None:
    """The exporter's way to time single operators, or None if it has none."""
    plug_in = exporter.exporter if isinstance(exporter, GuardedExporter) else exporter
    return GuardedProfiler(plug_in) if isinstance(plug_in, OperatorProfiler) else None


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}


def _load(entry: EntryPoint) -> Exporter:
    try:
        with guarded(f"exporter '{entry.name}' ({entry.value}) cannot be loaded"):
            exporter = entry.load()()
    except ExportError as error:
        return BrokenExporter(entry.name, str(error))
    if not isinstance(exporter, Exporter):
        reason = f"exporter '{entry.name}' ({entry.value}) lacks a part of the Exporter protocol"
        return BrokenExporter(entry.name, reason)
    return GuardedExporter(exporter)


@contextmanager
def guarded(what_failed: str) -> Iterator[None]:
    """Let our own errors pass; turn all others into an ``ExportError`` of one line."""
    try:
        yield
    except FairdeployError:
        raise
    except Exception as error:  # a plug-in may raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        detail = lines[0][:300] if lines else "no message"
        raise ExportError(f"{what_failed}: {type(error).__name__}: {detail}") from error
