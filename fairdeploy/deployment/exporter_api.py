"""What an exporter plug-in provides, and how plug-ins are found.

An exporter writes a file and opens it again as a runner. Plug-ins announce themselves through the
entry-point group ``fairdeploy.exporters``; the entry point is a class that takes no arguments::

    [project.entry-points."fairdeploy.exporters"]
    onnx = "fairdeploy_onnx:OnnxExporter"

It derives from ``Exporter`` and writes ``is_available``, ``export`` and ``open``; whatever else it
writes, it is asked for. Classes that only have the same methods serve as well.

Plug-ins are other people's code: every call goes through a guard that turns whatever they raise
into one ``ExportError``.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.errors import ExportError, FairdeployError
from fairdeploy.files import require_regular
from fairdeploy.records import (
    Artifact,
    BranchCut,
    Divergence,
    InputSignature,
    NetworkDims,
    OnnxChanges,
    OperatorTime,
    TargetProfile,
    TensorNames,
)

ENTRY_POINT_GROUP = "fairdeploy.exporters"

Array = NDArray[Any]
Lengths = NDArray[np.int64]
Batches = Iterable[tuple[Array, ...]]
"""One array per input for each batch; may be gone through several times."""


class Runner:
    """An opened file, ready to run."""

    providers: tuple[str, ...]
    """The back ends that the runtime really uses, first choice first."""
    threads: int
    """Threads that work on one operator."""
    input_signature: tuple[InputSignature, ...] = ()
    """Names, types and sizes of the inputs, in the order of ``run``; empty: it cannot tell."""
    versions: Mapping[str, str] = {}
    """Version of the runtime, and of each provider's library that tells it."""

    def run(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        """Outputs for one batch, in the order of the network's outputs."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the runtime's memory and threads back; may be called twice."""
        raise NotImplementedError


class WidthTemplate(Protocol):
    """A file that can be written at other widths."""

    def write(self, path: Path, lengths: Lengths, cuts: Sequence[BranchCut] = ()) -> None:
        """Write the file with these lengths, shape [D]; it is for timing, its results are not.

        Args:
            path: The file.
            lengths: From ``DimensionLengths``.
            cuts: Residual branches that the file shall lack.

        Raises:
            ExportError: It cannot be written without them.
        """


class Exporter:
    """Writes a network in one format and opens it; what it does not write it cannot do."""

    name: str
    """Name of the entry point and of ``runtime`` in a target profile."""
    file_suffix: str
    """How its file names end: ``.onnx``, ``.plan``."""
    precisions: tuple[str, ...] = ()
    """What ``convert`` can write, of ``fp32``, ``fp16``, ``bf16``, ``int8`` or others."""
    trial_format: str | None = None
    """Name of the exporter that writes files which are only for timing; None: itself."""

    def is_available(self) -> str | None:
        """None if it can work here, else what is missing and how to install it."""
        raise NotImplementedError

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
        raise self._cannot("write files")

    def open(self, path: Path, profile: TargetProfile) -> Runner:
        """Open a file on the profile's providers with its number of threads.

        Raises:
            ExportError: Not a file of this format, or the runtime would run it elsewhere.
        """
        raise self._cannot("open files")

    def unusable_because(self, profile: TargetProfile) -> str | None:
        """None if files for this profile can be written and run here, else what is in the way."""
        return None

    def onnx_precision(self, precision: str) -> str:
        """Precision of the ONNX file to convert from.

        ``fp32``, ``fp16``, ``int8`` (QDQ, activations with zero points) or ``int8-symmetric`` (QDQ
        without zero points, biases in float, as TensorRT wants it).
        """
        return "fp32"

    def with_max_drop(self, max_drop: float) -> Exporter:
        """The same, whose ``convert`` keeps in float what would lose more right answers.

        Args:
            max_drop: Share of all answers. Without a limit of its own it is the same exporter.
        """
        return self

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
        raise self._cannot("make its file from an ONNX file")

    def change(self, onnx_path: Path, path: Path, changes: OnnxChanges) -> Artifact:
        """Write a finished ONNX file with changes to ``path``; it appears whole or not at all.

        Raises:
            ExportError: A change does not fit the network, or the disk refused.
        """
        raise self._cannot("change a file")

    def first_divergence(
        self, reference: Path, suspect: Path, inputs: tuple[Array, ...], limit: float
    ) -> Divergence | None:
        """The first node of ``reference`` whose result differs by more than ``limit``."""
        return None

    def stand_alone_script(self) -> str | None:
        """Text of ``run.py``, which feeds images to a file that lies beside it."""
        return None

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
            ExportError: As from ``open``, or the runtime fails to run it.
        """
        raise self._cannot("time operators")

    def width_template(
        self,
        original: Path,
        probe: Path,
        dims: NetworkDims,
        lengths: tuple[Lengths, Lengths],
    ) -> WidthTemplate | None:
        """A template from files of one network at two widths, None if they do not make one.

        Args:
            original: The whole network.
            probe: The same at another width.
            dims: The dimensions of the network's tensors.
            lengths: Length of each dimension in either file, each [D].
        """
        return None

    def device_sources(self) -> tuple[str, ...]:
        """Source texts for a device without fairdeploy, in order.

        They may import each other, ``race`` and ``device_facts``. The last one does the job of the
        folder that it lies in when it is run.
        """
        raise self._cannot("measure on another device; use a target whose runtime can, such as cpu")

    def told_operator_times(self, path: Path, told: Mapping[str, Any]) -> tuple[OperatorTime, ...]:
        """Operators that a device timed, in the order in which they run.

        Args:
            path: The file that the device was sent.
            told: What the exporter's own device script says of it.
        """
        raise self._cannot("time operators on another device")

    def _cannot(self, what: str) -> ExportError:
        return ExportError(self.is_available() or f"exporter '{self.name}' cannot {what}")


_NEEDED = ("name", "file_suffix", "is_available", "export", "open")
_FAILURES = {
    "export": "could not write '{}'",
    "convert": "could not write '{}'",
    "change": "could not change '{}'",
    "open": "could not open '{}'",
    "operator_times": "could not time the operators of '{}'",
    "told_operator_times": "could not read a device's operator times of '{}'",
    "first_divergence": "could not find the first diverging node of '{}'",
    "width_template": "could not make a template of '{}'",
    "run": "failed to run",
    "close": "failed to close",
}
_ANSWERS: dict[str, type] = {"open": Runner, "with_max_drop": Exporter}


class Guarded:
    """A plug-in of which every exception comes out as ``ExportError``.

    What a plug-in that does not derive from our base class lacks, the base class does for it.
    """

    def __init__(self, plug_in: object, base: type, called: str) -> None:
        """Stand for ``plug_in``, which errors call ``called``."""
        self.plug_in, self._base, self._called = plug_in, base, called

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Passes for what it stands for."""
        return self._base

    def __getattr__(self, name: str) -> Any:
        """An attribute, or a method with the guard around it."""
        if name.startswith("_"):
            raise AttributeError(name)
        with guarded(f"{self._called} failed"):
            value = getattr(self.plug_in, name, _ABSENT)
        if value is _ABSENT:
            value = getattr(self._base, name)
            value = functools.partial(value, self.plug_in) if callable(value) else value
        if not callable(value):
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            paths = [each for each in (*arguments, *options.values()) if isinstance(each, Path)]
            file = paths[-1].name if paths else ""
            with guarded(f"{self._called} {_FAILURES.get(name, 'failed').format(file)}"):
                if name == "open" and paths[0].exists() and not paths[0].is_dir():
                    require_regular(paths[0])  # some formats are folders
                answer = value(*arguments, **options)
            kind = _ANSWERS.get(name)
            called = f"'{file}'" if kind is Runner else self._called
            return answer if kind is None else Guarded(answer, kind, called)

        self.__dict__[name] = call  # a race calls ``run`` often
        return call


_ABSENT = object()


def guarded_exporter(plug_in: object) -> Exporter:
    """A plug-in behind its guard."""
    name = getattr(plug_in, "name", type(plug_in).__name__)
    return cast(Exporter, Guarded(plug_in, Exporter, f"exporter '{name}'"))


def guarded_runner(runner: object, file_name: str) -> Runner:
    """A plug-in's runner behind its guard."""
    return cast(Runner, Guarded(runner, Runner, f"'{file_name}'"))


def offers(exporter: Exporter, ability: str) -> bool:
    """Whether an exporter has a way of its own to do what a method of ``Exporter`` is for."""
    plug_in: object = exporter
    while isinstance(plug_in, Guarded):
        plug_in = plug_in.plug_in
    own = getattr(type(plug_in), ability, None)
    return own is not None and own is not getattr(Exporter, ability)


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


def trial_exporter(exporter: Exporter) -> Exporter:
    """What writes files that ``exporter`` shall time: itself, or another that can cut them.

    Raises:
        ExportError: That one is not installed.
    """
    return get_exporter(exporter.trial_format) if exporter.trial_format else exporter


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}


