"""Size attributes of torch's recurrent layers and norms, from their tensors and calls."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from fairdeploy.graph.call_facts import argument, module_path
from fairdeploy.graph.operators import op_name
from fairdeploy.graph.walk.freezes import source_line


def set_recurrent_sizes(layer: nn.Module) -> None:
    """Let a recurrent layer know the sizes of its weights (changes ``layer``)."""
    if isinstance(layer, nn.RNNBase):
        shape = layer.get_parameter("weight_ih_l0").shape
        layer.hidden_size, layer.input_size = shape[0] // _num_gates(layer), shape[1]
        if layer.proj_size > 0:
            layer.proj_size = layer.get_parameter("weight_hr_l0").shape[0]
    elif isinstance(layer, nn.RNNCellBase):
        layer.hidden_size, layer.input_size = layer.weight_hh.shape[1], layer.weight_ih.shape[1]


def set_norm_sizes(layer: nn.Module, weight: Tensor) -> None:
    """Let a group or layer norm know the length of its weight (changes ``layer``)."""
    if isinstance(layer, nn.GroupNorm):
        layer.num_channels = weight.shape[0]
    elif isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        layer.normalized_shape = tuple(weight.shape)


def set_epsilons(module: nn.Module, original: fx.GraphModule, shrunk: fx.GraphModule) -> None:
    """Give norms the epsilons of the shrunk network (changes ``module``)."""
    rewritten = {node.name: node for node in shrunk.graph.nodes}
    owners: dict[str, Any] = dict(module.named_modules())
    for before in original.graph.nodes:
        after = rewritten.get(before.name)
        is_same = after is not None and after.target is before.target
        if before.op != "call_function" or after is None or not is_same:
            continue
        old, new = _epsilon(before), _epsilon(after)
        owner = owners.get(module_path(before))
        if old == new or owner is None:
            continue
        for name, value in list(vars(owner).items()):
            if (name == "eps" and value is None) or (isinstance(value, float) and value == old):
                setattr(owner, name, new)


def _epsilon(node: fx.Node) -> object:
    if op_name(node) == "rms_norm":
        return argument(node, 3, "eps")
    return node.args[1] if op_name(node) == "add" and isinstance(node.args[1], float) else None


def old_lengths_kept(original: fx.GraphModule, shrunk: fx.GraphModule) -> str:
    """Where the shrunk network divides by a length that is gone; empty if nowhere.

    The user's own code divides by the new length there.
    """
    rewritten = {node.name: node for node in shrunk.graph.nodes}
    for node in original.graph.nodes:
        is_divided = node.op == "call_function" and op_name(node) in {"mean", "rms_norm"}
        after = rewritten.get(node.name)
        if is_divided and after is not None and after.target is not node.target:
            return f"'{op_name(node)}' at {source_line(node) or module_path(node)}"
    return ""


def _num_gates(layer: nn.RNNBase) -> int:
    return {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
