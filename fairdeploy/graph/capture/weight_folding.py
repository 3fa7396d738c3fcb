"""Weights that a network computes from its parameters at every call, computed once.

Standardised and normalised weights (``StdConv2d`` of BiT and NFNet, ``weight_norm``) mix the input
channels of a layer before the layer sees them, so that nothing could ever go from those. What the
layer is given does not depend on the images, though: here it becomes a parameter of its own, beside
the one that it was made from. The network computes the same; trained further, the folded weights
are free.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from fairdeploy.graph.call_facts import delete_tensor, fetch_tensor
from fairdeploy.graph.operators import has_weight, is_view, kind_of

SUFFIX = "_folded"


def fold_weights(module: fx.GraphModule) -> tuple[str, ...]:
    """Replace computed weights by parameters, where computing them mixes channels.

    Changes ``module``; parameters that nothing reads any more are taken out of it.

    Returns:
        Names of the new parameters.
    """
    from_parameters = _nodes_from_parameters(module)
    names: list[str] = []
    for node in list(module.graph.nodes):
        if not has_weight(node) or len(node.args) < 2:
            continue
        weight = node.args[1]
        if isinstance(weight, fx.Node) and weight in from_parameters and _mixes(weight):
            names.append(_fold(module, node, weight))
    if names:
        module.graph.eliminate_dead_code()
        _drop_unread_parameters(module)
        module.graph.lint()
        module.recompile()
    return tuple(names)


def _nodes_from_parameters(module: fx.GraphModule) -> set[fx.Node]:
    """Calls that depend on stored tensors alone."""
    found: set[fx.Node] = set()
    for node in module.graph.nodes:
        sources = node.all_input_nodes
        is_call = node.op == "call_function" and bool(sources)
        if is_call and all(source.op == "get_attr" or source in found for source in sources):
            found.add(node)
    return found


def _mixes(weight: fx.Node) -> bool:
    """Whether a computed weight is more than a rearranged parameter."""
    calls = (node for node in _origins(weight) if node.op == "call_function")
    return not all(is_view(n) or kind_of(n) in {"cast", "join", "pad"} for n in calls)


def _origins(weight: fx.Node) -> list[fx.Node]:
    """A node and everything that it is computed from, each once."""
    found = {weight: None}
    stack = [weight]
    while stack:
        new = [source for source in stack.pop().all_input_nodes if source not in found]
        found |= dict.fromkeys(new)
        stack += new
    return list(found)


def _fold(module: fx.GraphModule, layer: fx.Node, weight: fx.Node) -> str:
    """Let ``layer`` read the value of ``weight`` from a new parameter; returns its name."""
    name = f"{_source(weight)}{SUFFIX}"
    owner_path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_path)
    number = 1
    while hasattr(owner, leaf if number == 1 else f"{leaf}{number}"):
        number += 1
    leaf = leaf if number == 1 else f"{leaf}{number}"
    with torch.no_grad():
        value = _computed(module, weight, {})
    assert isinstance(value, Tensor)
    owner.register_parameter(leaf, nn.Parameter(value.detach().clone()))
    name = f"{owner_path}.{leaf}" if owner_path else leaf
    with module.graph.inserting_before(layer):
        stored = module.graph.get_attr(name)
    stored.meta = {"val": weight.meta["val"]}
    layer.update_arg(1, stored)
    return name


def _source(weight: fx.Node) -> str:
    """Name of the largest parameter that a weight is made from."""
    stored = [node for node in _origins(weight) if node.op == "get_attr"]
    largest = max(stored, key=lambda node: node.meta["val"].numel() if "val" in node.meta else 0)
    return str(largest.target)


def _computed(module: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    """Value of a node that depends on stored tensors alone."""
    if node not in known:
        if node.op == "get_attr":
            known[node] = fetch_tensor(module, str(node.target))
        else:
            for source in node.all_input_nodes:
                _computed(module, source, known)
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: known[source])
            assert callable(node.target)
            known[node] = node.target(*args, **kwargs)
    return known[node]


def _drop_unread_parameters(module: fx.GraphModule) -> None:
    """Take parameters that no node reads out of the module (changes it)."""
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in list(module.named_parameters(remove_duplicate=False)):
        if name not in read:
            delete_tensor(module, name)
