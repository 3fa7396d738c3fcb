"""Which layers least squares can refit, and which value of the original each should reproduce."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.graph.batch_dimension import BatchDimension, batch_dimensions
from fairdeploy.graph.layer_rows import (
    LINEAR,
    Window,
    aten,
    bound_arguments,
    is_layer_call,
    window_of,
)
from fairdeploy.graph.operators import gives_back, kind_of
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.recovery.least_squares.sweep import attribute


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
    """A convolution or linear layer of the shrunk network. Node names hold in both networks.

    A batch norm that stands alone is one too: a factor and a constant for each channel.
    """

    node: str
    input_node: str
    weight: str
    bias: str | None
    window: Window
    batchnorm: BatchNorm | None
    target_node: str
    """The original's value to reproduce: of the layer, its batch norm, or the sum after it."""
    sum_after: SumAfter | None
    """How the layer gets into that sum, whose other operand the shrunk network has by then."""
    batch: BatchDimension
    """Of its output."""
    limits: tuple[float, float] | None
    """Between which bounds the target is used, where an activation cuts it off: ReLU or ReLU6."""
    kept_channels: tuple[int, ...]
    """Channels of the original's target that the shrunk network still has."""

    @property
    def name(self) -> str:
        """The user's name of the layer."""
        return self.weight.removesuffix(".weight")

    @property
    def is_norm(self) -> bool:
        """Whether it is a batch norm that stands alone."""
        return self.batchnorm is not None and self.batchnorm.node == self.node


