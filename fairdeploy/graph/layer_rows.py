"""From activations to the rows of a least-squares problem, at some of the positions.

Neighbouring pixels say nearly the same, so a few thousand positions spread over all images fit a
layer as well as all of them, at a fraction of the cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from fairdeploy.graph.batch_dimension import BatchDimension
from fairdeploy.graph.operators import kind_of


@dataclass(frozen=True, slots=True)
class Window:
    """How a convolution walks over its input; empty tuples for a linear layer."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @property
    def is_linear(self) -> bool:
        """Whether rows are plain feature vectors, channels last."""
        return not self.kernel


LINEAR = Window((), (), (), ())


def picked_patches(inputs: Tensor, window: Window, positions: tuple[Tensor, ...]) -> Tensor:
    """Patches of a convolution at some output positions.

    Args:
        inputs: Shape [B, C, *spatial].
        window: Of the convolution.
        positions: Index tensors [M], one per dimension but the channels'.

    Returns:
        Shape [M, C, *kernel].
    """
    pads = [amount for p in reversed(window.padding) for amount in (p, p)]
    padded = functional.pad(inputs, pads) if any(pads) else inputs
    num_pixels = padded.numel() // padded.shape[1]
    if len(positions[0]) * math.prod(window.kernel) < num_pixels or math.prod(window.kernel) == 1:
        return _patches_view(padded, window, channel_dim=1)[positions]
    # A row of a patch with all its channels is copied in one piece: two to three times as fast.
    last = padded.movedim(1, -1).contiguous()
    return _patches_view(last, window, channel_dim=last.dim() - 1)[positions].movedim(-1, 1)


def _patches_view(padded: Tensor, window: Window, channel_dim: int) -> Tensor:
    """All patches without copying them: [B, *output positions] and then as ``padded`` has them."""
    strides = padded.stride()
    spatial = [dim for dim in range(1, padded.dim()) if dim != channel_dim]
    reach = [d * (k - 1) + 1 for d, k in zip(window.dilation, window.kernel, strict=True)]
    sizes = [
        (padded.shape[dim] - r) // s + 1
        for dim, r, s in zip(spatial, reach, window.stride, strict=True)
    ]
    steps = [strides[dim] * s for dim, s in zip(spatial, window.stride, strict=True)]
    inner = [strides[dim] * d for dim, d in zip(spatial, window.dilation, strict=True)]
    kernel, num_channels = list(window.kernel), padded.shape[channel_dim]
    place = channel_dim - 1
    kernel.insert(place, num_channels)
    inner.insert(place, strides[channel_dim])
    return padded.as_strided((padded.shape[0], *sizes, *kernel), (strides[0], *steps, *inner))


def sample_rows(
    inputs: Tensor, window: Window, positions: tuple[Tensor, ...], has_bias: bool
) -> Tensor:
    """Rows of the layer's least-squares problem.

    Args:
        inputs: The layer's input, [B, C, *spatial] or, for a linear layer, [..., C].
        window: Of the layer.
        positions: Index tensors [M], one per dimension but the channels'.
        has_bias: Append a column of ones.

    Returns:
        Shape [G, M, n] with n = C / G * prod(kernel), plus one with a bias.
    """
    if window.is_linear:
        rows = inputs[positions].unsqueeze(0)
    else:
        picked = picked_patches(inputs, window, positions)
        rows = picked.reshape(picked.shape[0], window.groups, -1).transpose(0, 1)
    if has_bias:
        rows = torch.cat([rows, rows.new_ones(*rows.shape[:2], 1)], dim=2)
    return rows


def sample_targets(
    values: Tensor,
    window: Window,
    positions: tuple[Tensor, ...],
    kept: tuple[int, ...] | None = None,
) -> Tensor:
    """The layer's wanted outputs at the same positions, shape [G, M, outputs per group].

    Args:
        values: [B, C, *positions], or [..., C] for a linear layer.
        window: Of the layer.
        positions: As for ``sample_rows``.
        kept: Indices of the channels that the shrunk layer still has; None: all.
    """
    last = values if window.is_linear else values.movedim(1, -1)
    picked = last[positions]
    if kept is not None:
        picked = picked[:, list(kept)]
    return picked.reshape(picked.shape[0], window.groups, -1).transpose(0, 1)


@dataclass(frozen=True, slots=True)
class Positions:
    """The places at which a layer gives its outputs, and where the images lie among them."""

    lengths: tuple[int, ...]
    """Of every dimension but the channels'."""
    batch: BatchDimension
    """Its dimension is counted among ``lengths``."""
    num_images: int


def positions_of(
    values: Tensor, window: Window, batch: BatchDimension, num_images: int
) -> Positions:
    """Of a layer that gives values of this shape."""
    shape = values.shape[:-1] if window.is_linear else (values.shape[0], *values.shape[2:])
    return Positions(tuple(shape), batch, num_images)


def choose_positions(
    images: Tensor, positions: Positions, rows_per_image: float, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Random positions, evenly many in each image.

    Args:
        images: Indices of the images (within the chunk) to sample from, int64 [I].
        positions: All that there are.
        rows_per_image: About how many to choose; all, if there are not more.
        generator: Source of randomness.

    Returns:
        One index tensor per dimension of the positions.
    """
    batch, others = positions.batch, list(positions.lengths)
    outer, inner = batch.folds(others.pop(batch.dim), positions.num_images)
    shape = (outer, inner, *others)
    num_positions = math.prod(shape)
    per_image = max(1, min(num_positions, math.ceil(rows_per_image)))
    if per_image >= num_positions:
        flat = torch.arange(num_positions).expand(len(images), -1)
    else:
        # With replacement: a repeated pixel costs little, a permutation per image costs much.
        flat = torch.randint(num_positions, (len(images), per_image), generator=generator)
    image = images[:, None].expand(-1, per_image).reshape(-1)
    before, after, *rest = torch.unravel_index(flat.reshape(-1), shape)
    rest.insert(batch.dim, (before * positions.num_images + image) * inner + after)
    return tuple(rest)


# ---- calls of layers that have such rows ---------------------------------------------------------


aten = torch.ops.aten


def is_layer_call(node: fx.Node) -> bool:
    """Whether a call is a layer whose padding, if it has one, is given in numbers."""
    target = node.target
    return kind_of(node) == "layer" and getattr(target, "_overloadname", "") == "default"


def bound_arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of an ATen call by name, defaults filled in."""
    assert isinstance(node.target, torch._ops.OpOverload)
    arguments = {}
    for index, argument in enumerate(node.target._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        given = node.args[index] if index < len(node.args) else default
        arguments[argument.name] = node.kwargs.get(argument.name, given)
    return arguments


def window_of(arguments: Mapping[str, Any], kernel: tuple[int, ...]) -> Window:
    """Of a convolution with these bound arguments."""
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
