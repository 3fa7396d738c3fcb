"""Constants that torch.onnx's optimiser drops although nodes read them.

Where several clamps of one value become ``Clip`` nodes, it names their bounds after that value and
keeps the last bound of each name alone; the other nodes read values that nothing stores.
"""

from __future__ import annotations

from typing import Any


def restore_lost_constants(graph: Any) -> None:
    """Store every constant that some node reads (changes ``graph``, an ``onnx_ir`` graph)."""
    for node in graph.all_nodes():
        for value in node.inputs:
            if value is not None and _is_lost(value):
                while value.name in graph.initializers:
                    value.name = f"{value.name}_"
                graph.register_initializer(value)


def _is_lost(value: Any) -> bool:
    """Whether a value has content, but no place in any graph."""
    has_place = value.is_initializer() or value.is_graph_input() or value.producer() is not None
    return not has_place and value.const_value is not None
