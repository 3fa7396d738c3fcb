"""A network as everything that a GPU can run: ONNX files, engines, and torch itself."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from fairdeploy.deployment.exporter_api import (
    Exporter,
    Runner,
    get_exporter,
    load_exporters,
    unusable_because,
)
from fairdeploy.errors import FairdeployError
from fairdeploy.records import TargetProfile
from fairdeploy.runs.folder.artifact_folder import ONNX_FILE
from fairdeploy.runs.folder.reload import load
from fairdeploy.settings.target_profiles import load_profile

sys.path.insert(0, str(Path(__file__).parent))

from artifact_files import ORIGINAL_FILE, SHRUNK_FOLDER, Job, is_trained, original_network
from latency_budgets import Network

PROFILES = {"cuda": "cuda", "cpu": "cpu"}
ENGINES = ("tensorrt", "tensorrt-rtx")
PRECISIONS = ("fp32", "fp16")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Version:
    """The original or the shrunk network."""

    name: str
    module: nn.Module
    """In float32 on the CPU: what all others are compared with."""
    onnx_path: Path


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run one version, or why it cannot be run."""

    version: Version
    runtime: str
    precision: str
    open: Callable[[], Runner] | None
    problem: str = ""


class TorchRunner(Runner):
    """Torch itself as a runner: images go to the device and scores come back, as with the others.

    Half precision is that of all weights and values, inputs and outputs stay float32.
    """

    threads = 1

    def __init__(self, module: nn.Module, device: str, dtype: torch.dtype) -> None:
        self.providers = (f"torch {device}",)
        self._device, self._dtype = torch.device(device), dtype
        self._module = copy.deepcopy(module).to(self._device, dtype)

    def run(self, inputs: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...]:
        """The main output for one batch."""
        with torch.inference_mode():
            moved = (torch.from_numpy(array).to(self._device, self._dtype) for array in inputs)
            outputs = self._module(*moved)
            first = outputs if isinstance(outputs, torch.Tensor) else next(iter(outputs))
            return (first.float().cpu().numpy(),)

    def close(self) -> None:
        """Give the memory back."""
        self._module = nn.Identity()


def versions_of(network: Network, job: Job) -> tuple[Version, Version]:
    """The original and the shrunk network, whose files lie in the job's folder."""
    folder = job.folder(network)
    shrunk = folder / SHRUNK_FOLDER
    return (
        Version("original", original_network(network).module, folder / ORIGINAL_FILE),
        Version("shrunk", load(shrunk), shrunk / ONNX_FILE),
    )


def ways_of(version: Version, device: str, work: Path) -> Iterator[Way]:
    """ONNX Runtime, torch and TensorRT in each precision; files are written below ``work``."""
    work.mkdir(parents=True, exist_ok=True)
    exporters = load_exporters()
    profile = load_profile(PROFILES[device])
    for precision in PRECISIONS:
        yield _file_way(version, "onnx", replace(profile, precision=precision), work, exporters)
    for precision in PRECISIONS:
        opened = partial(TorchRunner, version.module, device, DTYPES[precision])
        yield Way(version, "torch", precision, opened)
    for runtime in ENGINES:
        provider = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}[runtime]
        for precision in PRECISIONS:
            target = replace(profile, runtime=runtime, providers=(provider,), precision=precision)
            yield _file_way(version, runtime, target, work, exporters)


def _file_way(
    version: Version,
    runtime: str,
    profile: TargetProfile,
    work: Path,
    exporters: Mapping[str, Exporter],
) -> Way:
    problem = unusable_because(profile, exporters)
    if problem is not None:
        return Way(version, runtime, profile.precision, None, problem)
    try:
        path = _written(version, runtime, profile.precision, work)
    except FairdeployError as error:
        return Way(version, runtime, profile.precision, None, str(error))
    opened = partial(get_exporter(runtime).open, path, profile)
    return Way(version, runtime, profile.precision, opened)


def _written(version: Version, runtime: str, precision: str, work: Path) -> Path:
    """The file of that runtime, made from ONNX where it is another."""
    source = version.onnx_path
    if precision != "fp32":
        source = _converted(version, "onnx", precision, source, work)
    if runtime == "onnx":
        return source
    return _converted(version, runtime, precision, source, work)


def _converted(version: Version, runtime: str, precision: str, source: Path, work: Path) -> Path:
    exporter = get_exporter(runtime)
    path = work / f"{version.name}-{precision}-{runtime}{exporter.file_suffix}"
    exporter.convert(source, path, precision, None)
    return path


def image_source(network: Network) -> str:
    """What the images are, for the page."""
    return "test images" if is_trained(network) else "images, random weights"
