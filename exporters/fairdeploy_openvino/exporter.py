"""Writes OpenVINO's IR (a graph in XML, weights beside it) from ONNX, and opens it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from numpy.typing import NDArray

from fairdeploy.deployment.exporter_api import Batches
from fairdeploy.deployment.file_writing import ThroughOnnx
from fairdeploy.errors import ExportError
from fairdeploy.records import Artifact, OperatorTime, TargetProfile
from fairdeploy_openvino.conversion import write_ir
from fairdeploy_openvino.library import (
    EXTRA,
    INFERENCE_TYPES,
    computes,
    has_nncf,
    import_openvino,
)
from fairdeploy_openvino.notes import torch_nodes
from fairdeploy_openvino.runner import OpenvinoRunner


class OpenvinoExporter(ThroughOnnx):
    """Makes IR files from ONNX files, and runs both with OpenVINO.

    ``bf16`` is fp32 in the file and bfloat16 in the arithmetic, which OpenVINO would otherwise
    choose by itself wherever the CPU has it.
    """

    name = "openvino"
    file_suffix = ".xml"
    precisions = tuple(INFERENCE_TYPES)
    trial_format = "onnx"
    """The same network once it is read, and it can be cut to other widths."""

    def is_available(self) -> str | None:
        """None if OpenVINO is installed, else how to install it."""
        if find_spec("openvino") is None:
            return f"exporter 'openvino' needs openvino; {EXTRA}"
        return None

    def unusable_because(self, profile: TargetProfile) -> str | None:
        """None if OpenVINO has the profile's device and it computes in the profile's precision."""
        if profile.precision not in self.precisions:
            return f"the exporter 'openvino' does not write precision '{profile.precision}'"
        try:
            core = import_openvino().Core()
        except ExportError as error:
            return str(error)
        for device in profile.providers:
            if device not in core.available_devices:
                found = ", ".join(core.available_devices) or "none"
                return f"OpenVINO has no device {device} here; it has {found}"
            if profile.precision == "bf16" and not computes(core, device, "bf16"):
                return f"this {device} does not compute in bf16"
        return None

    def onnx_precision(self, precision: str) -> str:
        """fp32, but for int8 the quantised ONNX file where NNCF is not installed."""
        return "int8" if precision == "int8" and not has_nncf() else "fp32"

    def convert(
        self, onnx_path: Path, path: Path, precision: str, calibration: Batches | None
    ) -> Artifact:
        """Write the IR of an ONNX file; ``int8`` is quantised by NNCF on ``calibration``.

        Raises:
            ExportError: Not an ONNX file, an operator that OpenVINO lacks, int8 without
                calibration images, or the disk refused.
        """
        if precision not in self.precisions:
            raise ExportError(
                f"OpenVINO files come in {', '.join(self.precisions)}, not in '{precision}'"
            )
        return write_ir(onnx_path, path, precision, calibration)

    def open(self, path: Path, profile: TargetProfile) -> OpenvinoRunner:
        """Open an IR or ONNX file on the profile's device, in its precision.

        Raises:
            ExportError: OpenVINO cannot read it, or lacks the device or the precision.
        """
        return OpenvinoRunner(path, profile)

    def operator_times(
        self,
        path: Path,
        inputs: tuple[NDArray[Any], ...],
        profile: TargetProfile,
        *,
        num_runs: int = 20,
    ) -> tuple[OperatorTime, ...]:
        """The median time of each operator, in the order in which they run.

        Raises:
            ExportError: As from ``open``, or OpenVINO fails to run it.
        """
        return operator_times(path, inputs, profile, num_runs=num_runs)


# ---- how long each operator takes, from OpenVINO's own counters ----------------------------------


MAX_WARMUP_RUNS = 5
_PART = "/"
"""Behind it OpenVINO names the part of a node that it took apart: ``conv/WithoutBiases``."""


def operator_times(
    path: Path, inputs: tuple[NDArray[Any], ...], profile: TargetProfile, *, num_runs: int
) -> tuple[OperatorTime, ...]:
    """The median of each operator over ``num_runs`` runs, in the order in which they run.

    Raises:
        ExportError: The file cannot be opened or run, or ``num_runs`` is below 1.
    """
    if num_runs < 1:
        raise ExportError(f"operator times need at least 1 run, got {num_runs}")
    batch = int(inputs[0].shape[0]) if inputs[0].ndim else profile.batch
    runner = OpenvinoRunner(path, replace(profile, batch=batch), {"PERF_COUNT": True})
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(min(MAX_WARMUP_RUNS, num_runs)):
        runner.run(inputs)
    for _ in range(num_runs):
        runner.run(inputs)
        for counted in runner.request.profiling_info:
            times[counted.node_name].append(counted.real_time.total_seconds() * 1e3)
    rows = tuple(_rows(runner.compiled.get_runtime_model(), times, torch_nodes(path, runner.model)))
    runner.close()
    return rows


def _rows(graph: Any, times: Mapping[str, list[float]], nodes: Mapping[str, str]) -> Any:
    for operator in graph.get_ordered_ops():
        name = operator.get_friendly_name()
        median_ms = median(times.get(name, [0.0]))
        if median_ms <= 0:
            continue
        facts = {key: value.value for key, value in operator.rt_info.items()}
        shapes = [tuple(output.partial_shape) for output in operator.outputs()]
        yield OperatorTime(
            name=name,
            op_type=str(facts.get("layerType", "")),
            node=_origin(str(facts.get("originalLayersNames", "")), nodes),
            median_ms=median_ms,
            output_shape=tuple(size.get_length() for size in shapes[0] if size.is_static)
            if shapes
            else (),
        )


def _origin(swallowed: str, nodes: Mapping[str, str]) -> str:
    """The torch node of the first file node that is known: the one that was fused into."""
    names = (name.partition(_PART)[0] for name in swallowed.split(","))
    return next((nodes[name] for name in names if name in nodes), "")
