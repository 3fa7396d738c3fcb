"""Pooling, resizing and padding: batch and channels pass, space is fixed."""

from __future__ import annotations

import numpy as np
from torch import fx

from fairdeploy.graph.call_facts import argument, result_shape
from fairdeploy.graph.walk.labels import FIXED
from fairdeploy.graph.walk.propagation import Propagation, Value
from fairdeploy.graph.walk.rewriter import Rewriter
from fairdeploy.graph.walk.rules.registry import rewrite, rule


def _keep_channels(walk: Propagation, node: fx.Node, shape: tuple[int, ...], space: int) -> Value:
    dims = walk.dims(node.args[0])
    for labels in dims[len(dims) - space :]:
        walk.freeze(labels, "a window slides over this dimension")
    return (*dims[: len(dims) - space], *(walk.fixed(length) for length in shape[-space:]))


@rule(*(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "lp") for n in (1, 2, 3)),
      *(f"_adaptive_avg_pool{n}d" for n in (2, 3)))  # fmt: skip
def pool(walk: Propagation, node: fx.Node) -> Value:
    """Pooling with one result."""
    return _keep_channels(walk, node, result_shape(node), _space_of(node))


@rule(*(f"adaptive_max_pool{n}d" for n in (1, 2, 3)),
      *(f"max_pool{n}d_with_indices" for n in (2, 3)))  # fmt: skip
def pool_with_indices(walk: Propagation, node: fx.Node) -> Value:
    """Pooling that also tells where the maximum was."""
    result = _keep_channels(walk, node, tuple(node.meta["val"][0].shape), _space_of(node))
    return [result, result]


def _space_of(node: fx.Node) -> int:
    name = str(node.target)
    return next(n for n in (1, 2, 3) if f"{n}d" in name)


@rule(*(f"upsample_{kind}" for kind in (
    "nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "bicubic2d", "trilinear3d")),
      *(f"_upsample_{kind}" for kind in (
          "nearest_exact1d", "nearest_exact2d", "bilinear2d_aa", "bicubic2d_aa")))  # fmt: skip
def resize(walk: Propagation, node: fx.Node) -> Value:
    """Resizing acts on each channel alone."""
    shape = result_shape(node)
    return _keep_channels(walk, node, shape, len(shape) - 2)


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sample(walk: Propagation, node: fx.Node) -> Value:
    """Sampling acts on each channel alone; the grid is fixed."""
    walk.freeze_all(walk.dims(node.args[1]), "a sampling grid")
    shape = result_shape(node)
    return _keep_channels(walk, node, shape, len(shape) - 2)


@rule("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad2d",
      "replication_pad1d")  # fmt: skip
def pad(walk: Propagation, node: fx.Node) -> Value:
    """Padding space keeps channels; a padded constant channel gets a label of its own."""
    dims = list(walk.dims(node.args[0]))
    amounts = node.args[1]
    assert isinstance(amounts, (list, tuple))
    is_constant = "constant" in str(node.target) or argument(node, 2, "mode", "constant") == (
        "constant"
    )
    for pair in range(len(amounts) // 2):
        before, after = amounts[2 * pair], amounts[2 * pair + 1]
        if before == 0 and after == 0:
            continue
        dim = len(dims) - 1 - pair
        has_units = bool((dims[dim] != FIXED).any())
        if not (isinstance(before, int) and isinstance(after, int)):
            before = after = -1
        if has_units and is_constant and before >= 0 and after >= 0:
            parts = (walk.store.fresh(before), dims[dim], walk.store.fresh(after))
            dims[dim] = np.concatenate(parts)
        else:
            walk.freeze(dims[dim], "padded by its own values, or cut by padding")
            dims[dim] = walk.fixed(result_shape(node)[dim])
    return tuple(dims)


@rule("im2col")
def im2col(walk: Propagation, node: fx.Node) -> Value:
    """``[N, C, H, W] -> [N, C * kh * kw, L]``: each channel repeats for each offset."""
    dims = walk.dims(node.args[0])
    shape = result_shape(node)
    repeats = shape[1] // len(dims[1])
    return (dims[0], np.repeat(dims[1], repeats), walk.fixed(shape[2]))


@rule("col2im")
def col2im(walk: Propagation, node: fx.Node) -> Value:
    """``[N, C * kh * kw, L] -> [N, C, H, W]``."""
    dims = walk.dims(node.args[0])
    shape = result_shape(node)
    offsets = dims[1].reshape(shape[1], -1)
    walk.tie_rows(offsets.T)
    return (dims[0], np.ascontiguousarray(offsets[:, 0]), *map(walk.fixed, shape[2:]))


@rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(walk: Propagation, node: fx.Node) -> Value:
    """``[N, C r r, H, W] -> [N, C, H r, W r]`` and back: each channel has r * r places."""
    dims = walk.dims(node.args[0])
    shape = result_shape(node)
    channel = len(dims) - 3
    space = tuple(walk.fixed(length) for length in shape[channel + 1 :])
    if len(dims[channel]) > shape[channel]:
        places = dims[channel].reshape(shape[channel], -1)
        walk.tie_rows(places.T)
        first = np.ascontiguousarray(places[:, 0])
    else:
        first = np.repeat(dims[channel], shape[channel] // len(dims[channel]))
    return (*dims[:channel], first, *space)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(walk: Propagation, node: fx.Node) -> Value:
    """Channels of several blocks are dealt out in turn: the same place of each block goes."""
    dims = list(walk.dims(node.args[0]))
    groups = node.args[1]
    assert isinstance(groups, int)
    blocks = dims[1].reshape(groups, -1)
    walk.tie_rows(blocks)
    dims[1] = np.ascontiguousarray(blocks.T).reshape(-1)
    return tuple(dims)


@rewrite("pad", "constant_pad_nd")
def rewrite_pad(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    """Pad channels by as many as stay of the padding."""
    amounts = original.args[1]
    assert isinstance(amounts, (list, tuple))
    new = list(amounts)
    for pair in range(len(amounts) // 2):
        dim = len(rewriter.units(original)) - 1 - pair
        before = amounts[2 * pair]
        if rewriter.changes(original, dim) and isinstance(before, int):
            inside = before + rewriter.length(original.args[0], dim)
            new[2 * pair] = rewriter.kept_between(original, dim, 0, before)
            new[2 * pair + 1] = rewriter.kept_between(original, dim, inside)
    node.update_arg(1, new)
