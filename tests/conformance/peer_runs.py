"""The peers on the same models: which processes to start, in the environment they live in."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

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
        command = (python, "-m", "tests.conformance.peer_worker", peer)
        tasks += [Task(model.name, peer, fingerprint, (*command, model.name)) for model in models]
    return tasks


def _versions(peer: str, python: str) -> str:
    return subprocess.run(
        [python, "-c", _DESCRIBE, peer], check=True, capture_output=True, text=True
    ).stdout.strip()
