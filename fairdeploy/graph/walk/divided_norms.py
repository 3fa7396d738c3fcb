"""Norms written out by hand: let their weight and epsilon carry what their mean divides by.

With ``n`` channels of which ``k`` are left, ``x / (mean + eps) * w`` with the old mean is ``x /
(mean' + eps n / k) * w n / k`` with the new one, and under a square root ``w sqrt(n / k)``. So the
user's own code, which takes the new mean, gives the same from changed tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from fairdeploy.graph.call_facts import fetch_tensor, fetches_of
from fairdeploy.graph.operators import kind_of, op_name

MAX_STEPS = 8
_CASTS = {"cast", "expand", "same"}
_FORMS = {"reshape", "transpose", "permute", *_CASTS}


@dataclass(frozen=True, slots=True)
class DividedNorm:
    """The parts of a norm after its mean."""

    plus_eps: fx.Node
    """``add(mean, eps)``"""
    power: float
    """1 if the mean divides, 0.5 if its square root does."""
    weight: fx.Node
    """The parameter that the result is multiplied with, which nothing else reads."""


def norm_after_mean(module: fx.GraphModule, mean: fx.Node) -> DividedNorm | None:
    """Recognise a norm by what follows its mean; None if it has another form."""
    plus_eps = _only_user(_last_cast(mean))
    if plus_eps is None or op_name(plus_eps) != "add" or plus_eps.kwargs:
        return None
    if not isinstance(plus_eps.args[1], float):
        return None
    value = _only_user(_last_cast(plus_eps))
    power = 1.0
    if value is not None and op_name(value) in {"sqrt", "rsqrt"}:
        power = 0.5
        if op_name(value) == "sqrt":
            value = _divided_by(_last_cast(value))
    else:
        value = _divided_by(_last_cast(plus_eps))
    if value is None:
        return None
    weight = _multiplied_weight(module, value)
    if weight is None and op_name(value) != "rsqrt":
        weight = _weight_of_numerator(module, value)
    return None if weight is None else DividedNorm(plus_eps, power, weight)


def fold_ratio(module: fx.GraphModule, norm: DividedNorm, ratio: float) -> None:
    """Let weight and epsilon carry ``ratio``, old length by new (changes ``module``)."""
    tensor = fetch_tensor(module, str(norm.weight.target))
    assert tensor is not None
    with torch.no_grad():
        tensor.mul_(ratio**norm.power)
    eps = norm.plus_eps.args[1]
    assert isinstance(eps, float)
    norm.plus_eps.update_arg(1, eps * ratio)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _last_cast(node: fx.Node) -> fx.Node:
    user = _only_user(node)
    while user is not None and kind_of(user) in _CASTS and user.args[0] is node:
        node, user = user, _only_user(user)
    return node


def _divided_by(divisor: fx.Node) -> fx.Node | None:
    user = _only_user(divisor)
    is_quotient = user is not None and op_name(user) in {"div", "divide", "true_divide"}
    return user if is_quotient and user is not None and user.args[1] is divisor else None


def _multiplied_weight(module: fx.GraphModule, value: fx.Node) -> fx.Node | None:
    """The parameter that ``value``, or its product with something else, is multiplied with."""
    for _ in range(MAX_STEPS):
        value = _last_cast(value)
        user = _only_user(value)
        if user is None:
            return None
        name = op_name(user)
        factors = user.args[1:3] if name == "addcmul" else user.args[:2]
        if name not in {"mul", "multiply", "addcmul"} or user.kwargs or value not in factors:
            return None
        others = [factor for factor in factors if factor is not value]
        weight = _parameter_behind(module, others[0]) if len(others) == 1 else None
        if weight is not None or name == "addcmul":
            return weight
        value = user
    return None


def _weight_of_numerator(module: fx.GraphModule, quotient: fx.Node) -> fx.Node | None:
    """The parameter that was multiplied into what a quotient divides."""
    numerators = [quotient.args[0]]
    while numerators:
        product = numerators.pop()
        if not isinstance(product, fx.Node) or _only_user(product) is None:
            continue
        if op_name(product) not in {"mul", "multiply"}:
            continue
        for factor in product.args[:2]:
            weight = _parameter_behind(module, factor)
            if weight is not None:
                return weight
        numerators += product.args[:2]
    return None


def _parameter_behind(module: fx.GraphModule, node: object) -> fx.Node | None:
    while isinstance(node, fx.Node) and len(node.users) == 1:
        if node.op == "get_attr":
            tensor = fetch_tensor(module, str(node.target))
            is_own = isinstance(tensor, torch.nn.Parameter) and fetches_of(module, tensor) == [node]
            return node if is_own else None
        if kind_of(node) not in _FORMS:
            return None
        node = node.args[0]
    return None
