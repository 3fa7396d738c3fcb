"""Unit graphs labelled by hand, so that scores are tested apart from propagation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fairdeploy.graph.capture.capture import capture
from fairdeploy.graph.operators import op_name
from fairdeploy.graph.unit_graph import KEPT, Group, Member, UnitGraph, UnitIds


def hand_labelled(
    module: nn.Module,
    example: Tensor,
    layers: Mapping[str, str],
    others: Mapping[str, str] | None = None,
) -> UnitGraph:
    """Capture ``module`` with one unit per output channel of the named layers.

    Args:
        layers: Weight name of a convolution or linear layer to the name of its group.
        others: More produced tensors (biases, norm affine) to the name of their group.
    """
    captured = capture(module, (example,))
    tensors = dict(captured.module.named_parameters())
    names = sorted(set(layers.values()))
    units: dict[str, UnitIds] = {}
    for name in names:
        weight = next(weight for weight, group in layers.items() if group == name)
        start = sum(len(ids) for ids in units.values())
        units[name] = np.arange(start, start + tensors[weight].shape[0])
    produced = {**layers, **(others or {})}
    groups = tuple(
        Group(name, units[name][None], _members(name, len(units[name]), produced)) for name in names
    )
    return UnitGraph(
        module=captured.module,
        groups=groups,
        frozen_groups=(),
        freezes=(),
        num_units=sum(group.size for group in groups),
        pairs=np.zeros((0, 2), dtype=np.int64),
        tensor_units={},
        value_units=_value_units(captured.module.graph, example, layers, units),
        contractions=(),
        cost_terms={},
        attention="heads",
        has_dynamic_batch=captured.has_dynamic_batch,
        inputs=captured.inputs,
        outputs=captured.outputs,
    )


def _members(name: str, size: int, produced: Mapping[str, str]) -> tuple[Member, ...]:
    positions = np.arange(size)[:, None]
    return tuple(
        Member(tensor, 0, "produces", np.arange(size), positions)
        for tensor, group in produced.items()
        if group == name
    )


def _value_units(
    graph: torch.fx.Graph, example: Tensor, layers: Mapping[str, str], units: dict[str, UnitIds]
) -> dict[str, tuple[UnitIds, ...]]:
    values: dict[str, tuple[UnitIds, ...]] = {}
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.op == "get_attr" or not isinstance(value, Tensor):
            continue
        sizes = [size if isinstance(size, int) else example.shape[0] for size in value.shape]
        dims = [np.full(size, KEPT) for size in sizes]
        weight = str(getattr(node.args[1], "target", "")) if len(node.args) > 1 else ""
        source = values.get(getattr(node.args[0], "name", "")) if node.args else None
        if weight in layers:
            channel_dim = len(dims) - 1 if op_name(node) == "linear" else 1
            dims[channel_dim] = units[layers[weight]]
        elif source is not None and [len(ids) for ids in source] == sizes:
            dims = list(source) if op_name(node) not in {"conv2d", "linear"} else dims
        values[node.name] = tuple(dims)
    return values
