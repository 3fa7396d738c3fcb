"""Transposed convolution, ``weight [I, O / groups, ...]``: a row for each input channel."""

from __future__ import annotations

import numpy as np
from torch import fx

from fairdeploy.graph.call_facts import UnlabelledError, argument
from fairdeploy.graph.walk.labels import Labels
from fairdeploy.graph.walk.propagation import KERNEL, READS_FIXED, Dims, Propagation, Value
from fairdeploy.graph.walk.rules.contraction import convolve, slid_over
from fairdeploy.graph.walk.rules.registry import rule


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
    out = weight[1] if groups == 1 else _grouped(walk, node, into, weight, groups)
    return slid_over(walk, node, out, channel)


def _grouped(walk: Propagation, node: fx.Node, into: Labels, weight: Dims, groups: int) -> Labels:
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
