"""How long each operator takes, from OpenVINO's own counters.

OpenVINO tells of every operator that it runs which nodes of the file it swallowed; these have the
names of the ONNX file's nodes, and the IR notes which node of the torch graph each of those was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from numpy.typing import NDArray

from fairdeploy.errors import ExportError
from fairdeploy.records import OperatorTime, TargetProfile
from fairdeploy_openvino.notes import torch_nodes
from fairdeploy_openvino.runner import OpenvinoRunner

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
