"""The peers on the same models: which processes to start, in the environment they live in."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.conformance.processes import CommandProcess, Running
from tests.conformance.rows import ROOT
from tests.conformance.supervision import Task
from tests.conformance.zoo import ZooModel

PEERS = ("torch-pruning", "network-pruner")
_DESCRIBE = (
    "import sys; from tests.conformance.rows import describe_versions; "
    "print(describe_versions([sys.argv[1], 'torch', 'torchvision', 'timm']))"
)


def peer_tasks(models: Sequence[ZooModel], python: str) -> list[Task]:
    """A task for each peer and model."""
    tasks = []
    for peer in PEERS:
        fingerprint = _versions(peer, python)
        tasks += [
            Task(model.name, peer, fingerprint, _starter(peer, model.name, python))
            for model in models
        ]
    return tasks


def _starter(peer: str, name: str, python: str) -> Callable[[Path, Path], Running]:
    def start(row_file: Path, log: Path) -> Running:
        command = (python, "-m", "tests.conformance.peer_worker", peer, name, str(row_file))
        return CommandProcess(command, ROOT, log)

    return start


def _versions(peer: str, python: str) -> str:
    return subprocess.run(
        [python, "-c", _DESCRIBE, peer], check=True, capture_output=True, text=True
    ).stdout.strip()
