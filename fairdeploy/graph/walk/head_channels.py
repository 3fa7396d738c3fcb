"""Which groups of channels within attention heads can go beside whole heads.

Both can shrink the same indices if their counts multiply: every channel unit of a block must meet
the same heads, equally often, in every dimension of every tensor.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fairdeploy.graph.unit_graph import KEPT, Group, Member, UnitIds
from fairdeploy.graph.walk.propagation import Propagation


def layable_groups(
    walk: Propagation,
    groups: tuple[Group, ...],
    channel_units: Mapping[str, tuple[UnitIds, ...]],
    head_units: Mapping[str, tuple[UnitIds, ...]],
) -> list[Group]:
    """Groups of the channel walk that lie within heads and multiply with the head walk's units.

    Args:
        walk: The walk that found the channels.
        groups: Of that walk, with numbers as in ``channel_units``.
        channel_units: Per tensor and dimension, the channel walk's units.
        head_units: The same of the head walk.
    """
    labels = np.concatenate([np.zeros(0, dtype=np.int64), *walk.head_channels])
    roots = np.unique(walk.store.find(labels))
    inside: set[int] = set()
    for name, dims in walk.tensor_dims.items():
        for dim, found in enumerate(dims):
            of_heads = np.isin(walk.store.find(found.reshape(-1)), roots)
            inside.update(channel_units[name][dim].reshape(-1)[of_heads].tolist())
    return [
        group
        for group in groups
        if inside.issuperset(group.units.tolist())
        and all(_multiplies(group, member, head_units) for member in group.members)
    ]


def _multiplies(
    group: Group, member: Member, head_units: Mapping[str, tuple[UnitIds, ...]]
) -> bool:
    heads = head_units[member.tensor][member.dim]
    if heads.ndim > 1:
        return bool((heads == KEPT).all())
    met = np.sort(heads[member.positions], axis=1)
    block = member.units // group.size
    return all(
        (met[block == number] == met[block == number][0]).all() for number in np.unique(block)
    )
