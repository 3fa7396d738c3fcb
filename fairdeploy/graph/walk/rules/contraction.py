"""Convolution, linear, matrix products and attention: one dimension is summed away.

Removing an index from both sides of the sum takes exactly its contribution with it.
"""

from __future__ import annotations

import math

import numpy as np
from torch import fx

from fairdeploy.graph.call_facts import (
    UnlabelledError,
    argument,
    number_at_capture,
    result_shape,
)
from fairdeploy.graph.operators import op_name, operator_of
from fairdeploy.graph.walk.label_grids import depends_on, is_grid
from fairdeploy.graph.walk.labels import Labels
from fairdeploy.graph.walk.propagation import KERNEL, READS_FIXED, Dims, Propagation, Value
from fairdeploy.graph.walk.rewriter import Rewriter
from fairdeploy.graph.walk.rules.elementwise import broadcast
from fairdeploy.graph.walk.rules.registry import rewrite, rule

SOFTMAX = "softmax mixes this dimension"


@rule("linear")
def linear(walk: Propagation, node: fx.Node) -> Value:
    """``x [..., K] @ weight [O, K]^T + bias [O]``."""
    data, weight = walk.grids(node.args[0]), walk.dims(node.args[1])
    bias = argument(node, 2, "bias")
    last = len(data) - 1
    data = (*(_free_of(walk, labels, dim, last) for dim, labels in enumerate(data[:-1])), data[-1])
    walk.tie(walk.flat(data[-1], last), weight[1], READS_FIXED)
    walk.contract(node, node.args[0], len(data) - 1)
    walk.contract(node, node.args[1], 1)
    if bias is not None:
        walk.tie(weight[0], walk.dims(bias)[0])
    return (*data[:-1], weight[0])


def _free_of(walk: Propagation, labels: Labels, dim: int, axis: int) -> Labels:
    """Labels of dimension ``dim`` that do not depend on dimension ``axis``."""
    return walk.flat(labels, dim) if depends_on(labels, dim, axis) else labels


@rule("addmm", "baddbmm")
def add_to_product(walk: Propagation, node: fx.Node) -> Value:
    """``added + first [..., N, K] @ second [..., K, M]``."""
    product = _matrix_product(walk, node, node.args[1], node.args[2])
    return broadcast(walk, [walk.dims(node.args[0]), product], result_shape(node))


@rule("matmul", "bmm", "mm", "mv")
def matmul(walk: Propagation, node: fx.Node) -> Value:
    """Matrix products; leading dimensions broadcast."""
    return _matrix_product(walk, node, node.args[0], node.args[1])


def _matrix_product(walk: Propagation, node: fx.Node, first: object, second: object) -> Dims:
    left, right = walk.grids(first), walk.grids(second)
    if min(len(left), len(right)) < 2:
        left, right = walk.dims(first), walk.dims(second)
    inner = len(right) - 2 if len(right) > 1 else 0
    _tie_inner(walk, (left, len(left) - 1), (right, inner))
    walk.contract(node, first, len(left) - 1)
    walk.contract(node, second, inner)
    rows = left[-2:-1] if len(left) > 1 else ()
    columns = right[-1:] if len(right) > 1 else ()
    shape = result_shape(node)
    rank = len(shape)
    batch_shape = shape[: rank - len(rows + columns)]
    batches = [
        tuple(walk.flat(labels, dim) for dim, labels in enumerate(dims[:-2]))
        for dims in (left, right)
    ]
    return (
        *broadcast(walk, batches, batch_shape),
        *(_outer(walk, labels, len(left) - 2, len(left) - 1, rank, rank - 2) for labels in rows),
        *(_outer(walk, labels, len(right) - 1, inner, rank, rank - 1) for labels in columns),
    )


def _tie_inner(walk: Propagation, left: tuple[Dims, int], right: tuple[Dims, int]) -> None:
    """Tie the dimension that a product sums over, batch by batch if it differs between them."""
    vectors = []
    for dims, dim in (left, right):
        labels, rank = dims[dim], len(dims)
        other = 2 * rank - 3 - dim  # the other of the last two dimensions
        if depends_on(labels, dim, other):
            labels = walk.flat(labels, dim)
        if is_grid(labels):
            labels = np.moveaxis(labels, dim, -1)[..., 0, :]
        vectors.append(labels)
    walk.tie(vectors[0], vectors[1])


def _outer(
    walk: Propagation, labels: Labels, dim: int, inner: int, rank: int, result_dim: int
) -> Labels:
    """Labels of a product's row or column dimension, which may depend on the batch dimensions."""
    if depends_on(labels, dim, inner):
        labels = walk.flat(labels, dim)
    if not is_grid(labels):
        return labels
    batches_and_own = np.moveaxis(labels, dim, -1)[..., 0, :]
    padded = batches_and_own.reshape(
        (1,) * (rank - 1 - batches_and_own.ndim) + batches_and_own.shape
    )
    return np.expand_dims(padded, rank - 1 if result_dim == rank - 2 else rank - 2)