def find_layers(
    graph: UnitGraph, shrunk: fx.GraphModule, removed: NDArray[np.bool_]
) -> tuple[FittableLayer, ...]:
    """All layers that can be refitted, in the order of execution.

    Left out: weights that are computed or used more than once, transposed convolutions, string
    paddings, and layers whose output holds no images one by one or has lost more than channels.
    """
    uses = _attribute_uses(shrunk)
    finder = _Finder(graph, shrunk, removed, uses)
    found = {node.name: finder.layer_at(node) for node in shrunk.graph.nodes}
    folded = {
        layer.batchnorm.node for layer in found.values() if layer is not None and layer.batchnorm
    }
    for node in shrunk.graph.nodes:
        if node.target is aten.batch_norm.default and node.name not in folded:
            found[node.name] = finder.norm_at(node)
    return tuple(layer for layer in found.values() if layer is not None)


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
        self._nodes = {node.name: node for node in shrunk.graph.nodes}
        self._order = {name: i for i, name in enumerate(self._nodes)}
        self._original_nodes = {node.name: node for node in graph.module.graph.nodes}
        self._batches = batch_dimensions(graph)
        self._sums_gone = {branch.total for branch in graph.branches_gone(removed)}

    def layer_at(self, node: fx.Node) -> FittableLayer | None:
        if not is_layer_call(node):
            return None
        arguments = bound_arguments(node)
        weight, bias = self._own_attribute(arguments["weight"]), arguments["bias"]
        bias_name = None if bias is None else self._own_attribute(bias)
        if weight is None or (bias is not None and bias_name is None):
            return None
        kernel = tuple(attribute(self._shrunk, weight).shape[2:])
        window = window_of(arguments, kernel) if kernel else LINEAR
        batchnorm, end = self._following_batchnorm(node)
        return self._layer(node, end, weight, bias_name, window, batchnorm)

    def norm_at(self, node: fx.Node) -> FittableLayer | None:
        """A batch norm that follows no layer directly, as a channel-wise layer."""
        norm = self._batchnorm(node)
        num_spatial = len(self._units(node)) - 2 if norm is not None else 0
        if norm is None or norm.weight is None or norm.bias is None or num_spatial < 1:
            return None
        ones = (1,) * num_spatial
        num_channels = len(attribute(self._shrunk, norm.weight))
        window = Window(ones, ones, (0,) * num_spatial, ones, groups=num_channels)
        return self._layer(node, node, norm.weight, norm.bias, window, norm)

    def _layer(
        self,
        node: fx.Node,
        end: fx.Node,
        weight: str,
        bias: str | None,
        window: Window,
        batchnorm: BatchNorm | None,
    ) -> FittableLayer | None:
        found = self._sum_after(node, end, window)
        target, is_past_relu = self._past_gone_branches(end.name if found is None else found.node)
        kept = self._kept_channels(target, window, found)
        batch = self._batches.get(node.name)
        if kept is None or batch is None:
            return None
        return FittableLayer(
            node=node.name,
            input_node=bound_arguments(node)["input"].name,
            weight=weight,
            bias=bias,
            window=window,
            batchnorm=batchnorm,
            target_node=target,
            sum_after=found,
            batch=batch,
            limits=RECTIFIED if is_past_relu else self._limits(target),
            kept_channels=kept,
        )

    def _own_attribute(self, value: Any) -> str | None:
        """Name of a parameter or buffer that nothing else uses."""
        if isinstance(value, fx.Node) and value.op == "get_attr":
            name = str(value.target)
            return name if self._uses[name] == 1 else None
        return None

    def _following_batchnorm(self, node: fx.Node) -> tuple[BatchNorm | None, fx.Node]:
        user = only_user(node)
        if user is None or user.target is not aten.batch_norm.default:
            return None, node
        norm = self._batchnorm(user)
        if norm is None:
            return None, node
        if node.target is aten.linear.default and len(self._units(user)) != 2:
            return None, node
        return norm, user

    def _batchnorm(self, node: fx.Node) -> BatchNorm | None:
        """The norm at this node, if its tensors are its own."""
        arguments = bound_arguments(node)
        names: dict[str, str | None] = {}
        for key in ("weight", "bias", "running_mean", "running_var"):
            names[key] = self._own_attribute(arguments[key])
            if names[key] is None and arguments[key] is not None:
                return None
        mean, var = names["running_mean"], names["running_var"]
        if mean is None or var is None or not self._is_comparable(node.name):
            return None
        eps = float(arguments["eps"])
        return BatchNorm(node.name, names["weight"], names["bias"], mean, var, eps)

    def _sum_after(self, layer: fx.Node, end: fx.Node, window: Window) -> SumAfter | None:
        """The sum after the layer, if both networks have it and its other operand in time."""
        if end.name not in self._graph.value_units:
            return None
        num_dims = len(self._units(end))
        found = sum_after(end, num_dims, num_dims - 1 if window.is_linear else 1)
        if found is None or self._order[found.shortcut] >= self._order[layer.name]:
            return None
        if found.scale is not None and self._uses[found.scale] != 1:
            return None
        names = (found.node, found.shortcut)
        if not all(self._is_comparable(name) for name in names):
            return None
        shape = self._graph.shape_of(end.name)
        wanted = tuple(shape[dim] for dim in found.dims)
        return found if all(self._graph.shape_of(name) == wanted for name in names) else None

    def _past_gone_branches(self, name: str) -> tuple[str, bool]:
        """The last sum that a value becomes because the branches of the next sums are gone.

        The original's value there is what the layer should make now, so that it also makes up for
        those branches. And whether the value is rectified on the way, as the sum is afterwards.
        """
        last, is_rectified, is_past_relu = name, False, False
        node = only_user(self._nodes[name])
        while node is not None and (gives_back(node) or node.target is aten.relu.default):
            is_past_relu |= node.target is aten.relu.default
            if node.name in self._sums_gone:
                reader = only_user(self._original_nodes[node.name])
                is_read_so = reader is not None and reader.target is aten.relu.default
                if is_past_relu and not is_read_so:
                    break
                last, is_rectified = node.name, is_past_relu
            node = only_user(node)
        return last, is_rectified

    def _is_comparable(self, name: str) -> bool:
        """Whether the original has this value too."""
        return name in self._original_nodes and name in self._graph.value_units

    def _units(self, node: fx.Node) -> tuple[NDArray[np.int64], ...]:
        return self._graph.value_units[node.name]

    def _kept_channels(
        self, node_name: str, window: Window, found: SumAfter | None
    ) -> tuple[int, ...] | None:
        units = self._graph.value_units.get(node_name)
        num_dims = 2 if window.is_linear else 2 + len(window.kernel)
        if units is None or len(units) < num_dims:  # a single image without its batch
            return None
        kept = [self._stays[u] for u in units]
        if found is not None:
            kept = [kept[place] for place in found.layout]
        channel_dim = len(units) - 1 if window.is_linear else 1
        if not all(mask.all() for dim, mask in enumerate(kept) if dim != channel_dim):
            return None
        return tuple(int(i) for i in np.flatnonzero(kept[channel_dim]))

    def _limits(self, node_name: str) -> tuple[float, float] | None:
        user = only_user(self._nodes[node_name])
        return None if user is None else limits_after(user)


