"""``fairdeploy measure``: the speed of one ONNX file, or of two against each other, ours or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fairdeploy.deployment.devices.remote_device import RemoteDevice
from fairdeploy.deployment.exporter_api import Array, Exporter, get_exporter
from fairdeploy.deployment.latency.measure import compare_latency, measure_latency
from fairdeploy.errors import ExportError
from fairdeploy.inputs.made_up_inputs import make_up_inputs
from fairdeploy.records import (
    InputSignature,
    LatencyComparison,
    LatencyMeasurement,
    TargetProfile,
)
from fairdeploy.reporting.measure_document import measure_document, measure_row
from fairdeploy.reporting.quantities import NO_CLAIM
from fairdeploy.runs.measure.file_inputs import batches_of, common_signature
from fairdeploy.runs.progress import Progress, SilentProgress
from fairdeploy.settings.options import MeasureOptions
from fairdeploy.settings.target_profiles import load_profile

Measured = LatencyMeasurement | LatencyComparison


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table: how many images at a time, on how many threads."""

    profile: TargetProfile
    inputs: tuple[Array, ...]


def measure(options: MeasureOptions, progress: Progress | None = None) -> dict[str, Any]:
    """Measure one file, or race two, at every batch and number of threads that is asked for.

    Returns:
        A dictionary for ``--json``, version 1: ``target``, ``files``, ``inputs`` and ``rows``.

    Raises:
        FairdeployError: A file cannot be opened, the two take different inputs, or an option does
            not fit them.
    """
    watch = progress or SilentProgress()
    profile = changed_profile(options.target, options.seconds, options.idle_gap_ms)
    signature = common_signature(options.files, profile, is_elsewhere=options.host is not None)
    table = tuple(cells(options, profile, signature))
    rows = []
    with _bench(options, profile) as bench:
        for cell in table:
            name = f"batch {cell.profile.batch}, {_threads(cell.profile.threads)}"
            with watch.stage(name) as stage:
                result = _with_hint(partial(bench, options.files, cell), options.sizes)
                stage.note(_note(result))
            rows.append(measure_row(result))
    host = options.host.host if options.host else None
    return measure_document(options.files, signature, profile, rows, host)


def _with_hint(run: Callable[[], Measured], sizes: Mapping[str, int]) -> Measured:
    """What ``run`` measures; a file that fails at sizes that the user chose may take others."""
    try:
        return run()
    except ExportError as error:
        if not sizes:
            raise
        told = " ".join(f"--size {name}={size}" for name, size in sizes.items())
        raise ExportError(f"{error}; it may not take {told}: try others") from error


def changed_profile(target: str, seconds: float | None, idle_gap_ms: float | None) -> TargetProfile:
    """The target's profile with what the user has changed."""
    profile = load_profile(target)
    if seconds is not None:
        warmup_seconds = min(profile.warmup_seconds, seconds / 4)
        profile = replace(profile, max_seconds=seconds, warmup_seconds=warmup_seconds)
    if idle_gap_ms is not None:
        profile = replace(profile, idle_gap_ms=idle_gap_ms)
    return profile


def cells(
    options: MeasureOptions, profile: TargetProfile, signature: Sequence[InputSignature]
) -> Iterator[Cell]:
    """All combinations of batch and threads, with their inputs.

    Raises:
        UsageError: The file takes another batch, or lacks a size.
    """
    batches = batches_of(signature, options.batches, profile.batch)
    arrays = [make_up_inputs(signature, n, options.sizes, seed=options.seed) for n in batches]
    for threads in options.threads or (profile.threads,):
        for batch, inputs in zip(batches, arrays, strict=True):
            yield Cell(replace(profile, batch=batch, threads=threads), inputs)


@contextmanager
def _bench(
    options: MeasureOptions, profile: TargetProfile
) -> Iterator[Callable[[Sequence[Path], Cell], Measured]]:
    """What measures files: this machine, or another as long as the block lasts."""
    seed = options.seed
    if options.host is None:
        exporter = get_exporter(profile.runtime)
        yield lambda files, cell: _measured_here(files, exporter, cell, seed)
        return
    host = options.host
    with RemoteDevice(
        host.host, port=host.port, python=host.python, ssh_options=host.ssh_options
    ) as device:
        yield lambda files, cell: _measured_there(files, device, cell, seed)


def _measured_here(files: Sequence[Path], exporter: Exporter, cell: Cell, seed: int) -> Measured:
    opens = [_opener(exporter, path, cell.profile) for path in files]
    if len(opens) == 1:
        return measure_latency(opens[0], cell.inputs, cell.profile, seed=seed)
    return compare_latency(opens[0], opens[1], cell.inputs, cell.profile, seed=seed)


def _measured_there(files: Sequence[Path], device: RemoteDevice, cell: Cell, seed: int) -> Measured:
    if len(files) == 1:
        return device.measure(files[0], cell.inputs, cell.profile, seed=seed)
    return device.compare(files[0], files[1], cell.inputs, cell.profile, seed=seed)


def _opener(exporter: Exporter, path: Path, profile: TargetProfile) -> Callable[[], Any]:
    return lambda: exporter.open(path, profile)


def _threads(count: int) -> str:
    return "all cores" if count == 0 else f"{count} thread{'s' if count > 1 else ''}"


def _note(result: Measured) -> str:
    if isinstance(result, LatencyMeasurement):
        return f"{result.stats.median_ms:.3g} ms"
    return NO_CLAIM if result.is_too_busy else f"{result.speedup:.2f}x"
