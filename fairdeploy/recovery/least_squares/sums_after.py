"""Follows a layer's output to the sum that it becomes part of.

On the way it may be transposed and multiplied with a factor per channel (ConvNeXt and CaiT scale
the branch before they add it): then the layer is still what decides how right the sum is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from fairdeploy.graph.layer_calls import aten

# In eval mode these give back their input.
PASS_THROUGH = {
    aten.dropout.default,
    aten.clone.default,
    aten.alias.default,
    aten.contiguous.default,
    aten.detach.default,
}
_RESHAPES = {aten.reshape.default, aten.view.default, aten.unsqueeze.default}


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
        elif user.target not in PASS_THROUGH:
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
    while factor.target in _RESHAPES and len(factor.users) == 1:
        source = factor.args[0]
        assert isinstance(source, fx.Node)
        factor = source
    return str(factor.target) if factor.op == "get_attr" else None
