"""Measures the ONNX files of a job on the device that it lies on.

A copy of this file follows copies of ``race``, ``device_facts``, ``session`` and
``operator_profile`` in one script that needs Python 3.8, numpy and onnxruntime; it must not use
anything else of fairdeploy.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
import zlib
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fairdeploy.deployment.devices.device_facts import (
    AffinityError,
    device_facts,
    held_on_cores,
    load_average,
    usable_cores,
)
from fairdeploy.deployment.latency.bootstrap import CoarseClockError
from fairdeploy.deployment.latency.entrants import Opened
from fairdeploy.deployment.latency.race import RaceSettings, measure
from fairdeploy_onnx.operator_profile import profiled_operators
from fairdeploy_onnx.session import ProviderError, one_line, open_session, runtime_versions_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fairdeploy_onnx.operator_profile import Profiled

USAGE = "usage: python measure.py [--json] [FOLDER]"
JOB_FILE = "job.json"
RESULT_FILE = "result.json"


class JobError(ValueError):
    """The job cannot be done here; the text is one line for the user."""


def main(arguments: Sequence[str]) -> int:
    """Do the job of a folder; print a table and write ``result.json``, or print the JSON alone."""
    folders = [argument for argument in arguments if not argument.startswith("-")]
    if len(folders) > 1 or set(arguments) - set(folders) - {"--json"}:
        sys.stderr.write(USAGE + "\n")
        return 2
    folder = Path(folders[0]) if folders else Path(__file__).resolve().parent
    try:
        result = do_job(folder)
    except (JobError, ProviderError, AffinityError, CoarseClockError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if "--json" in arguments:
        sys.stdout.write(json.dumps(result))
        return 0
    (folder / RESULT_FILE).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(table_lines(result)) + f"\nwritten to {folder / RESULT_FILE}\n")
    return 0


def do_job(folder: Path) -> dict[str, Any]:
    """Do what the folder's ``job.json`` asks for; the raw result.

    Its files are opened and raced; or, where it has ``profiled_runs``, their operators are timed.
    """
    job = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
    onnxruntime = _import_onnxruntime()
    with np.load(folder / job["inputs"], allow_pickle=False) as archive:
        inputs = [archive[str(index)] for index in range(len(archive.files))]
    paths = [folder / name for name in job["files"]]
    with ExitStack() as stack:
        stack.enter_context(held_on_cores(job["affinity"]))
        threads = job["threads"] or usable_cores()
        opens = [
            partial(_opened, onnxruntime, path, job["providers"], threads, inputs) for path in paths
        ]
        if job.get("profiled_runs"):
            told = [_operators(open_with, job["profiled_runs"], folder) for open_with in opens]
            return {"schema_version": 1, "job": job, "operators": told}
        load_before = load_average()
        facts = device_facts()
        entrants = [partial(_entrant, open_with) for open_with in opens]
        measured = measure(entrants, RaceSettings(**job["settings"]), seed=job["seed"])
    return {
        "schema_version": 1,
        "job": job,
        "measured": asdict(measured),
        "threads": threads,
        "providers": job["providers"],
        "device": facts,
        "load_before": load_before,
        "load_after": load_average(),
        "versions": runtime_versions_of(onnxruntime, job["providers"]),
    }


def table_lines(result: Mapping[str, Any]) -> list[str]:
    """What was measured, for people."""
    job, measured = result["job"], result["measured"]
    lines = ["{:<28}{:>10}{:>10}{:>10}{:>14}{:>12}".format(
        "file", "median ms", "p90", "p99", "cold start ms", "images/s"
    )]  # fmt: skip
    races = [("", measured["back_to_back"])]
    if measured["with_gaps"]:
        races.append((f" every {job['settings']['idle_gap_ms']:g} ms", measured["with_gaps"]))
    for label, race in races:
        for index, times_ms in enumerate(race["times_ms"]):
            median, p90, p99 = np.percentile(times_ms, (50, 90, 99))
            cold = "" if label else f"{measured['cold_start_ms'][index]:.4g}"
            rate = "" if label else f"{job['batch'] * 1e3 / median:.4g}"
            name = job["files"][index] + label
            lines.append(f"{name:<28}{median:>10.4g}{p90:>10.4g}{p99:>10.4g}{cold:>14}{rate:>12}")
        if len(race["times_ms"]) > 1:
            interval = race["interval"]
            lines.append(
                f"{job['files'][1]} is {interval['value']:.3f} times as fast as "
                f"{job['files'][0]}{label} ({interval['low']:.3f} to {interval['high']:.3f})"
            )
    device, load = result["device"], result["load_before"]
    lines.append(
        f"{device['cpu']}, {device['cores']} cores, {result['threads']} threads, governor "
        f"{device['governor'] or 'unknown'}, load {'unknown' if load is None else round(load, 1)}, "
        f"{', '.join(result['providers'])}, "
        f"onnxruntime {result['versions']['onnxruntime']}"
    )
    lines.append(f"stopped because {measured['back_to_back']['stopped_because']}")
    return lines


def _operators(
    open_with: Callable[[Callable[[Any], None]], Profiled], num_runs: int, folder: Path
) -> dict[str, Any]:
    """What each operator of a file takes, and the graph that ONNX Runtime made of the file."""
    with tempfile.TemporaryDirectory(dir=str(folder)) as scratch:
        rows, graph = profiled_operators(open_with, JobError, Path(scratch), num_runs)
    packed = None if graph is None else base64.b64encode(zlib.compress(graph)).decode("ascii")
    return {"rows": rows, "graph": packed}


def _entrant(open_with: Callable[[], Profiled]) -> Opened:
    call, _ = open_with()
    return Opened(call, lambda: None)  # the session goes when nothing calls it any more


def _opened(
    onnxruntime: Any,
    path: Path,
    providers: Sequence[str],
    threads: int,
    inputs: Sequence[Any],
    configure: Callable[[Any], None] | None = None,
) -> Profiled:
    """An open file's call, and what ends its profile."""
    try:
        session = open_session(onnxruntime, path, providers, threads, configure)
    except ProviderError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no public base
        raise _cannot_run(path, error) from error
    names = [node.name for node in session.get_inputs()]
    feed = {name: inputs[index] for index, name in enumerate(names)}

    def call() -> None:
        try:
            session.run(None, feed)
        except Exception as error:  # as above
            raise _cannot_run(path, error) from error

    return call, session.end_profiling


def _cannot_run(path: Path, error: Exception) -> JobError:
    return JobError(f"'{path.name}' cannot be opened and run: {one_line(error)}")


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise JobError(
            f"onnxruntime cannot be imported ({error}); "
            f"run {sys.executable} -m pip install onnxruntime"
        ) from error
    return onnxruntime


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
