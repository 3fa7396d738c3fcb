"""Runs the peers on models: ``PYTHON -m tests.conformance.peer_runs --rows FILE MODEL ...``.

``PYTHON`` is that of an environment with ``torch-pruning``, ``network-pruner``, torch, torchvision
and timm. ``python -m tests.conformance --peers`` calls this.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conformance.peer_worker import PRUNERS, check_into
from tests.conformance.processes import ForkedProcess, Limits, Running
from tests.conformance.rows import PeerRow, compact, describe_versions
from tests.conformance.supervision import Task, pending, run_tasks

LIMITS = Limits(cpu_s=120.0, memory_mib=12_000.0)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--again", action="store_true")
    arguments = parser.parse_args()
    tasks = peer_tasks(arguments.models)
    todo = pending(tasks, arguments.rows, PeerRow, again=arguments.again)
    print(f"peers: {len(todo)} of {len(tasks)} to run", flush=True)
    run_tasks(todo, arguments.rows, PeerRow, limits=LIMITS, jobs=arguments.jobs, on_row=_print_row)
    compact(arguments.rows, PeerRow)
    return 0


def peer_tasks(models: list[str]) -> list[Task]:
    """A task for each model and peer; a peer's rows hold for its version and torch's."""
    fingerprints = {
        peer: describe_versions([peer, "torch", "torchvision", "timm"]) for peer in PRUNERS
    }
    return [
        Task(model, peer, fingerprint, _starter(peer, model))
        for model in models
        for peer, fingerprint in fingerprints.items()
    ]


def _starter(peer: str, model: str) -> Callable[[Path, Path], Running]:
    def start(row_file: Path, log: Path) -> Running:
        return ForkedProcess(
            check_into, (peer, model, str(row_file)), "tests.conformance.peer_preload", log
        )

    return start


def _print_row(row: PeerRow) -> None:
    verdict = "works" if row.works else f"fails at {row.failed_stage}: {row.failure}"
    print(f"{row.peer} {row.model}: {verdict} | {row.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
