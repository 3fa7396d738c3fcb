"""Which groups are alike in kind: made, normed and read by the same sorts of layers.

Isomorphic Pruning (Fang et al. 2024, arXiv 2407.04616) compares units only with those of
structurally equal parts. Two groups count as equal here if their members are: the same operators
read them in the same places, along the same dimensions, in the same roles, and as many of them.
Widths do not matter, nor do kernel sizes; whether a unit has one index in a tensor or several does
(a channel, a head).
"""

from __future__ import annotations

from collections.abc import Mapping

from fairdeploy.graph.unit_graph import Group, Member, UnitGraph
from fairdeploy.graph.weight_readers import Reader, weight_readers


def structures(graph: UnitGraph) -> tuple[str, ...]:
    """A text for each group, in the order of ``graph.groups``; equal for groups of one kind."""
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
