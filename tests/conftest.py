"""Makes every run of the tests equal: one thread, no network, no cache of the user, one seed."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch and numpy start their threads: the tests' networks are too small to gain from them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.torch_files import TorchRunner, write_torch_file

if "ONEDNN_MAX_CPU_ISA" in os.environ:  # see kernels.py
    # OpenVINO has a oneDNN of its own, but asks the processor itself which kernels there are: under
    # a limit it finds none for what it planned. Torch's reads the limit once, so it can go then.
    torch.nn.functional.conv2d(torch.ones(2, 3, 16, 16), torch.ones(4, 3, 3, 3))
    del os.environ["ONEDNN_MAX_CPU_ISA"]

# A busy machine is not a failure, and the same commit must give the same answer.
settings.register_profile(
    "fairdeploy",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("fairdeploy")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the scores of the tests away from the user's cache."""
    before = os.environ.get("FAIRDEPLOY_CACHE")
    os.environ["FAIRDEPLOY_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["FAIRDEPLOY_CACHE"]
    else:
        os.environ["FAIRDEPLOY_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def _own_projects() -> Iterator[None]:
    """Trust the tests' project files: they lie in temporary folders and name this package's code.

    What strangers' files may do is tested through the command line, in ``security``.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairdeploy.settings.run.refuse_foreign_code", lambda path, used: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_operator_table() -> Iterator[None]:
    """Let torch read its 500 ONNX functions once a process, not once an export.

    Each export gets a table of its own: it may register more operators.
    """
    export, tables = torch.onnx.export, {}

    def exported(*arguments: Any, **options: Any) -> Any:
        # imported by torch's export too, but only now
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        read = ONNXRegistry.from_torchlib

        def from_torchlib(*opset: Any, **named: Any) -> ONNXRegistry:
            key = (opset, tuple(named.items()))
            if key not in tables:
                tables[key] = read(*opset, **named)
            table = copy.copy(tables[key])
            table.functions = {name: [*found] for name, found in table.functions.items()}
            return table

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(from_torchlib))
            return export(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", exported)
        yield


@pytest.fixture(scope="module")
def quick_files() -> Iterator[None]:
    """Let the ONNX exporter write torch's own network: for runs whose file is not what is tested.

    Most of such a run is torch's export. What ONNX files hold is tested in ``exporters``,
    ``contracts``, ``conformance`` and in the runs that do not ask for this.
    """
    from fairdeploy_onnx import OnnxExporter

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxExporter, "export", write_torch_file)
        patch.setattr(OnnxExporter, "open", lambda self, path, profile: TorchRunner(path))
        yield


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the test runs in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
