"""Takes residual branches out of an ONNX graph: what read their sum reads the shortcut instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fairdeploy.errors import ExportError
from fairdeploy.records import BranchCut
from fairdeploy_onnx.node_sources import SOURCE_KEY

_RECTIFIER = "Relu"


def cut_branches(graph: Any, cuts: Sequence[BranchCut]) -> None:
    """Remove branches, and rectifiers that then have nothing left to do (changes ``graph``).

    Raises:
        ExportError: The file does not show which operand of a sum is the branch.
    """
    producers = {name: node for node in graph.node for name in node.output}
    sums = {_source(node): node for node in graph.node if node.op_type == "Add"}
    renamed: dict[str, str] = {}

    def now(name: str) -> str:
        while name in renamed:
            name = renamed[name]
        return name

    for cut in cuts:
        total = sums.get(cut.total)
        stays = [] if total is None else [
            name for name in total.input if _source(producers.get(name)) not in cut.nodes
        ]  # fmt: skip
        if total is None or len(stays) != 1:
            raise ExportError(f"the file has no sum '{cut.total}' to cut a branch off")
        renamed[total.output[0]] = stays[0]
        for node in graph.node:
            if node.op_type != _RECTIFIER or node.input[0] != total.output[0]:
                continue
            before = producers.get(now(stays[0]))
            if before is not None and before.op_type == _RECTIFIER:
                renamed[node.output[0]] = node.input[0]
    if any(output.name in renamed for output in graph.output):
        raise ExportError("the file's output is a sum without its branch")
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = now(name)
    _drop_unread(graph)


def _source(node: Any) -> str:
    """The node of the torch graph that an ONNX node came from."""
    entries = node.metadata_props if node is not None else ()
    return next((entry.value for entry in entries if entry.key == SOURCE_KEY), "")


def _drop_unread(graph: Any) -> None:
    """Remove nodes and constants that nothing reads (changes ``graph``)."""
    read = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            kept.append(node)
            read.update(node.input)
    kept.reverse()
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(constants)
