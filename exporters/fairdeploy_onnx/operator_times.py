"""How long each operator takes, from ONNX Runtime's own profiler.

The profiler adds some microseconds to each operator, so the sum is above what the network takes
without it. On a GPU it times the launch of an operator, not the work.
"""

from __future__ import annotations

import json
import tempfile
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from numpy.typing import NDArray

from fairdeploy.errors import ExportError
from fairdeploy.records import OperatorTime, TargetProfile
from fairdeploy_onnx.operator_origins import operator_origins, origin_by_name
from fairdeploy_onnx.runner import OnnxRunner

MAX_WARMUP_RUNS = 5
"""The first runs allocate and page in."""

_EVENT_ENDING = "_kernel_time"
_US_PER_MS = 1e3


@dataclass(frozen=True, slots=True)
class _Operator:
    name: str
    op_type: str
    shape: tuple[int, ...] = field(compare=False)


def operator_times(
    path: Path,
    inputs: tuple[NDArray[Any], ...],
    profile: TargetProfile,
    *,
    num_runs: int,
) -> tuple[OperatorTime, ...]:
    """The median of each operator over ``num_runs`` runs, in the order in which they run.

    Raises:
        ExportError: The file cannot be opened or run, or ``num_runs`` is below 1.
    """
    if num_runs < 1:
        raise ExportError(f"operator times need at least 1 run, got {num_runs}")
    with tempfile.TemporaryDirectory(prefix="operator-times-") as scratch:
        folder = Path(scratch)
        runner, optimized = _open(path, profile, folder)
        for _ in range(min(MAX_WARMUP_RUNS, num_runs) + num_runs):
            runner.run(inputs)
        events = json.loads(runner.end_profiling().read_text(encoding="utf-8"))
        runner.close()
        origins = _origins(path, optimized)
    times = _times_by_operator(events, num_runs)
    return tuple(
        OperatorTime(
            name=operator.name,
            op_type=operator.op_type,
            node=origins(operator),
            median_ms=median(own) / _US_PER_MS,
            output_shape=operator.shape,
        )
        for operator, own in times.items()
    )


def _open(path: Path, profile: TargetProfile, folder: Path) -> tuple[OnnxRunner, Path | None]:
    """A profiling runner, and the graph that it runs if ONNX Runtime can write that down."""
    optimized = folder / "optimized.onnx"

    def profiled(options: Any) -> None:
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")

    def profiled_and_written(options: Any) -> None:
        profiled(options)
        options.optimized_model_filepath = str(optimized)
        for key, value in (("file_name", "weights"), ("min_size_in_bytes", "64")):
            options.add_session_config_entry(
                f"session.optimized_model_external_initializers_{key}", value
            )

    try:
        return OnnxRunner(path, profile, profiled_and_written), optimized
    except ExportError:  # parts compiled for a device have no ONNX form
        return OnnxRunner(path, profile, profiled), None


def _origins(path: Path, optimized: Path | None) -> Callable[[_Operator], str]:
    import onnx  # optional library: imported when an exporter is really used

    nodes = onnx.load(path, load_external_data=False).graph.node
    if optimized is None:
        named = {node.name: node for node in nodes}
        return lambda operator: origin_by_name(operator.name, operator.op_type, named)
    found = operator_origins(nodes, onnx.load(optimized, load_external_data=False).graph.node)
    return lambda operator: found.get(operator.name, "")


def _times_by_operator(
    events: list[Mapping[str, Any]], num_runs: int
) -> dict[_Operator, list[float]]:
    """Microseconds in each of the last ``num_runs`` runs; an operator in a loop runs often."""
    starts = [event["ts"] for event in events if event["name"] == "model_run"][-num_runs:]
    times: dict[_Operator, list[float]] = defaultdict(lambda: [0.0] * num_runs)
    for event in sorted(events, key=lambda event: event["ts"]):
        if event["cat"] != "Node" or not event["name"].endswith(_EVENT_ENDING):
            continue
        run = bisect_right(starts, event["ts"]) - 1
        if run >= 0:
            times[_operator(event)][run] += event["dur"]
    return times


def _operator(event: Mapping[str, Any]) -> _Operator:
    arguments = event["args"]
    shapes = [shape for item in arguments.get("output_type_shape", ()) for shape in item.values()]
    return _Operator(
        name=event["name"].removesuffix(_EVENT_ENDING),
        op_type=arguments["op_name"],
        shape=tuple(shapes[0]) if shapes else (),
    )
