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
from fairdeploy_onnx.operator_profile import profiled_operators
from fairdeploy_onnx.runner import OnnxRunner

if TYPE_CHECKING:
    from fairdeploy_onnx.operator_profile import Profiled
import re
from dataclasses import dataclass, field

from fairdeploy_onnx.node_sources import SOURCE_KEY

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


# ---- which node of the file each operator that ONNX Runtime runs came from -----------------------


_NAME_ENDING = re.compile(r"(_nchwc|_token_\d+|/\w+/?)$")
_OP_BEGINNING = re.compile(r"^(Nhwc)?(Fused)?")
_REORDERS = ("ReorderInput", "ReorderOutput")
_MAX_FUSED = 6
"""No fusion swallows a longer chain of nodes."""


@dataclass(slots=True)
class _File:
    """The nodes of the file, by what they are looked up with."""

    by_name: dict[str, Any] = field(default_factory=dict)
    producers: dict[str, Any] = field(default_factory=dict)


def operator_origins(file_nodes: Iterable[Any], run_nodes: Iterable[Any]) -> dict[str, str]:
    """By name of each operator that is run, the torch node noted in the file; "" if unknown.

    Args:
        file_nodes: ``NodeProto`` of the file, with our metadata.
        run_nodes: ``NodeProto`` of the graph as ONNX Runtime rewrote it, in order.
    """
    file = _File()
    for node in file_nodes:
        file.by_name[node.name] = node
        file.producers |= dict.fromkeys(node.output, node)
    nodes = list(run_nodes)
    found = {node.name: _noted(_origin(node, file)) for node in nodes}
    return _with_neighbours(nodes, found)


def origin_by_name(name: str, op_type: str, file_nodes: Mapping[str, Any]) -> str:
    """The same from the name alone, for graphs that ONNX Runtime cannot write down."""
    node = file_nodes.get(_plain_name(name))
    return _noted(node) if node is not None and op_type not in _REORDERS else ""


def _noted(node: Any) -> str:
    if node is None:
        return ""
    return next((item.value for item in node.metadata_props if item.key == SOURCE_KEY), "")


def _origin(node: Any, file: _File) -> Any:
    """The node of the file that ``node`` mostly is, or None."""
    if node.op_type in _REORDERS:
        return None
    kind, name = _OP_BEGINNING.sub("", node.op_type), _plain_name(node.name)
    if name in file.by_name:
        return file.by_name[name]
    for value in (name, *node.output):
        last = file.producers.get(value)
        if last is not None:
            return _swallowed(last, kind, set(node.input), file) or last
    return None


def _plain_name(name: str) -> str:
    """The name without what ONNX Runtime has added to it."""
    while (shorter := _NAME_ENDING.sub("", name)) != name:
        name = shorter
    return name


def _swallowed(last: Any, kind: str, inputs: set[str], file: _File) -> Any:
    """The nearest node of type ``kind`` at or before ``last``; of two, the one with our weights."""
    level = [last]
    for _ in range(_MAX_FUSED):
        found = [node for node in level if node.op_type == kind]
        if found:
            return next((node for node in found if inputs & set(node.input[1:])), found[0])
        names = [name for node in level for name in node.input]
        level = [file.producers[name] for name in names if name in file.producers]
    return None


def _with_neighbours(nodes: list[Any], found: dict[str, str]) -> dict[str, str]:
    """What the runtime added itself belongs to whom it serves: the reader, or else the maker."""
    makers = {value: node.name for node in nodes for value in node.output}
    readers = {value: node.name for node in reversed(nodes) for value in node.input}
    result = dict(found)
    for node in nodes:
        if found[node.name]:
            continue
        before = [makers[value] for value in node.input if value in makers]
        after = [readers[value] for value in node.output if value in readers]
        served = after + before if node.op_type != "ReorderOutput" else before + after
        result[node.name] = next((found[name] for name in served if found[name]), "")
    return result