@rule("scaled_dot_product_attention")
def attention(walk: Propagation, node: fx.Node) -> Value:
    """Heads are batch dimensions; query and key channels are summed away, value channels pass."""
    query, key, value = (walk.grids(part) for part in node.args[:3])
    shape = result_shape(node)
    rank = len(shape)
    has_shared_heads = bool(argument(node, 7, "enable_gqa", False))
    if has_shared_heads:
        query, key, value = (walk.dims(part) for part in node.args[:3])
        _tie_shared_heads(walk, query, key, value)
    _tie_inner(walk, (query, len(query) - 1), (_exchanged(key), len(key) - 2))
    walk.contract(node, node.args[0], len(query) - 1)
    walk.contract(node, node.args[1], len(key) - 1)
    walk.freeze(key[-2], SOFTMAX)
    walk.freeze(value[-2], SOFTMAX)
    leading = [
        tuple(walk.flat(labels, dim) for dim, labels in enumerate(dims[:-2]))
        for dims in ([query] if has_shared_heads else [query, key, value])
    ]
    mask = argument(node, 3, "attn_mask")
    if walk.is_tensor(mask):
        scores = walk.dims(mask)
        leading.append(scores[:-2])
        for labels in scores[-2:]:
            walk.freeze(labels, SOFTMAX)
    tokens = _outer(walk, query[-2], len(query) - 2, len(query) - 1, rank, rank - 2)
    channels = _outer(walk, value[-1], len(value) - 1, len(value) - 2, rank, rank - 1)
    return (*broadcast(walk, leading, shape[:-2]), tokens, channels)


def _exchanged(dims: Dims) -> Dims:
    """Labels with the last two dimensions exchanged."""
    return tuple(
        labels if labels.ndim == 1 else labels.swapaxes(-1, -2)
        for labels in (*dims[:-2], dims[-1], dims[-2])
    )


def _tie_shared_heads(walk: Propagation, query: Dims, key: Dims, value: Dims) -> None:
    """Several query heads read one key and value head: they go together."""
    walk.tie(key[-3], value[-3])
    walk.tie(query[-3].reshape(len(key[-3]), -1), key[-3][:, None])


@rule("conv1d", "conv2d", "conv3d")
def convolution(walk: Propagation, node: fx.Node) -> Value:
    """``weight [O, I / groups, ...]``; see ``_grouped`` for groups."""
    return convolve(walk, node, groups=argument(node, 6, "groups", 1))


def convolve(walk: Propagation, node: fx.Node, *, groups: object) -> Dims:
    """Labels of a plain convolution's result."""
    data, weight = walk.dims(node.args[0]), walk.dims(node.args[1])
    channel = len(data) - len(weight) + 1
    into, of_image = data[channel], weight
    if isinstance(groups, fx.Node):
        # weights of its own for each image, folded into the channels: alike in all of them
        groups, images = _groups_of_one_image(groups)
        into = _tied_blocks(walk, into, images)
        of_image = (_tied_blocks(walk, weight[0], images), *weight[1:])
    assert isinstance(groups, int)
    if groups == 1:
        walk.tie(into, weight[1], READS_FIXED)
        walk.contract(node, node.args[0], channel)
        walk.contract(node, node.args[1], 1)
    else:
        _grouped(walk, node, into, of_image, groups, channel)
    return slid_over(walk, node, weight[0], channel)


def _groups_of_one_image(groups: fx.Node) -> tuple[int, int]:
    """Groups for each image, and the images at capture, of a number that counts with the batch."""
    total, size = number_at_capture(groups), groups.meta["val"]
    if isinstance(size, int):
        return total, 1
    expression = size.node.expr
    single = int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))
    if single < 1 or total % single:
        raise UnlabelledError(f"{groups} is no multiple of the batch")
    return single, total // single


def _tied_blocks(walk: Propagation, labels: Labels, count: int) -> Labels:
    """Labels of the first of so many blocks; the same index goes from each."""
    blocks = labels.reshape(count, -1)
    walk.tie_rows(blocks)
    return np.ascontiguousarray(blocks[0])


def slid_over(walk: Propagation, node: fx.Node, out: Labels, channel: int) -> Dims:
    """Result of any convolution with the output channels ``out``: bias tied, space fixed."""
    data, weight = walk.dims(node.args[0]), walk.grids(node.args[1])
    bias = argument(node, 2, "bias")
    if bias is not None:
        walk.tie(out, walk.dims(bias)[0])
    spatial = tuple(walk.fixed(length) for length in result_shape(node)[channel + 1 :])
    for labels in data[channel + 1 :]:
        walk.freeze(labels, "a convolution slides over this dimension")
    for labels in weight[2:]:
        walk.freeze(labels, KERNEL)
    return (*data[:channel], out, *spatial)


