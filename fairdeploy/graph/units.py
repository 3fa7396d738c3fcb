"""From a network to its unit graph: ``build_unit_graph`` is the way in.

Units are labels with one root that own part of some parameter; see ``groups`` for how they are
grouped. Attention can shrink by whole heads and by channels within heads, and an index can then
belong to two units. So for both the graph is walked twice, and the channels that the second walk
finds are laid over the units of the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, fx, nn

from fairdeploy.graph.capture.capture import CapturedGraph, capture
from fairdeploy.graph.capture.model_inputs import ModelInputs
from fairdeploy.graph.cost_terms import build_cost_terms
from fairdeploy.graph.residual_branches import branch_groups
from fairdeploy.graph.unit_graph import (
    KEPT,
    Branch,
    Group,
    Member,
    UnitGraph,
    UnitIds,
)
from fairdeploy.graph.walk.freezes import collect_freezes, frozen_groups
from fairdeploy.graph.walk.groups import Labelled, label, number_groups, unique_name
from fairdeploy.graph.walk.label_grids import as_grid
from fairdeploy.graph.walk.labels import Labels
from fairdeploy.graph.walk.propagation import Propagation
from fairdeploy.records.method import AttentionOption

DimUnits = Mapping[str, tuple[UnitIds, ...]]


@dataclass(frozen=True, slots=True)
class _Layer:
    """Units of one walk."""

    groups: tuple[Group, ...]
    tensor_units: DimUnits
    value_units: DimUnits


def build_unit_graph(
    module: nn.Module,
    example_inputs: tuple[Tensor, ...] | ModelInputs,
    main_output: str | None = None,
    *,
    attention: AttentionOption = "heads",
    allow_norm_coupled: bool = False,
    blocks: bool = False,
) -> UnitGraph:
    """Capture ``module`` and find out what can be removed from it.

    Args:
        module: In eval mode; not changed, and its tensors are shared.
        example_inputs: One batch of ``EXAMPLE_BATCH`` images, or of what else it takes, per input.
        main_output: Name of the output to score; None: the first of floating point.
        attention: What goes from attention: whole heads, channels within heads, both or nothing.
        allow_norm_coupled: Let channels go that a layer norm takes its statistics over.
        blocks: Let residual branches go as a whole.

    Raises:
        ModelError: The model does not run on these inputs, or ``torch.export`` cannot trace it.
        UsageError: There is no such output.
    """
    captured = capture(module, example_inputs, main_output)
    return unit_graph_from_capture(
        captured, attention=attention, allow_norm_coupled=allow_norm_coupled, blocks=blocks
    )


def unit_graph_from_capture(
    captured: CapturedGraph,
    *,
    attention: AttentionOption = "heads",
    allow_norm_coupled: bool = False,
    blocks: bool = False,
) -> UnitGraph:
    """Label a captured graph and collect units, groups and costs."""
    names: dict[str, int] = {}
    units = "heads" if attention == "both" else attention
    labelled = label(captured, units, allow_norm_coupled=allow_norm_coupled)
    layer = _layer(labelled, 0, names)
    pairs: dict[tuple[int, int], int] = {}
    if attention == "both":
        above = _num_units(layer.groups)
        inner = label(captured, "channels", allow_norm_coupled=allow_norm_coupled)
        channels = _layer(inner, above, {})
        layer = _laid_over(layer, channels, inner, names, pairs)
    branches: tuple[Branch, ...] = ()
    if blocks:
        layer, branches = _with_branches(captured.module, layer)
    walk = labelled.walk
    graph = UnitGraph(
        module=captured.module,
        groups=layer.groups,
        frozen_groups=frozen_groups(walk, labelled.entries),
        freezes=collect_freezes(walk),
        num_units=_num_units(layer.groups),
        pairs=np.array(list(pairs), dtype=np.int64).reshape(-1, 2),
        tensor_units=layer.tensor_units,
        value_units=layer.value_units,
        contractions=tuple(walk.contractions),
        cost_terms={},
        attention=attention,
        allow_norm_coupled=allow_norm_coupled,
        coupled_norms=tuple(walk.coupled_norms),
        has_dynamic_batch=captured.has_dynamic_batch,
        inputs=captured.inputs,
        outputs=captured.outputs,
        branches=branches,
    )
    return replace(graph, cost_terms=build_cost_terms(graph))


def _num_units(groups: tuple[Group, ...]) -> int:
    return sum(group.blocks.size for group in groups)


def _layer(labelled: Labelled, first_unit: int, names: dict[str, int]) -> _Layer:
    walk = labelled.walk
    groups, number_of_root = number_groups(labelled, first_unit, names)

    def numbers(dims: tuple[Labels, ...]) -> tuple[UnitIds, ...]:
        return tuple(
            number_of_root[walk.store.find(labels.reshape(-1))].reshape(labels.shape)
            for labels in dims
        )

    return _Layer(
        groups=groups,
        tensor_units={name: numbers(dims) for name, dims in walk.tensor_dims.items()},
        value_units={
            node.name: numbers(value)
            for node, value in walk.values.items()
            if isinstance(value, tuple)
        },
    )


def _with_branches(module: fx.GraphModule, layer: _Layer) -> tuple[_Layer, tuple[Branch, ...]]:
    """The layer with a group for each residual branch; numbers of pairs move up."""
    first = _num_units(layer.groups)
    branches, groups = branch_groups(module, first, len(layer.groups))

    def moved(dims: tuple[UnitIds, ...]) -> tuple[UnitIds, ...]:
        return tuple(np.where(units >= first, units + len(branches), units) for units in dims)

    layer = _Layer(
        (*layer.groups, *groups),
        {name: moved(dims) for name, dims in layer.tensor_units.items()},
        {name: moved(dims) for name, dims in layer.value_units.items()},
    )
    return layer, branches


def _laid_over(
    heads: _Layer,
    channels: _Layer,
    labelled: Labelled,
    names: dict[str, int],
    pairs: dict[tuple[int, int], int],
) -> _Layer:
    """Units of ``heads`` and, over them, those of ``channels`` that lie within attention heads.

    Fills ``pairs`` with the pairs of units that share an index, and their rows.
    """
    chosen = layable_groups(labelled.walk, channels.groups, channels.tensor_units,
                            heads.tensor_units)  # fmt: skip
    first = _num_units(heads.groups)
    number_of = np.full(first + _num_units(channels.groups) + 1, KEPT, dtype=np.int64)
    groups = list(heads.groups)
    for group in chosen:
        blocks = first + np.arange(group.blocks.size, dtype=np.int64).reshape(group.blocks.shape)
        number_of[group.units] = blocks.reshape(-1)
        first += blocks.size
        base = f"{group.name.partition('#')[0]} (channels)"
        groups.append(replace(group, name=unique_name(base, names), blocks=blocks))
    num_units = first

    def joined(ours: tuple[UnitIds, ...], theirs: tuple[UnitIds, ...]) -> tuple[UnitIds, ...]:
        return tuple(
            _joined(own, number_of[other], dim, len(ours), num_units, pairs)
            for dim, (own, other) in enumerate(zip(ours, theirs, strict=True))
        )

    return _Layer(
        groups=tuple(groups),
        tensor_units={
            name: joined(dims, channels.tensor_units[name])
            for name, dims in heads.tensor_units.items()
        },
        value_units={
            name: joined(dims, channels.value_units[name])
            for name, dims in heads.value_units.items()
        },
    )


def _joined(
    first: UnitIds, second: UnitIds, dim: int, rank: int, num_units: int,
    pairs: dict[tuple[int, int], int],
) -> UnitIds:  # fmt: skip
    """One number for each index: of its unit, or of the pair of its two units."""
    if (second == KEPT).all():
        return first
    if (first == KEPT).all():
        return second
    if first.ndim != second.ndim:
        first, second = as_grid(first, dim, rank), as_grid(second, dim, rank)
    first, second = np.broadcast_arrays(first, second)
    result = np.where(first == KEPT, second, first)
    both = (first != KEPT) & (second != KEPT)
    for place in zip(*np.nonzero(both), strict=True):
        pair = (int(first[place]), int(second[place]))
        result[place] = num_units + pairs.setdefault(pair, len(pairs))
    return result


# ---- which groups of channels within attention heads can go beside whole heads -------------------


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
