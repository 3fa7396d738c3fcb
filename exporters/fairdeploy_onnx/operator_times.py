"""How long each operator takes, from ONNX Runtime's own profiler, here or on another device.

The profiler adds some microseconds to each operator, so the sum is above what the network takes
without it. On a GPU it times the launch of an operator, not the work.
"""

from __future__ import annotations

import base64
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fairdeploy.errors import ExportError
from fairdeploy.records import OperatorTime, TargetProfile
from fairdeploy_onnx.operator_origins import operator_origins, origin_by_name
from fairdeploy_onnx.operator_profile import profiled_operators
from fairdeploy_onnx.runner import OnnxRunner

if TYPE_CHECKING:
    from fairdeploy_onnx.operator_profile import Profiled

Row = Mapping[str, Any]


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
    open_with = partial(_opened, path, inputs, profile)
    with tempfile.TemporaryDirectory(prefix="operator-times-") as scratch:
        rows, graph = profiled_operators(open_with, ExportError, Path(scratch), num_runs)
    return _with_origins(path, rows, graph)


def told_operator_times(path: Path, told: Mapping[str, Any]) -> tuple[OperatorTime, ...]:
    """The same from what ``device_main`` told of a file that lies here, too."""
    packed = told["graph"]
    graph = None if packed is None else zlib.decompress(base64.b64decode(packed))
    return _with_origins(path, told["rows"], graph)


def _opened(
    path: Path,
    inputs: tuple[NDArray[Any], ...],
    profile: TargetProfile,
    configure: Callable[[Any], None],
) -> Profiled:
    runner = OnnxRunner(path, profile, configure)

    def end() -> Path:
        file = runner.end_profiling()
        runner.close()
        return file

    return partial(runner.run, inputs), end


def _with_origins(path: Path, rows: Iterable[Row], graph: bytes | None) -> tuple[OperatorTime, ...]:
    origin = _origins(path, graph)
    return tuple(
        OperatorTime(
            name=row["name"],
            op_type=row["op_type"],
            node=origin(row),
            median_ms=float(row["median_ms"]),
            output_shape=tuple(row["shape"]),
        )
        for row in rows
    )


def _origins(path: Path, graph: bytes | None) -> Callable[[Row], str]:
    """From a row to the torch node that it came from."""
    import onnx  # optional library: imported when an exporter is really used

    nodes = onnx.load(path, load_external_data=False).graph.node
    if graph is None:
        named = {node.name: node for node in nodes}
        return lambda row: origin_by_name(row["name"], row["op_type"], named)
    found = operator_origins(nodes, onnx.load_model_from_string(graph).graph.node)
    return lambda row: found.get(row["name"], "")