def _load(entry: EntryPoint) -> Exporter:
    try:
        with guarded(f"exporter '{entry.name}' ({entry.value}) cannot be loaded"):
            exporter = entry.load()()
    except ExportError as error:
        return BrokenExporter(entry.name, str(error))
    lacking = [part for part in _NEEDED if not hasattr(exporter, part)]
    if lacking:
        reason = f"exporter '{entry.name}' ({entry.value}) lacks a part of the Exporter protocol"
        reason += f": {', '.join(lacking)}"
        return BrokenExporter(entry.name, reason)
    return guarded_exporter(exporter)


class BrokenExporter(Exporter):
    """Stands for one that is installed but cannot be loaded; every use says why."""

    file_suffix = ""

    def __init__(self, name: str, reason: str) -> None:
        """Tell ``reason`` for the plug-in called ``name``."""
        self.name, self._reason = name, reason

    def is_available(self) -> str | None:
        """Why the plug-in cannot be loaded."""
        return self._reason


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


def unusable_because(profile: TargetProfile, exporters: Mapping[str, Exporter]) -> str | None:
    """Why ``profile`` cannot be served on this machine, None if it can.

    An exporter that does not judge profiles is taken to serve all.
    """
    exporter = exporters.get(profile.runtime)
    if exporter is None:
        return f"no exporter '{profile.runtime}' is installed"
    here = platform.machine()
    if profile.machine not in (None, here):
        return f"it is an {profile.machine} device and this is {here}; measure there, with --host"
    try:
        missing = exporter.is_available()
        return missing or exporter.unusable_because(profile)
    except ExportError as error:
        return str(error)
