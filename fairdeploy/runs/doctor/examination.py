"""The doctor's whole answer as a document."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from fairdeploy.deployment.devices.device_facts import device_facts
from fairdeploy.runs.doctor.abilities import abilities
from fairdeploy.runs.doctor.findings import QUESTIONS, Findings, gather
from fairdeploy.runs.doctor.packages import conflicts

_OPTIONAL_EXPORTERS = ("openvino", "tensorrt", "tensorrt-rtx", "torch-tensorrt")
"""Ours whose libraries need not be there."""


def examine(findings: Findings | None = None) -> dict[str, Any]:
    """Versions, devices, runtimes, exporters, targets, abilities, and problems in words.

    A problem is something that is there and does not work; what is merely not installed is an
    ability that this machine lacks.
    """
    found = findings or gather()
    return {
        "schema_version": 1,
        "python": platform.python_version(),
        "device": device_facts(),
        "packages": dict(found.versions),
        "gpu": {"devices": [asdict(gpu) for gpu in found.gpus.gpus], "problem": found.gpus.problem},
        "runtimes": {
            module: answer.value if answer.problem is None else {"problem": answer.problem}
            for module, answer in found.runtimes.items()
        },
        "exporters": {name: missing or "usable" for name, missing in found.exporters.items()},
        "targets": found.targets,
        "abilities": [asdict(ability) for ability in abilities(found)],
        "problems": list(_problems(found)),
    }


def _problems(found: Findings) -> Iterator[str]:
    yield from conflicts(found.versions)
    for module, answer in found.runtimes.items():
        packages = [name for name in QUESTIONS[module][0] if found.has(name)]
        if answer.is_late:
            yield f"{module} {answer.problem}; try again when the machine is less busy"
        elif answer.problem is not None:
            yield (
                f"{' and '.join(packages)} is installed but does not work: {answer.problem}; "
                f"run pip install --force-reinstall {' '.join(packages)}"
            )
    if not found.has("torch"):
        yield "torch is not installed; run pip install torch"
    if found.standing.problem is not None:
        yield f"the exporters cannot be asked: {found.standing.problem}"
    elif not found.exporters:
        yield "no exporter is registered; install fairdeploy again with pip"
    for name, missing in found.exporters.items():
        if missing is not None and name not in _OPTIONAL_EXPORTERS:
            yield f"{name}: {missing}"
