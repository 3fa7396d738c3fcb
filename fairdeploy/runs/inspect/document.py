"""The document of ``fairdeploy inspect``: costs, modules, groups, what stays, and the proof."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.multiples import smallest_kept
from fairdeploy.allocation.restriction_outcomes import restriction_outcomes
from fairdeploy.allocation.restrictions import GroupLimit, Rule, channels_per_unit, rules_of
from fairdeploy.files import cache_folder
from fairdeploy.graph.call_facts import fetch_tensor
from fairdeploy.graph.unit_graph import KEPT, Group, UnitGraph, UnitIds
from fairdeploy.graph.walk.label_grids import length_of, rows_of
from fairdeploy.records import LoadedModel
from fairdeploy.runs.inspect.random_proof import prove_random_removal
from fairdeploy.runs.inspect.standing_rows import Standing, standing_rows, unknown_op_rows
from fairdeploy.runs.progress import Progress, Stopwatch
from fairdeploy.runs.stages.groups import group_sizes, limits_of
from fairdeploy.runs.stages.loading import capture_network, load_network
from fairdeploy.runs.stages.multiples import known_multiple, multiple_row
from fairdeploy.runs.stages.removal import check_answers
from fairdeploy.settings.options import InspectOptions
from fairdeploy.settings.run import asked_of, resolve_model, resolve_restrictions
from fairdeploy.settings.target_profiles import load_profile
from fairdeploy.surgery.removal import StayingIndices

SCHEMA_VERSION = 1


def inspect(options: InspectOptions, progress: Progress | None = None) -> dict[str, Any]:
    """Load a network and describe what can be removed from it within the restrictions.

    Returns:
        A dictionary for ``--json``: ``schema_version``, ``model``, ``cost`` (original, smallest
        allowed and removable share by metric), ``modules``, ``groups``, ``blocks`` (where they may
        go as a whole),
        ``stays`` (reasons, most parameters first), ``unknown_ops``, ``restrictions``,
        ``channel_multiple`` (what counts were taken to be multiples of), and ``proof`` (None unless
        asked for).

    Raises:
        FairdeployError: The network can't be loaded or traced, or an option fits nothing in it.
    """
    asked = asked_of(options)
    settings = resolve_model(asked)
    restrictions = resolve_restrictions(asked)
    profile = load_profile(asked.target)
    watch = Stopwatch(progress)
    model = load_network(settings, watch)
    graph = capture_network(model, settings, watch)
    rules = rules_of(graph, restrictions)
    channels = known_multiple(profile, restrictions.round_to, cache_folder())
    limits = limits_of(graph, channels.number, rules)
    document = inspection_document(model, graph, rules, limits)
    document["channel_multiple"] = multiple_row(channels)
    if options.prove:
        check_answers(model, graph, settings.seed, watch)
        document["proof"] = prove_random_removal(model, graph, limits, settings.seed, watch)
    return document


def inspection_document(
    model: LoadedModel, graph: UnitGraph, rules: Sequence[Rule], limits: Sequence[GroupLimit]
) -> dict[str, Any]:
    """The document for a network that is captured already; ``proof`` is None."""
    costs = CostModel(graph.cost_terms, len(graph.groups))
    sizes = group_sizes(graph)
    least = smallest_kept(
        sizes,
        np.array([limit.max_removed for limit in limits], dtype=np.int64),
        np.array([limit.step for limit in limits], dtype=np.int64),
    )
    original, smallest = costs.cost(sizes), costs.cost(least)
    stays = standing_rows(graph, rules)
    removed = {
        group.name: int(size - kept)
        for group, size, kept in zip(graph.groups, sizes, least, strict=True)
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "model": {
            "name": model.name,
            "source": model.source,
            "input_shape": list(model.preprocessing.shape),
            "inputs": [str(spec) for spec in graph.inputs.specs],
            "outputs": list(graph.outputs.names),
            "fixed_batch": None if graph.has_dynamic_batch else graph.inputs.batch,
            "dynamic_batch": graph.has_dynamic_batch,
        },
        "cost": {
            metric: {
                "original": original[metric],
                "smallest": smallest[metric],
                "removable_share": removable_share(original[metric], smallest[metric]),
            }
            for metric in original
        },
        "units": graph.num_units - len(graph.branches),
        "modules": module_rows(model, graph, least, stays),
        "groups": [
            _group_row(group, costs, sizes, least, index)
            for index, group in enumerate(graph.groups)
            if not group.is_branch
        ],
        "blocks": [
            {"module": branch.name, "may_go": limits[branch.group].max_removed > 0}
            for branch in graph.branches
        ],
        "stays": [row.document() for row in stays],
        "unknown_ops": unknown_op_rows(graph),
        "restrictions": [
            asdict(outcome) for outcome in restriction_outcomes(graph, rules, limits, removed)
        ],
        "proof": None,
    }


def removable_share(original: float, smallest: float) -> float:
    """How much of the original could go at most."""
    return 1.0 - smallest / original if original else 0.0


def _group_row(
    group: Group, costs: CostModel, sizes: NDArray[np.int64], least: NDArray[np.int64], index: int
) -> dict[str, Any]:
    """A group, and what it would save alone if it shrank as far as it may."""
    alone = sizes.copy()
    alone[index] = least[index]
    saved = costs.cost(sizes)["params"] - costs.cost(alone)["params"]
    return {
        "name": group.name,
        "units": group.size,
        "blocks": group.num_blocks,
        "smallest": int(least[index]),
        "channels_per_unit": channels_per_unit(group),
        "removable_params": saved,
        "members": [
            {"tensor": member.tensor, "dim": member.dim, "role": member.role,
             "indices_per_unit": int(member.positions.shape[1]),
             "units": len(member.units)}
            for member in group.members
        ],
    }  # fmt: skip


# ---- one row for each module of the user's network: how much of it can go, and what holds the res


def module_rows(
    model: LoadedModel, graph: UnitGraph, least: NDArray[np.int64], stays: Sequence[Standing]
) -> list[dict[str, Any]]:
    """Every module with parameters, and every one around it, in the order of the user's module.

    Args:
        model: Gives the order.
        graph: Its units.
        least: Fewest units that each group may keep, shape [G].
        stays: Reasons, which the rows name by their index.

    Returns:
        Rows with ``module`` (empty for the whole network), ``params``, ``removable_params`` (in the
        smallest allowed plan), ``frozen_params`` (what no unit is part of) and ``stays`` (indices
        of reasons that keep outputs of layers in it).
    """
    removed = np.zeros(graph.num_units, dtype=np.bool_)
    for group, kept in zip(graph.groups, least.tolist(), strict=True):
        removed[group.blocks[:, kept:]] = True
    gone = {name for branch in graph.branches_gone(removed) for name in branch.tensors}
    staying = StayingIndices(graph, removed)
    rows: dict[str, dict[str, Any]] = {}
    for name in _parameters_in_order(model.module, graph):
        dims = graph.tensor_units[name]
        params = math.prod(length_of(units, dim) for dim, units in enumerate(dims))
        kept = math.prod(staying.count(units, dim) for dim, units in enumerate(dims))
        kept = 0 if name in gone else kept
        frozen = math.prod(_num_frozen(units, dim) for dim, units in enumerate(dims))
        reasons = {index for index, reason in enumerate(stays) if name in reason.tensors}
        for path in _modules_around(name):
            row = rows.setdefault(
                path,
                {"module": path, "params": 0, "removable_params": 0, "frozen_params": 0,
                 "stays": set()},
            )  # fmt: skip
            row["params"] += params
            row["removable_params"] += params - kept
            row["frozen_params"] += frozen
            row["stays"] |= reasons
    return [row | {"stays": sorted(row["stays"])} for row in rows.values()]


def _num_frozen(units: UnitIds, dim: int) -> int:
    """Indices of a dimension that no unit owns."""
    return int((rows_of(units, dim)[0] == KEPT).sum())


def _parameters_in_order(module: nn.Module, graph: UnitGraph) -> list[str]:
    """Parameters that the graph uses, each tensor once, modules kept together."""
    order = {
        name: place
        for place, (name, _) in enumerate(module.named_parameters(remove_duplicate=False))
    }
    seen: set[int] = set()
    result = []
    parameters = dict(graph.module.named_parameters(remove_duplicate=False))
    for name in sorted(graph.tensor_units, key=lambda name: order.get(name, len(order))):
        tensor = fetch_tensor(graph.module, name)
        if name in parameters and id(tensor) not in seen:
            seen.add(id(tensor))
            result.append(name)
    return result


def _modules_around(tensor: str) -> list[str]:
    """Paths from the whole network, which is empty, down to the module that owns the tensor."""
    parts = tensor.split(".")[:-1]
    return [".".join(parts[:end]) for end in range(len(parts) + 1)]
