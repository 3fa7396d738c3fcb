"""A graph in float64: tells an inexact surgery from a network that magnifies rounding.

Saturated softmaxes and normalised queries can turn the rounding of float32 into differences of
whole percents between two networks that are algebraically the same. In float64 such differences
shrink by nine digits; a wrong surgery's do not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from fairdeploy.graph.capture.capture import quiet_export


def in_double(module: fx.GraphModule) -> fx.GraphModule:
    """A copy that computes in float64 what ``module`` computes in float32."""
    with quiet_export():
        result = copy.deepcopy(module)
    result.double()
    for owner in result.modules():
        for name, value in list(vars(owner).items()):
            if isinstance(value, Tensor) and value.dtype == torch.float32:
                setattr(owner, name, value.double())
    for node in list(result.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            result.graph.erase_node(node)  # it insists on float32
            continue
        node.args = map_aggregate(node.args, _doubled)
        node.kwargs = map_aggregate(node.kwargs, _doubled)
    result.recompile()
    return result


@contextmanager
def double_by_default() -> Iterator[None]:
    """Tensors that the graph makes without naming a type are float64 too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def double_inputs(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs with floating tensors in float64."""
    return tuple(part.double() if part.is_floating_point() else part for part in inputs)


def _doubled(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument
