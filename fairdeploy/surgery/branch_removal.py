"""Take residual branches out of a graph: the sum gives back its shortcut, the rest goes.

The sum stays as a node of its name that only passes its value on, so that whoever compares both
networks still finds it; runtimes drop such nodes. So does a rectifier that has nothing left to do,
because its input is rectified already.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx, nn

from fairdeploy.graph.capture.functionalize import op_name
from fairdeploy.graph.residual_branches import is_check
from fairdeploy.graph.stored_tensors import fetch_tensor
from fairdeploy.graph.unit_graph import Branch

aten = torch.ops.aten
_IDEMPOTENT = {"relu", "relu6", "hardtanh", "clamp", "clamp_min"}
_PASSING = {"alias", "clone", "dropout", "contiguous"}


def cut_branches(module: fx.GraphModule, branches: Iterable[Branch]) -> None:
    """Remove branches, with the tensors that only they read (changes ``module``)."""
    branches = tuple(branches)
    nodes = {node.name: node for node in module.graph.nodes}
    gone: set[str] = set()
    freed: set[fx.Node] = set()
    for branch in branches:
        total = nodes[branch.total]
        _pass_on(total, nodes[branch.shortcut])
        for user in list(total.users):
            source = _source(total)
            if _repeats(user, source):
                _pass_on(user, total)
        gone |= branch.nodes
    tensors = {name for branch in branches for name in branch.tensors}
    for node in reversed(list(module.graph.nodes)):
        is_own = node.op == "get_attr" and str(node.target) in tensors
        is_check_of_gone = is_check(node) and any(s.name in gone for s in node.all_input_nodes)
        goes = node.name in gone or node in freed or is_own or is_check_of_gone
        if goes and not node.users and node.op != "placeholder":
            freed.update(node.all_input_nodes)
            module.graph.erase_node(node)
    for name in tensors:
        if fetch_tensor(module, name) is not None:
            _delete(module, name)


def _pass_on(node: fx.Node, value: fx.Node) -> None:
    """Let ``node`` be the same as ``value`` (changes it)."""
    node.target, node.args, node.kwargs = aten.alias.default, (value,), {}


def _source(node: fx.Node) -> fx.Node:
    """Where a value that is passed on comes from."""
    while op_name(node) in _PASSING and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _repeats(user: fx.Node, source: fx.Node) -> bool:
    """Whether ``user`` does to its input what ``source`` has just done to its own."""
    return (
        op_name(user) in _IDEMPOTENT
        and user.target is source.target
        and user.args[1:] == source.args[1:]
        and user.kwargs == source.kwargs
    )


def _delete(module: nn.Module, name: str) -> None:
    owner, _, leaf = name.rpartition(".")
    delattr(module.get_submodule(owner), leaf)
