"""Which layers least squares can refit, and which value of the original each should reproduce."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.recovery.sampled_rows import LINEAR, Window
from fairdeploy.recovery.sweep import attribute

aten = torch.ops.aten
LAYER_OPS = {
    aten.linear.default,
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
}
# In eval mode these give back their input.
PASS_THROUGH = {
    aten.dropout.default,
    aten.clone.default,
    aten.alias.default,
    aten.contiguous.default,
    aten.detach.default,
}


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """A batch norm that follows a layer directly and is fitted together with it."""

    node: str
    weight: str | None
    bias: str | None
    running_mean: str
    running_var: str
    eps: float


@dataclass(frozen=True, slots=True)
class FittableLayer:
    """A convolution or linear layer of the shrunk network. Node names hold in both networks."""

    node: str
    input_node: str
    weight: str
    bias: str | None
    window: Window
    batchnorm: BatchNorm | None
    target_node: str
    """The original's value to reproduce: of the layer, its batch norm, or the sum after it."""
    shortcut_node: str | None
    """The other operand of that sum, which the shrunk network has computed by then."""
    is_rectified: bool
    """Whether only the positive part of the target is used."""
    kept_channels: tuple[int, ...]
    """Channels of the original's target that the shrunk network still has."""

    @property
    def name(self) -> str:
        """The user's name of the layer."""
        return self.weight.removesuffix(".weight")


def find_layers(
    graph: UnitGraph, shrunk: fx.GraphModule, removed: NDArray[np.bool_]
) -> tuple[FittableLayer, ...]:
    """All layers that can be refitted, in the order of execution.

    Left out: weights that are computed or used more than once, transposed convolutions, string
    paddings, and layers whose output has no batch or has lost more than channels.
    """
    uses = _attribute_uses(shrunk)
    finder = _Finder(graph, shrunk, removed, uses)
    found = (finder.layer_at(node) for node in shrunk.graph.nodes)
    return tuple(layer for layer in found if layer is not None)


def bound_arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of an ATen call by name, defaults filled in."""
    assert isinstance(node.target, torch._ops.OpOverload)
    arguments = {}
    for index, argument in enumerate(node.target._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        given = node.args[index] if index < len(node.args) else default
        arguments[argument.name] = node.kwargs.get(argument.name, given)
    return arguments


def _attribute_uses(module: fx.GraphModule) -> Counter[str]:
    uses: Counter[str] = Counter()
    for node in module.graph.nodes:
        if node.op == "get_attr":
            uses[str(node.target)] += len(node.users)
    return uses


class _Finder:
    def __init__(
        self,
        graph: UnitGraph,
        shrunk: fx.GraphModule,
        removed: NDArray[np.bool_],
        uses: Mapping[str, int],
    ) -> None:
        self._graph = graph
        self._shrunk = shrunk
        self._stays = graph.staying(removed)
        self._uses = uses
        self._order = {node: i for i, node in enumerate(shrunk.graph.nodes)}
        self._original_nodes = {node.name for node in graph.module.graph.nodes}

    def layer_at(self, node: fx.Node) -> FittableLayer | None:
        if node.target not in LAYER_OPS:
            return None
        arguments = bound_arguments(node)
        weight, bias = self._own_attribute(arguments["weight"]), arguments["bias"]
        bias_name = None if bias is None else self._own_attribute(bias)
        if weight is None or (bias is not None and bias_name is None):
            return None
        kernel = tuple(attribute(self._shrunk, weight).shape[2:])
        window = _window(arguments, kernel) if kernel else LINEAR
        batchnorm, end = self._following_batchnorm(node)
        end, shortcut = self._following_sum(node, end)
        kept = self._kept_channels(end.name, window)
        if kept is None:
            return None
        return FittableLayer(
            node=node.name,
            input_node=arguments["input"].name,
            weight=weight,
            bias=bias_name,
            window=window,
            batchnorm=batchnorm,
            target_node=end.name,
            shortcut_node=None if shortcut is None else shortcut.name,
            is_rectified=_is_rectified(end),
            kept_channels=kept,
        )

    def _own_attribute(self, value: Any) -> str | None:
        """Name of a parameter or buffer that nothing else uses."""
        if isinstance(value, fx.Node) and value.op == "get_attr":
            name = str(value.target)
            return name if self._uses[name] == 1 else None
        return None

    def _following_batchnorm(self, node: fx.Node) -> tuple[BatchNorm | None, fx.Node]:
        user = _only_user(node)
        if user is None or user.target is not aten.batch_norm.default:
            return None, node
        arguments = bound_arguments(user)
        names: dict[str, str | None] = {}
        for key in ("weight", "bias", "running_mean", "running_var"):
            names[key] = self._own_attribute(arguments[key])
            if names[key] is None and arguments[key] is not None:
                return None, node
        mean, var = names["running_mean"], names["running_var"]
        if mean is None or var is None or not self._is_comparable(user):
            return None, node
        if node.target is aten.linear.default and len(self._units(user)) != 2:
            return None, node
        eps = float(arguments["eps"])
        return BatchNorm(user.name, names["weight"], names["bias"], mean, var, eps), user

    def _following_sum(self, layer: fx.Node, end: fx.Node) -> tuple[fx.Node, fx.Node | None]:
        last, user = end, _only_user(end)
        while user is not None and user.target in PASS_THROUGH:
            last, user = user, _only_user(user)
        if user is None or user.target is not aten.add.Tensor or user.kwargs:
            return end, None
        other = user.args[1] if user.args[0] is last else user.args[0]
        if not isinstance(other, fx.Node) or other is last:
            return end, None
        is_computed = other.op != "get_attr" and self._order[other] < self._order[layer]
        if not is_computed or not self._is_comparable(user) or not self._is_comparable(other):
            return end, None
        shapes = [self._graph.shape_of(n.name) for n in (end, other, user)]
        return (user, other) if shapes[0] == shapes[1] == shapes[2] else (end, None)

    def _is_comparable(self, node: fx.Node) -> bool:
        """Whether the original has this value too."""
        return node.name in self._original_nodes and node.name in self._graph.value_units

    def _units(self, node: fx.Node) -> tuple[NDArray[np.int64], ...]:
        return self._graph.value_units[node.name]

    def _kept_channels(self, node_name: str, window: Window) -> tuple[int, ...] | None:
        units = self._graph.value_units.get(node_name)
        num_dims = 2 if window.is_linear else 2 + len(window.kernel)
        if units is None or len(units) < num_dims:  # a single image without its batch
            return None
        kept = [self._stays[u] for u in units]
        channel_dim = len(units) - 1 if window.is_linear else 1
        if not all(mask.all() for dim, mask in enumerate(kept) if dim != channel_dim):
            return None
        return tuple(int(i) for i in np.flatnonzero(kept[channel_dim]))


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_rectified(node: fx.Node) -> bool:
    user = _only_user(node)
    return user is not None and user.target is aten.relu.default


def _window(arguments: Mapping[str, Any], kernel: tuple[int, ...]) -> Window:
    num_dims = len(kernel)
    return Window(
        kernel=kernel,
        stride=_per_dim(arguments["stride"], num_dims),
        padding=_per_dim(arguments["padding"], num_dims),
        dilation=_per_dim(arguments["dilation"], num_dims),
        groups=int(arguments["groups"]),
    )


def _per_dim(value: Any, num_dims: int) -> tuple[int, ...]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(int(v) for v in values) * (num_dims // len(values))
