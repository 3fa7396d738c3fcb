"""Which rule labels which operator, and which rewrite changes its numbers when units go.

Both register themselves by ATen operator name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import fx

from fairdeploy.graph.operators import op_name, operator_of
from fairdeploy.graph.walk.propagation import Rule
from fairdeploy.graph.walk.rewriter import Rewrite, Rewriter

_Entry = TypeVar("_Entry", Rule, Rewrite)
_RULES: dict[str, Rule] = {}
_REWRITES: dict[str, Rewrite] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of the operators of these names."""
    return _registrar(_RULES, names)


def rewrite(*names: str) -> Callable[[Rewrite], Rewrite]:
    """Register the decorated function as the rewrite of the operators of these names."""
    return _registrar(_REWRITES, names)


def _registrar(table: dict[str, _Entry], names: tuple[str, ...]) -> Callable[[_Entry], _Entry]:
    def register(function: _Entry) -> _Entry:
        for name in names:
            assert name not in table, f"{name} has two"
            table[name] = function
        return function

    return register


def rewrite_of(node: fx.Node) -> Rewrite | None:
    """What fits a call's numbers to the kept indices; None if it has none that depend on them."""
    if operator_of(node).sizes is not None:
        return Rewriter.resize
    return _REWRITES.get(op_name(node))


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