RECTIFIED = (0.0, math.inf)


def limits_after(activation: fx.Node) -> tuple[float, float] | None:
    """Between which bounds an activation passes values on as they are; None if it is none such."""
    if activation.target is aten.relu.default:
        return RECTIFIED
    if activation.target is aten.relu6.default:
        return 0.0, 6.0
    if activation.target not in (aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default):
        return None
    arguments = bound_arguments(activation)
    low = arguments.get("min_val", arguments.get("min"))
    high = arguments.get("max_val", arguments.get("max"))
    bounds = (-math.inf if low is None else low, math.inf if high is None else high)
    # a bound may be computed
    return bounds if all(isinstance(bound, int | float) for bound in bounds) else None


# ---- follows a layer's output to the sum that it becomes part of ---------------------------------


@dataclass(frozen=True, slots=True)
class SumAfter:
    """A sum of a layer's output, or of a transposed and scaled form of it, with a shortcut."""

    node: str
    shortcut: str
    """The other operand."""
    dims: tuple[int, ...]
    """Dimension of the layer's output that is each dimension of the sum."""
    scale: str | None
    """Parameter with the factor of each output channel."""

    @property
    def layout(self) -> tuple[int, ...]:
        """What to ``permute`` the sum with so that its dimensions are those of the layer."""
        return tuple(self.dims.index(dim) for dim in range(len(self.dims)))

    def in_layout(self, value: Tensor) -> Tensor:
        """The sum's value, or the shortcut's, as the layer lays out its output."""
        return value.permute(self.layout)


def sum_after(end: fx.Node, num_dims: int, channel_dim: int) -> SumAfter | None:
    """The sum that ``end`` goes into, if nothing else reads it or what becomes of it.

    Args:
        end: A layer, or the norm that is fitted with it.
        num_dims: Of its value.
        channel_dim: The dimension of its output channels.
    """
    dims, scale = tuple(range(num_dims)), None
    last, user = end, only_user(end)
    while user is not None:
        if user.target is aten.add.Tensor:
            break
        if user.target is aten.permute.default:
            dims = tuple(dims[dim] for dim in user.args[1])  # type: ignore[index,union-attr]
        elif user.target is aten.transpose.int:
            dims = _swapped(dims, *user.args[1:3])  # type: ignore[arg-type]
        elif user.target is aten.mul.Tensor and scale is None:
            scale = _channel_factor(user, last, dims, channel_dim)
            if scale is None:
                return None
        elif not gives_back(user):
            return None
        last, user = user, only_user(user)
    if user is None or user.kwargs:
        return None
    other = user.args[1] if user.args[0] is last else user.args[0]
    if not isinstance(other, fx.Node) or other is last or other.op == "get_attr":
        return None
    return SumAfter(user.name, other.name, dims, scale)


def only_user(node: fx.Node) -> fx.Node | None:
    """Who alone reads a value."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _swapped(dims: Sequence[int], one: int, two: int) -> tuple[int, ...]:
    changed = list(dims)
    changed[one], changed[two] = dims[two], dims[one]
    return tuple(changed)


def _channel_factor(
    product: fx.Node, operand: fx.Node, dims: Sequence[int], channel_dim: int
) -> str | None:
    """Name of the parameter that the channels of ``operand`` are multiplied with."""
    factor = product.args[1] if product.args[0] is operand else product.args[0]
    if not isinstance(factor, fx.Node) or factor is operand:
        return None
    value = factor.meta.get("val")
    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
    if not shape or len(shape) > len(dims):
        return None
    lengths = (1,) * (len(dims) - len(shape)) + shape
    others = [length for dim, length in zip(dims, lengths, strict=True) if dim != channel_dim]
    if any(length != 1 for length in others) or lengths[dims.index(channel_dim)] == 1:
        return None
    while kind_of(factor) == "reshape" and len(factor.users) == 1:
        source = factor.args[0]
        assert isinstance(source, fx.Node)
        factor = source
    return str(factor.target) if factor.op == "get_attr" else None
