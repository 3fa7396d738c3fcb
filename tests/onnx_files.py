"""Small ONNX files that fairdeploy did not make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper


def write_dense(
    path: Path, *, width: int = 8, sizes: Sequence[int | str] = ("N", 16), num_layers: int = 1
) -> Path:
    """A file with ``num_layers`` products of matrices between ``x`` and ``y``."""
    inner = int(sizes[-1])
    shapes = [(inner, width), *[(width, width)] * (num_layers - 1)]
    weights = [
        onnx.numpy_helper.from_array(np.full(shape, 0.01, dtype=np.float32), f"w{index}")
        for index, shape in enumerate(shapes)
    ]
    names = ["x", *[f"h{index}" for index in range(num_layers - 1)], "y"]
    nodes = [
        helper.make_node("MatMul", [names[index], f"w{index}"], [names[index + 1]])
        for index in range(num_layers)
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "dense",
        [value("x", onnx.TensorProto.FLOAT, sizes)],
        [value("y", onnx.TensorProto.FLOAT, [*sizes[:-1], width])],
        weights,
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


def write_nodes(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
    *,
    width: int = 8,
    out: int | None = None,
) -> Path:
    """A file of these nodes between ``x`` [N, width] and ``y`` [N, out]."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "nodes",
        [value("x", onnx.TensorProto.FLOAT, ["N", width])],
        [value("y", onnx.TensorProto.FLOAT, ["N", out or width])],
        list(weights),
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path
