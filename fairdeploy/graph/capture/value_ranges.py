"""Which whole numbers an input may hold: as many as the table has rows that it looks up."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, fx

from fairdeploy.graph.capture.functionalize import op_name
from fairdeploy.graph.capture.model_inputs import ModelInputs

_SAME_NUMBERS = {
    "to", "_to_copy", "view", "reshape", "flatten", "squeeze", "unsqueeze", "transpose", "permute",
    "expand", "slice", "select", "contiguous", "clone", "alias", "detach", "unbind", "getitem",
}  # fmt: skip
"""Operators whose results hold no other numbers than their first argument."""


def with_value_ranges(module: fx.GraphModule, inputs: ModelInputs) -> ModelInputs:
    """Fill ``num_values`` in where nobody has said it and a captured graph tells."""
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    specs = tuple(
        replace(spec, num_values=_rows_looked_up(node))
        if spec.dtype.startswith("int") and spec.num_values is None
        else spec
        for spec, node in zip(inputs.specs, placeholders, strict=True)
    )
    return replace(inputs, specs=specs)


def _rows_looked_up(node: fx.Node) -> int | None:
    """Rows of the smallest table that this value looks up."""
    found: list[int] = []
    for user in node.users:
        name = op_name(user)
        if name == "embedding" and user.args[1] is node:
            table = user.args[0]
            value = table.meta.get("val") if isinstance(table, fx.Node) else None
            found += [int(value.shape[0])] if isinstance(value, Tensor) else []
        elif name in _SAME_NUMBERS and user.args[0] is node:
            rows = _rows_looked_up(user)
            found += [rows] if rows is not None else []
    return min(found, default=None)
