"""fp16 files: float16 wherever it holds, float32 where values overflow or rounding adds up.

The conversion is ONNX Runtime's (``onnxruntime.transformers.float16``). Inputs and outputs stay
float32, so that a file can be swapped for another without a change of the caller.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from fairdeploy.errors import ExportError
from fairdeploy_onnx.model_files import (
    Batch,
    computed_values,
    in_order,
    largest_magnitude,
    opened,
    run_batch,
    with_outputs,
)

KEPT_IN_FP32 = (
    "Softmax", "LogSoftmax", "LayerNormalization", "InstanceNormalization", "GroupNormalization",
    "LpNormalization", "ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "Exp", "Pow",
)  # fmt: skip
"""Sums of many terms, and powers: there float16's 11 bits and its end at 65504 hurt first."""

LARGEST = 65504.0
MARGIN = 2.0
"""Images that were not tried may give values this many times as large."""

KEPT_KEY = "fairdeploy.fp16_kept_in_float32"
"""In the file: names of the nodes whose values float16 cannot hold."""

_TO_HALF = "_cast_to_fp16_node"
_MAX_BATCHES = 8


def fp16_model(model: Any, calibration: Iterable[Batch] | None) -> Any:
    """``model`` in mixed precision (changes ``model``).

    Raises:
        ExportError: On a calibration image the result is not a number, or infinite.
    """
    from onnxruntime.transformers import float16  # optional library

    batches = list(calibration or ())[:_MAX_BATCHES]
    beyond = sorted(nodes_beyond_fp16(model, batches))
    converted = float16.convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *KEPT_IN_FP32],
        node_block_list=beyond,
    )
    _skip_round_trips(converted.graph)
    ordered = in_order(converted)
    _require_finite(ordered, batches)
    ordered.metadata_props.add(key=KEPT_KEY, value=json.dumps(beyond))
    return ordered


def nodes_beyond_fp16(model: Any, batches: list[Batch]) -> set[str]:
    """Names of nodes that read or make values which float16 may not hold."""
    import onnx  # optional library: imported when an exporter is really used

    limit = LARGEST / MARGIN
    large = {
        weight.name
        for weight in model.graph.initializer
        if largest_magnitude(onnx.numpy_helper.to_array(weight)) > LARGEST
    }
    names = computed_values(model)
    if batches:
        session = opened(with_outputs(model, names))
        for batch in batches:
            found = run_batch(session, batch, names)
            large |= {
                name for name, array in zip(names, found, strict=True)
                if not largest_magnitude(array) <= limit
            }  # fmt: skip
            inputs = zip((value.name for value in model.graph.input), batch, strict=True)
            large |= {name for name, array in inputs if largest_magnitude(array) > limit}
    return {
        node.name for node in model.graph.node if large.intersection([*node.input, *node.output])
    }


def _skip_round_trips(graph: Any) -> None:
    """Let float32 pass between nodes that stay in it, not through float16 (changes ``graph``)."""
    halves = {node.output[0]: node.input[0] for node in graph.node if node.name.endswith(_TO_HALF)}
    for node in graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == 1 and node.input[0] in halves:
            node.input[0] = halves[node.input[0]]
    read = {name for node in graph.node for name in node.input}
    read |= {value.name for value in graph.output}
    unread = [
        node for node in graph.node if node.name.endswith(_TO_HALF) and node.output[0] not in read
    ]
    for node in unread:
        graph.node.remove(node)


def _require_finite(model: Any, batches: list[Batch]) -> None:
    session = opened(model)
    outputs = [value.name for value in model.graph.output]
    for number, batch in enumerate(batches):
        for name, array in zip(outputs, run_batch(session, batch), strict=True):
            if not np.isfinite(array).all():
                raise ExportError(
                    f"in fp16 the output '{name}' is not a finite number for calibration batch "
                    f"{number}; export with --precision fp32"
                )
