"""Norms: batch norm keeps a channel to itself; a norm over channels mixes them and freezes them."""

from __future__ import annotations

from torch import fx

from fairdeploy.graph.propagation import Dims, Propagation, Value, argument
from fairdeploy.graph.rules.registry import rule


def _tie_channel_vectors(walk: Propagation, node: fx.Node, dims: Dims, count: int) -> None:
    for vector in node.args[1 : 1 + count]:
        if walk.is_tensor(vector):
            walk.tie(dims[1], walk.dims(vector)[0])


@rule("batch_norm", "instance_norm", "_native_batch_norm_legit_no_training")
def batch_norm(walk: Propagation, node: fx.Node) -> Value:
    """Weight, bias, mean and variance go with their channel."""
    dims = walk.dims(node.args[0])
    _tie_channel_vectors(walk, node, dims, 4)
    if argument(node, 5, "training", False):
        for index, labels in enumerate(dims):
            if index != 1:
                walk.freeze(labels, "statistics are taken over this dimension")
    return dims


@rule("layer_norm", "rms_norm", "_fused_rms_norm", "native_layer_norm")
def layer_norm(walk: Propagation, node: fx.Node) -> Value:
    """Removing an index would change the statistics of the others: not exact, so it stays."""
    dims = walk.dims(node.args[0])
    normalized = node.args[1]
    assert isinstance(normalized, (list, tuple))
    reason = "a layer norm takes its statistics over these channels"
    for labels in dims[-len(normalized) :]:
        walk.freeze(labels, reason)
    for operand in node.all_input_nodes[1:]:
        if walk.is_tensor(operand):
            walk.freeze_all(walk.dims(operand), reason)
    return dims


@rule("group_norm")
def group_norm(walk: Propagation, node: fx.Node) -> Value:
    """With a group per channel it is an instance norm; otherwise its channels stay."""
    dims = walk.dims(node.args[0])
    vectors = [walk.dims(vector)[0] for vector in node.args[2:4] if walk.is_tensor(vector)]
    if node.args[1] == len(dims[1]):
        for labels in vectors:
            walk.tie(dims[1], labels)
    else:
        for labels in (dims[1], *vectors):
            walk.freeze(labels, "a group norm takes its statistics over these channels")
    return dims


@rule("local_response_norm")
def local_response_norm(walk: Propagation, node: fx.Node) -> Value:
    """Neighbouring channels are mixed."""
    dims = walk.dims(node.args[0])
    walk.freeze(dims[1], "a response norm mixes neighbouring channels")
    return dims