def _grouped(
    walk: Propagation, node: fx.Node, into: Labels, weight: Dims, groups: int, channel: int
) -> None:
    """Whole groups go, or as many channels from each group: whichever gives more units."""
    blocks_in, blocks_out = into.reshape(groups, -1), weight[0].reshape(groups, -1)
    walk.contract(node, node.args[0], channel)
    if groups > blocks_in.shape[1] + blocks_out.shape[1] or blocks_in.shape[1] == 1:
        for blocks in (blocks_in, blocks_out):
            walk.tie_rows(blocks.T)
        walk.tie(blocks_in[:, 0], blocks_out[:, 0])
        walk.freeze(weight[1], KERNEL)
        return
    walk.contract(node, node.args[1], 1)
    if not walk.balance(blocks_out, is_required=True):
        walk.tie_rows(blocks_out)
    if walk.is_read_once(node.args[1]) and walk.balance(blocks_in, is_required=True):
        # each output channel reads the channels of its own group
        rows = np.repeat(blocks_in, blocks_out.shape[1], axis=0)
        grid = rows.reshape(*rows.shape, *(1 for _ in weight[2:]))
        walk.relabel(node.args[1], 1, grid)
    else:
        walk.tie_rows(blocks_in)
        walk.tie(blocks_in[0], weight[1], READS_FIXED)


# ---- transposed convolution, ``weight [I, O / groups, ...]``: a row for each input channel -------


@rule("convolution")
def plain_convolution(walk: Propagation, node: fx.Node) -> Value:
    """The operator that all convolutions decompose to."""
    groups, is_transposed = node.args[8], bool(node.args[6])
    if is_transposed:
        return _transposed(walk, node, groups)
    return convolve(walk, node, groups=groups)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(walk: Propagation, node: fx.Node) -> Value:
    """The operators that torch.nn's layers call."""
    return _transposed(walk, node, argument(node, 6, "groups", 1))


def _transposed(walk: Propagation, node: fx.Node, groups: object) -> Value:
    if not isinstance(groups, int):
        raise UnlabelledError("its number of groups is computed")
    data, weight = walk.dims(node.args[0]), walk.dims(node.args[1])
    channel = len(data) - len(weight) + 1
    into = data[channel]
    walk.tie(into, weight[0], READS_FIXED)
    walk.contract(node, node.args[0], channel)
    walk.contract(node, node.args[1], 0)
    out = weight[1] if groups == 1 else _grouped_transposed(walk, node, into, weight, groups)
    return slid_over(walk, node, out, channel)


def _grouped_transposed(
    walk: Propagation, node: fx.Node, into: Labels, weight: Dims, groups: int
) -> Labels:
    """Whole groups go, or as many channels from each group: whichever gives more units."""
    blocks, columns = into.reshape(groups, -1), weight[1]
    if goes_by_whole_groups(groups, blocks.shape[1], len(columns)):
        walk.tie_rows(blocks.T)
        walk.freeze(columns, KERNEL)
        return np.repeat(np.ascontiguousarray(blocks[:, 0]), len(columns))
    if not walk.balance(blocks, is_required=True):
        walk.tie_rows(blocks)
    outputs = walk.store.fresh(groups * len(columns)).reshape(groups, -1)
    if walk.is_read_once(node.args[1]) and walk.balance(outputs, is_required=True):
        # each input channel feeds the channels of its own group
        rows = np.repeat(outputs, blocks.shape[1], axis=0)
        walk.relabel(node.args[1], 1, rows.reshape(*rows.shape, *(1 for _ in weight[2:])))
        return outputs.reshape(-1)
    return np.tile(columns, groups)


def goes_by_whole_groups(groups: int, num_inputs: int, num_outputs: int) -> bool:
    """Whether whole groups give more units than positions within groups do."""
    return groups > num_inputs + num_outputs or num_inputs == 1


# ---- rewrites ------------------------------------------------------------------------------------


@rewrite("conv1d", "conv2d", "conv3d", "convolution")
def rewrite_convolution(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    """Keep as many groups as there are inputs for."""
    index = operator_of(node).groups
    assert index is not None
    groups = argument(node, index, "groups", 1)
    if groups == 1:
        return
    if op_name(node) == "convolution" and original.args[6]:
        rewrite_transposed(rewriter, original, node)
        return
    data, weight = rewriter.units(original.args[0]), rewriter.units(original.args[1])
    inputs = rewriter.kept(original.args[0], len(data) - len(weight) + 1)
    new = inputs // rewriter.kept(original.args[1], 1)
    before = argument(original, index, "groups", 1)
    if isinstance(before, fx.Node):  # it counts with the batch
        new = rewriter.scaled(node, groups, before, new)
    rewriter.set_argument(node, index, "groups", new)


@rewrite("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def rewrite_transposed(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    """Keep the groups that have inputs left."""
    index = operator_of(node).groups
    assert index is not None
    groups = argument(node, index, "groups", 1)
    assert isinstance(groups, int)
    size = rewriter.length(original.args[1], 0) // groups
    left = sum(
        rewriter.kept_between(original.args[1], 0, start, start + size) > 0
        for start in range(0, groups * size, size)
    )
    if left != groups:
        rewriter.set_argument(node, index, "groups", left)


@rewrite("scaled_dot_product_attention")
def rewrite_attention(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    """Keep the scale, which would follow the number of channels."""
    query = rewriter.units(original.args[0])
    if argument(node, 6, "scale") is None and rewriter.changes(original.args[0], len(query) - 1):
        width = rewriter.length(original.args[0], len(query) - 1)
        node.update_kwarg("scale", 1.0 / math.sqrt(width))
