"""Gathers what there is to know about this machine, each library in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fairdeploy.deployment.devices.gpu_facts import GpuSurvey, survey_gpus
from fairdeploy.runs.doctor.packages import ONNX_RUNTIMES, Versions, installed_versions

_NUM_PROCESSES = 2
STANDING = "standing"

_VERSION = "import {0}\nanswer = {{'version': str({0}.__version__)}}"
QUESTIONS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "torch": (
        ("torch",),
        "import torch\n"
        "answer = {'version': torch.__version__, 'cuda': torch.version.cuda,\n"
        "          'sees_gpu': torch.cuda.is_available()}",
    ),
    "torchvision": (
        ("torchvision",),
        "from fairdeploy.inputs.torchvision_compat import ensure_torchvision\n"
        "ensure_torchvision()\n"
        "import torchvision\n"
        "answer = {'version': torchvision.__version__}",
    ),
    "onnxruntime": (
        ONNX_RUNTIMES,
        "import onnxruntime\n"
        "answer = {'version': onnxruntime.__version__,\n"
        "          'providers': onnxruntime.get_available_providers()}",
    ),
    "openvino": (
        ("openvino",),
        # The library that reports each import to OpenVINO's makers must not be found.
        "import sys\n"
        "sys.modules['openvino_telemetry'] = None\n"
        "import openvino\n"
        "core = openvino.Core()\n"
        "able = lambda name: list(core.get_property(name, 'OPTIMIZATION_CAPABILITIES'))\n"
        "answer = {'version': openvino.__version__.partition('-')[0],\n"
        "          'devices': {name: able(name) for name in core.available_devices}}",
    ),
    "tensorrt": (("tensorrt",), _VERSION.format("tensorrt")),
    "tensorrt_rtx": (("tensorrt-rtx",), _VERSION.format("tensorrt_rtx")),
    "torch_tensorrt": (("torch-tensorrt",), _VERSION.format("torch_tensorrt")),
}
"""By module: the packages that bring it, and the code that tells what it can do here."""


@dataclass(frozen=True, slots=True)
class Findings:
    """All that the judgement rests on."""

    versions: Versions
    gpus: GpuSurvey
    runtimes: Mapping[str, Answer]
    """By module, of those that are installed."""
    standing: Answer
    """Of ``doctor.standing``."""
    has_ssh: bool

    @property
    def exporters(self) -> Mapping[str, str | None]:
        """What is missing by exporter; empty where that could not be found out."""
        found: Mapping[str, str | None] = (self.standing.value or {}).get("exporters", {})
        return found

    @property
    def targets(self) -> Mapping[str, str | None]:
        """What is in the way by target profile; empty where that could not be found out."""
        rows = (self.standing.value or {}).get("targets", [])
        return {row["name"]: row["problem"] for row in rows}

    def has(self, *packages: str) -> bool:
        """Whether one of them is installed."""
        return any(self.versions.get(package) for package in packages)

    def told(self, module: str) -> dict[str, Any] | None:
        """What a module said about itself; None where it is missing or broken."""
        answer = self.runtimes.get(module)
        return answer.value if answer is not None and answer.problem is None else None


# ---- tries Python code in a process of its own, where it may crash or hang -----------------------


TIMEOUT_S = 300.0
"""On a busy machine the first import after an installation takes minutes."""

_MARK = "fairdeploy-answer:"
_ENDING = f"\nimport json as _json\nprint('\\n{_MARK}' + _json.dumps(answer))\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the code left in ``answer``, or what went wrong in one line."""

    value: Any = None
    problem: str | None = None
    is_late: bool = False
    """Whether the code might have ended well with more time."""


Ask = Callable[[str], Answer]


def ask_python(code: str, *, timeout_s: float = TIMEOUT_S) -> Answer:
    """Run ``code``, which leaves something that JSON can hold in a variable ``answer``.

    Never raises; what the code prints is dropped.
    """
    try:
        done = subprocess.run(
            # -P: a file in the current folder must not pass for a library
            [sys.executable, "-P", "-c", code + _ENDING],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False,
            text=True, errors="replace", env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Answer(problem=f"does not answer within {timeout_s:g} s", is_late=True)
    except OSError as error:
        return Answer(problem=f"cannot be tried: {error.strerror or error}")
    if done.returncode < 0:
        return Answer(problem=f"crashes ({_signal_name(-done.returncode)})")
    marked = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode != 0 or not marked:
        return Answer(problem=_last_line(done.stderr) or f"ends with exit code {done.returncode}")
    try:
        return Answer(json.loads(marked[-1].removeprefix(_MARK)))
    except ValueError:
        return Answer(problem="answers with something unreadable")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def gather(
    ask: Ask = ask_python,
    versions: Callable[[], Versions] = installed_versions,
    survey: Callable[[], GpuSurvey] = survey_gpus,
    which: Callable[[str], str | None] | None = None,
) -> Findings:
    """Everything about this machine; never raises. The arguments are for tests."""
    import shutil

    found = versions()
    questions = {
        module: code
        for module, (packages, code) in QUESTIONS.items()
        if any(found.get(package) for package in packages)
    }
    questions[STANDING] = (
        "from fairdeploy.runs.doctor.standing import standing\nanswer = standing()"
    )
    with ThreadPoolExecutor(_NUM_PROCESSES) as pool:
        answers = dict(zip(questions, pool.map(ask, questions.values()), strict=True))
    standing = answers.pop(STANDING)
    return Findings(found, survey(), answers, standing, (which or shutil.which)("ssh") is not None)
