"""Element by element with broadcasting: aligned indices live or die together.

Any function may act on an element: a removed index takes its values with it, whatever they are.
"""

from __future__ import annotations

import numpy as np
from torch import fx

from fairdeploy.graph.functionalize import op_name
from fairdeploy.graph.labels import FIXED, Labels
from fairdeploy.graph.propagation import Dims, Propagation, Value, result_shape
from fairdeploy.graph.rules.registry import rule


def broadcast(walk: Propagation, operands: list[Dims], shape: tuple[int, ...]) -> Dims:
    """Tie operands aligned from the last dimension; return the labels of the result."""
    result: list[Labels] = []
    for offset, length in enumerate(reversed(shape), start=1):
        vectors = [dims[-offset] for dims in operands if len(dims) >= offset]
        full = [labels for labels in vectors if len(labels) == length]
        for labels in vectors:
            if len(labels) != length:
                walk.freeze(labels, "a single index is broadcast over many")
        result.append(tie_all(walk, full, length))
    return tuple(reversed(result))


def tie_all(walk: Propagation, vectors: list[Labels], length: int) -> Labels:
    """Tie aligned label vectors; return one that stands for all."""
    if not vectors:
        return walk.fixed(length)
    first = vectors[0]
    for labels in vectors[1:]:
        walk.tie(first, labels, "combined element by element with something that cannot shrink")
    # where the first is fixed the others are frozen now, so either may stand for the index
    for labels in vectors[1:]:
        first = np.where(first == FIXED, labels, first)
    return first


def tensor_operands(walk: Propagation, node: fx.Node) -> list[Dims]:
    """Labels of every tensor argument, lists included."""
    return [walk.dims(operand) for operand in node.all_input_nodes if walk.is_tensor(operand)]


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
        walk.summed.extend(result)
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
    return walk.dims(node.args[0])


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
