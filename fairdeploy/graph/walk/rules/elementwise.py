"""Element by element with broadcasting: aligned indices live or die together.

Any function may act on an element: a removed index takes its values with it, whatever they are.
"""

from __future__ import annotations

import numpy as np
from torch import fx

from fairdeploy.graph.call_facts import result_shape
from fairdeploy.graph.operators import op_name
from fairdeploy.graph.walk.label_grids import is_grid, length_of, simplified
from fairdeploy.graph.walk.labels import FIXED, Labels
from fairdeploy.graph.walk.propagation import Dims, Propagation, Value
from fairdeploy.graph.walk.rules.registry import rule

COMBINED = "combined element by element with something that cannot shrink"


def broadcast(walk: Propagation, operands: list[Dims], shape: tuple[int, ...]) -> Dims:
    """Tie operands aligned from the last dimension; return the labels of the result."""
    rank = len(shape)
    result: list[Labels] = []
    for dim, length in enumerate(shape):
        vectors: list[Labels] = []
        for dims in operands:
            own = dim - rank + len(dims)
            if own < 0:
                continue
            if length_of(dims[own], own) == length:
                vectors.append(_aligned(dims[own], rank))
            else:
                walk.freeze(dims[own], "a single index is broadcast over many")
        result.append(tie_grids(walk, vectors, dim, rank, length))
    return tuple(result)


def _aligned(labels: Labels, rank: int) -> Labels:
    """A grid with axes put in front, up to ``rank``; vectors stay."""
    if not is_grid(labels):
        return labels
    return labels.reshape((1,) * (rank - labels.ndim) + labels.shape)


def tie_grids(walk: Propagation, vectors: list[Labels], dim: int, rank: int, length: int) -> Labels:
    """Tie labels of dimension ``dim`` of equally shaped values; return what stands for all.

    A vector among grids ties all of their blocks together and so stands for them.
    """
    grids = [labels for labels in vectors if is_grid(labels)]
    plain = [labels for labels in vectors if not is_grid(labels)]
    if not grids:
        return tie_all(walk, plain, length)
    if plain:
        return tie_all(walk, [*plain, *(walk.flat(grid, dim) for grid in grids)], length)
    first = grids[0]
    for grid in grids[1:]:
        walk.tie(first, grid, COMBINED)
        first = np.where(first == FIXED, grid, first)
    return simplified(np.ascontiguousarray(first), dim)


def tie_all(walk: Propagation, vectors: list[Labels], length: int) -> Labels:
    """Tie aligned label vectors; return one that stands for all."""
    if not vectors:
        return walk.fixed(length)
    first = vectors[0]
    for labels in vectors[1:]:
        walk.tie(first, labels, COMBINED)
    # where the first is fixed the others are frozen now, so either may stand for the index
    for labels in vectors[1:]:
        first = np.where(first == FIXED, labels, first)
    return first


def tensor_operands(walk: Propagation, node: fx.Node) -> list[Dims]:
    """Labels of every tensor argument, lists included."""
    return [walk.grids(operand) for operand in node.all_input_nodes if walk.is_tensor(operand)]


@rule("pointwise", "where", "clamp_min", "clamp_max", "dropout", "feature_dropout", "alpha_dropout",
      "relu6", "hardtanh", "gelu", "rrelu", "nan_to_num", "masked_fill", "addcmul", "addcdiv",
      "lerp", "type_as", "to", "_to_copy", "clone", "contiguous", "alias", "detach", "lift_fresh",
      "lift_fresh_copy", "detach_copy", "_to_dtype", "selu", "softsign", "tanhshrink", "mish",
      "logaddexp", "square", "float_power", "rsub", "positive", "clip", "absolute", "sigmoid",
      "log_sigmoid", "celu", "elu", "silu", "hardswish", "hardsigmoid", "leaky_relu", "threshold",
      "true_divide", "multiply", "subtract", "divide", "conj", "real", "bernoulli")  # fmt: skip
def pointwise(walk: Propagation, node: fx.Node) -> Value:
    """Anything that acts on elements alone."""
    if not isinstance(walk.fixed_like(node), tuple):
        return walk.fixed_like(node)
    result = broadcast(walk, tensor_operands(walk, node), result_shape(node))
    if op_name(node) in {"add", "sub"} and len(_computed(walk, node)) > 1:
        walk.summed.extend(labels.reshape(-1) for labels in result)
    return result


def _computed(walk: Propagation, node: fx.Node) -> list[fx.Node]:
    """Tensor arguments that are not stored in the model."""
    return [
        operand
        for operand in node.all_input_nodes
        if operand.op != "get_attr" and walk.is_tensor(operand)
    ]


@rule("prelu", "_prelu_kernel")
def prelu(walk: Propagation, node: fx.Node) -> Value:
    """One slope a channel, or one for all; channels are dimension 1."""
    dims, slope = walk.dims(node.args[0]), walk.dims(node.args[1])
    slopes = max(slope, key=len) if slope else walk.fixed(1)
    channel = min(1, len(dims) - 1)
    if len(slopes) == len(dims[channel]) and len(slopes) > 1:
        walk.tie(dims[channel], slopes)
    return dims


@rule("glu")
def glu(walk: Propagation, node: fx.Node) -> Value:
    """The first half of a dimension is gated by its second half, index by index."""
    dims = list(walk.dims(node.args[0]))
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", -1)
    assert isinstance(dim, int)
    first, second = np.split(dims[dim], 2)
    walk.tie(first, second)
    dims[dim] = first
    return tuple(dims)


@rule("zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "empty_like")
def like(walk: Propagation, node: fx.Node) -> Value:
    """A tensor made in the shape of another follows it."""
    return walk.grids(node.args[0])


@rule("size_arithmetic", "sym_size", "_assert_tensor_metadata", "_assert_scalar",
      "sym_constrain_range_for_size", "sym_constrain_range", "sym_numel", "sym_stride")  # fmt: skip
def size_arithmetic(walk: Propagation, node: fx.Node) -> Value:
    """Sizes and checks of them carry no labels."""
    return None


@rule("new_zeros", "new_ones", "new_full", "zeros", "ones", "full", "empty", "new_empty")
def constant_fill(walk: Propagation, node: fx.Node) -> Value:
    """A tensor of equal elements can be made in any size: its indices are free."""
    return tuple(
        walk.store.fresh(length) if length > 1 else walk.fixed(length)
        for length in result_shape(node)
    )


@rule("arange", "linspace", "eye", "scalar_tensor", "tril_indices", "triu_indices", "randn", "rand",
      "randperm", "meshgrid")  # fmt: skip
def made_here(walk: Propagation, node: fx.Node) -> Value:
    """Numbers that depend on their position: nothing can be taken from them."""
    return walk.fixed_like(node)
