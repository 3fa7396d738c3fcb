"""The end of a network that stays in float: what joins values of other scales.

A detector's last concatenation puts coordinates of hundreds of pixels beside class scores below 1.
In 256 levels for both every score is 0. So where the columns of an output lie that far apart, what
follows the last products is not quantised, and each product before it has a scale of its own; where
a product itself gives such columns, its result is not rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from fairdeploy.deployment.output_columns import has_wide_scales
from fairdeploy_onnx.model_files import Batch, opened, run_batch, with_outputs
from fairdeploy_onnx.quantization import PRODUCTS

_BEFORE = "_QuantizeLinear_Input"
"""What the quantiser adds to the name of a value that the network gives."""


@dataclass(frozen=True, slots=True)
class Tail:
    """What is not quantised."""

    nodes: tuple[str, ...] = ()
    """Names of nodes."""
    values: frozenset[str] = frozenset()
    """Results of quantised nodes that are not rounded."""


def float_tail(model: Any, outputs: Sequence[NDArray[Any]], batch: Batch) -> Tail:
    """What lies between the last products and outputs whose columns have wide scales.

    Args:
        model: The float network.
        outputs: What it gives, in order.
        batch: Tells the scales of what goes into the tail.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    wide = [
        value.name
        for value, array in zip(model.graph.output, outputs, strict=True)
        if has_wide_scales(array)
    ]
    nodes: dict[str, None] = {}
    ends: dict[str, None] = {}
    stack = list(wide)
    while stack:
        name = stack.pop()
        node = producers.get(name)
        if node is None or node.name in nodes:
            continue
        if node.op_type in PRODUCTS:
            ends[name] = None
        else:
            nodes[node.name] = None
            stack += node.input
    return Tail(tuple(nodes), _wide_values(model, ends, batch))


def _wide_values(model: Any, names: Collection[str], batch: Batch) -> frozenset[str]:
    if not names:
        return frozenset()
    found = run_batch(opened(with_outputs(model, list(names))), batch, list(names))
    return frozenset(
        name for name, array in zip(names, found, strict=True) if has_wide_scales(array)
    )


def leave_in_float(model: Any, values: Collection[str]) -> None:
    """Take the rounding of these values out of a quantised network (changes ``model``)."""
    graph = model.graph
    given = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    for node in list(graph.node):
        if node.op_type != "QuantizeLinear" or node.input[0].removesuffix(_BEFORE) not in values:
            continue
        backs = [
            n
            for n in graph.node
            if n.op_type == "DequantizeLinear" and n.input[0] == node.output[0]
        ]
        for back in backs:
            if back.output[0] in given:
                renamed[node.input[0]] = back.output[0]
            else:
                renamed[back.output[0]] = node.input[0]
            graph.node.remove(back)
        graph.node.remove(node)
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = _last(renamed, name)


def _last(renamed: dict[str, str], name: str) -> str:
    while name in renamed:
        name = renamed[name]
    return name
