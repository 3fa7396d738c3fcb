"""Gives each model a process of its own, some at a time, and makes a row of whatever happens."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.processes import Limits, Outcome, Running, run_limited
from tests.conformance.rows import ROOT, AnyRow, append_row, read_rows

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": f"{ROOT}:{ROOT / 'exporters'}",
}


@dataclass(frozen=True, slots=True)
class Task:
    """One model, and how to start its process, which leaves its row in a file."""

    model: str
    peer: str
    fingerprint: str
    start: Callable[[Path, Path], Running]
    """Takes the row's file and the file for what the process prints."""


def pending(
    tasks: Sequence[Task], path: Path, row_type: type[AnyRow], *, again: bool
) -> list[Task]:
    """Tasks without a row of the same fingerprint."""
    rows = {} if again else read_rows(path, row_type)
    return [
        task
        for task in tasks
        if (row := rows.get((task.peer, task.model))) is None or row.fingerprint != task.fingerprint
    ]


def run_tasks(
    tasks: Sequence[Task],
    path: Path,
    row_type: type[AnyRow],
    *,
    limits: Limits,
    jobs: int,
    on_row: Callable[[AnyRow], None],
) -> None:
    """Run each task and append its row to ``path`` as soon as it is there.

    Sets the environment that the processes inherit.
    """
    os.environ.update(_ENVIRONMENT)
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(_run, task, row_type, limits) for task in tasks]
        try:
            for future in futures:
                row = future.result()
                append_row(row, path)
                on_row(row)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run(task: Task, row_type: type[AnyRow], limits: Limits) -> AnyRow:
    with tempfile.TemporaryDirectory() as folder:
        row_file, log = Path(folder) / "row.json", Path(folder) / "log.txt"
        outcome = run_limited(lambda: task.start(row_file, log), limits)
        rows = list(read_rows(row_file, row_type).values())
        row = rows[0] if rows else row_type(task.model)
        _note_end(row, outcome, log)
    row.fingerprint, row.seconds, row.peak_mib = task.fingerprint, outcome.seconds, outcome.peak_mib
    if task.peer:
        setattr(row, "peer", task.peer)  # noqa: B010
    return row


def _note_end(row: AnyRow, outcome: Outcome, log: Path) -> None:
    """A process that did not end well is the failure (changes ``row``)."""
    if not outcome.killed and outcome.exit_code == 0:
        return
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    row.failure = outcome.killed or (
        f"exit status {outcome.exit_code}: {lines[-1][:300] if lines else 'no message'}"
    )
    row.failed_stage = row.stage
