"""What files tell of themselves: the metadata, and the torch node of each node."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NOTES, NODES = "fairdeploy", "nodes"
"""Keys in the IR's runtime information: all that we note, and the torch node of each node."""

_SOURCE_KEY = "fairdeploy.node"
"""Where the ONNX exporter notes the torch node."""


def notes_of(onnx_path: Path) -> dict[str, str]:
    """For the IR of an ONNX file."""
    model = _onnx_graph(onnx_path)
    metadata = {item.key: item.value for item in model.metadata_props}
    return metadata | {NODES: json.dumps(_nodes(model))}


def torch_nodes(path: Path, model: Any) -> Mapping[str, str]:
    """By name of a node of an opened file; empty in files of others.

    Args:
        path: IR or ONNX.
        model: What OpenVINO has read of it.
    """
    if model.has_rt_info([NOTES, NODES]):
        found: Mapping[str, str] = json.loads(model.get_rt_info([NOTES, NODES]).astype(str))
        return found
    return _nodes(_onnx_graph(path)) if path.suffix == ".onnx" else {}


def _nodes(model: Any) -> dict[str, str]:
    return {
        name: item.value
        for node in model.graph.node
        for item in node.metadata_props
        for name in (node.name, *node.output)
        if item.key == _SOURCE_KEY
    }


def _onnx_graph(path: Path) -> Any:
    import onnx  # optional library: imported when an exporter is really used

    return onnx.load(path, load_external_data=False)
