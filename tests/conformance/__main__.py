"""Shrink every architecture of the zoo to half its parameters and check every law on each.

``python -m tests.conformance`` runs one model of every family, each in its own process, and skips
those whose row is there already for this code and these versions. ``--peers`` runs Torch-Pruning
and network-pruner on the same models. ``--table FILE`` writes everything as Markdown, with
``--no-run`` from the rows that are there. The exit status is 1 if any law is broken.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conformance.processes import ForkedProcess, Limits, Running
from tests.conformance.rows import ROOT, PeerRow, Row, compact, our_fingerprint, read_rows
from tests.conformance.supervision import Task, pending, run_tasks
from tests.conformance.table import describe_row, write_table
from tests.conformance.worker import check_into
from tests.conformance.zoo import SETS, ZooModel, select

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Command line."""
    arguments = _parse()
    models = select(arguments.set, tuple(arguments.only))
    if not models:
        print(f"error: no model matches {' '.join(arguments.only)}", file=sys.stderr)
        return 2
    ours, peers = arguments.results / "fairdeploy.jsonl", arguments.results / "peers.jsonl"
    if not (arguments.only_peers or arguments.no_run):
        _run_ours(models, ours, arguments)
    if (arguments.peers or arguments.only_peers) and not arguments.no_run:
        _run_peers(models, peers, arguments)
    our_rows, peer_rows = read_rows(ours, Row), read_rows(peers, PeerRow)
    rows = [our_rows[("", model.name)] for model in models if ("", model.name) in our_rows]
    if arguments.table:
        write_table(rows, peer_rows, arguments.table)
    num_passed = sum(row.passed for row in rows)
    print(f"{num_passed} of {len(models)} passed")
    return 0 if num_passed == len(models) else 1


def _parse() -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--set", choices=SETS, default="families", help="default: %(default)s")
    parser.add_argument("--only", metavar="GLOB", nargs="+", default=[], help="models by name")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--again", action="store_true", help="also those that have a row")
    parser.add_argument("--no-onnx", action="store_true",
                        help="quick look without export; nothing passes")  # fmt: skip
    parser.add_argument("--no-run", action="store_true", help="take the rows that are there")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write a Markdown page")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--cpu-limit", type=float, default=600.0, metavar="S", help="for a model")
    parser.add_argument("--memory-limit", type=float, default=8000.0, metavar="MIB")
    parser.add_argument("--peers", action="store_true", help="also run the peers")
    parser.add_argument("--only-peers", action="store_true", help="run them, not fairdeploy")
    parser.add_argument("--peers-python", default=sys.executable, metavar="PYTHON",
                        help="of the environment that they are installed in")  # fmt: skip
    return parser.parse_args()


def _run_ours(models: tuple[ZooModel, ...], path: Path, arguments: argparse.Namespace) -> None:
    fingerprint = our_fingerprint() + (", without onnx" if arguments.no_onnx else "")
    tasks = [
        Task(model.name, "", fingerprint, _starter(model.name, not arguments.no_onnx))
        for model in models
    ]
    todo = pending(tasks, path, Row, again=arguments.again)
    print(f"fairdeploy: {len(todo)} of {len(models)} to run", flush=True)
    run_tasks(
        todo,
        path,
        Row,
        limits=Limits(arguments.cpu_limit, arguments.memory_limit),
        jobs=arguments.jobs,
        on_row=lambda row: print(describe_row(row), flush=True),
    )
    compact(path, Row)


def _starter(name: str, with_onnx: bool) -> Callable[[Path, Path], Running]:
    def start(row_file: Path, log: Path) -> Running:
        return ForkedProcess(
            check_into, (name, str(row_file), with_onnx), "tests.conformance.preload", log
        )

    return start


def _run_peers(models: tuple[ZooModel, ...], path: Path, arguments: argparse.Namespace) -> None:
    command = [arguments.peers_python, "-m", "tests.conformance.peer_runs", "--rows", str(path)]
    command += ["--jobs", str(arguments.jobs), *(["--again"] if arguments.again else [])]
    subprocess.run([*command, *(model.name for model in models)], cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main())
