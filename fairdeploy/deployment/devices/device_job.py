"""A job for ``device_script``: what to measure and how, and how its result becomes records."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fairdeploy.deployment.exporter_api import Array
from fairdeploy.deployment.latency.bootstrap import Interval
from fairdeploy.deployment.latency.latency_records import Terms, device_record
from fairdeploy.deployment.latency.race import Measured, RaceResult, RaceSettings
from fairdeploy.errors import MeasurementError
from fairdeploy.records import TargetProfile

SCRIPT_FILE = "measure.py"
JOB_FILE = "job.json"
RESULT_FILE = "result.json"
INPUTS_FILE = "inputs.npz"


def job_text(
    profile: TargetProfile,
    settings: RaceSettings,
    files: Sequence[str],
    inputs: str,
    *,
    batch: int,
    seed: int,
    profiled_runs: int | None = None,
) -> str:
    """``job.json``.

    Args:
        files: One or two, relative to the folder of the job.
        inputs: The file that ``inputs_bytes`` wrote, relative to it too.
        profiled_runs: Times operators over so many runs instead of racing.
    """
    job = {
        "schema_version": 1,
        "target": profile.name,
        "files": list(files),
        "inputs": inputs,
        "batch": batch,
        "providers": list(profile.providers),
        "threads": profile.threads,
        "affinity": list(profile.affinity),
        "settings": asdict(settings),
        "seed": seed,
    }
    if profiled_runs is not None:
        job["profiled_runs"] = profiled_runs
    return json.dumps(job, indent=1) + "\n"


def inputs_bytes(inputs: Sequence[Array]) -> bytes:
    """An ``.npz`` file with the inputs as ``0``, ``1``, and so on."""
    buffer = io.BytesIO()
    named: dict[str, Any] = {str(index): array for index, array in enumerate(inputs)}
    np.savez(buffer, **named)
    return buffer.getvalue()


def network_files(path: Path) -> tuple[Path, ...]:
    """The file, and the one beside it that holds its weights if there is one.

    Raises:
        MeasurementError: There is no such file.
    """
    if not path.is_file():
        raise MeasurementError(f"no file '{path}'; give the path of an exported network")
    weights = path.with_name(f"{path.name}.data")
    if weights.is_symlink() and weights.resolve().parent != path.resolve().parent:
        raise MeasurementError(
            f"'{weights}' is a link out of its folder, to '{weights.resolve()}'; "
            "put the file itself there"
        )
    return (path, weights) if weights.is_file() else (path,)


def parse_result(text: str, profile: TargetProfile) -> tuple[Measured, Terms]:
    """What the device printed or wrote.

    Raises:
        MeasurementError: It is no result of ours, or it comes from another kind of machine.
    """
    try:
        result = json.loads(text)
        measured = _measured(result["measured"])
        device = device_record(
            result["device"], load_before=result["load_before"], load_after=result["load_after"],
            versions=result["versions"],
        )  # fmt: skip
        terms = Terms(
            tuple(result["providers"]), int(result["threads"]), int(result["job"]["batch"]), device
        )
    except (ValueError, KeyError, TypeError) as error:
        raise MeasurementError(
            f"the device's answer cannot be read ({type(error).__name__}: {error}); it begins with "
            f"{text[:60]!r}"
        ) from error
    if profile.machine not in (None, device.machine):
        raise MeasurementError(
            f"target '{profile.name}' is an {profile.machine} device and the host is "
            f"{device.machine}; choose another target or another host"
        )
    return measured, terms


def _measured(tree: Mapping[str, Any]) -> Measured:
    gaps = tree["with_gaps"]
    return Measured(
        tuple(tree["cold_start_ms"]),
        _race_result(tree["back_to_back"]),
        _race_result(gaps) if gaps else None,
    )


def _race_result(tree: Mapping[str, Any]) -> RaceResult:
    times_ms = tuple(tuple(float(time) for time in times) for times in tree["times_ms"])
    return RaceResult(times_ms, Interval(**tree["interval"]), tree["stopped_because"])
