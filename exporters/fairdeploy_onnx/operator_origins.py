"""Which node of the file each operator that ONNX Runtime runs came from.

ONNX Runtime rewrites the graph before it runs it. It fuses (``Conv`` + ``Add`` + ``Relu`` runs as
one ``Conv``), names a fused node after one of the values (``relu_1_nchwc``), adds nodes of its own
(``ReorderInput``, ``Transpose_token_3``), but keeps the names of the values between what it fused.
So an operator is found by its name, else by the values that it makes, else by its neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fairdeploy_onnx.node_sources import SOURCE_KEY

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
