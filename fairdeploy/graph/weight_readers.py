"""Which operators read each parameter or buffer, in which place; groups that are alike in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx

from fairdeploy.graph.operators import is_view, multiplies, op_name, row_of
from fairdeploy.graph.unit_graph import Group, Member, UnitGraph

_SCALE = 1
"""Place of gamma among the arguments of a batch norm."""

Reader = tuple[str, int]
"""Operator, and place among the nodes that it reads."""


def weight_readers(module: fx.GraphModule) -> Mapping[str, frozenset[Reader]]:
    """By tensor name, what reads it, directly or through views."""
    readers: dict[str, frozenset[Reader]] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            readers[name] = readers.get(name, frozenset()).union(_readers_of(node))
    return readers


def is_layer_weight(readers: frozenset[Reader]) -> bool:
    """Whether these read a tensor as the weight of a layer, or its bias."""
    return any(multiplies(op) or row_of(op).kind == "table" for op, _ in readers)


def is_batch_norm_scale(readers: frozenset[Reader]) -> bool:
    """Whether a tensor that these read is the gamma of a batch norm."""
    return any(row_of(op).kind == "batch norm" and place == _SCALE for op, place in readers)


def _readers_of(source: fx.Node) -> Iterator[Reader]:
    stack, seen = [source], {source}
    while stack:
        node = stack.pop()
        for user in node.users:
            if not is_view(user):
                yield op_name(user), user.all_input_nodes.index(node)
            elif user not in seen:
                seen.add(user)
                stack.append(user)


def structures(graph: UnitGraph) -> tuple[str, ...]:
    """A text for each group, in the order of ``graph.groups``; equal for groups of one kind.

    Isomorphic Pruning (Fang et al. 2024, arXiv 2407.04616) compares units only with those of
    structurally equal parts. Two groups count as equal here if their members are: the same
    operators read them in the same places, along the same dimensions, in the same roles, and as
    many of them. Widths do not matter, nor do kernel sizes; whether a unit has one index in a
    tensor or several does (a channel, a head).
    """
    readers = weight_readers(graph.module)
    return tuple(_structure(group, readers) for group in graph.groups)


def _structure(group: Group, readers: Mapping[str, frozenset[Reader]]) -> str:
    kinds = sorted(
        _kind(member, readers.get(member.tensor, frozenset())) for member in group.members
    )
    form = "balanced" if group.num_blocks > 1 else "single"
    return "; ".join([form, "summed" if group.is_summed else "plain", *kinds])


def _kind(member: Member, readers: frozenset[Reader]) -> str:
    ops = "+".join(f"{op}[{place}]" for op, place in sorted(readers))
    width = "many" if member.positions.shape[1] > 1 else "one"
    return f"{member.role} {width} along {member.dim} of {ops}"
