"""Which rule labels which operator; rules register themselves by ATen operator name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from fairdeploy.graph.operators import op_name
from fairdeploy.graph.walk.propagation import Rule

_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the decorated function for the ATen operators of these names."""

    def register(function: Rule) -> Rule:
        for name in names:
            assert name not in _RULES, f"two rules for {name}"
            _RULES[name] = function
        return function

    return register


def rule_of(node: fx.Node) -> Rule | None:
    """The rule for a call, or None if the operator is unknown.

    Operators that PyTorch itself tags as pointwise need no entry of their own.
    """
    target = node.target
    found = _RULES.get(op_name(node))
    if found is not None:
        return found
    if isinstance(target, torch._ops.OpOverload):
        if torch.Tag.pointwise in target.tags and not op_name(node).endswith("_"):
            return _RULES["pointwise"]
        return None
    # arithmetic on sizes: Python operators and torch.sym_* functions make no tensor
    return _RULES["size_arithmetic"] if "val" in node.meta and not _makes_tensor(node) else None


def _makes_tensor(node: fx.Node) -> bool:
    value = node.meta["val"]
    return not isinstance(value, (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool))
