"""Find the modules of a shrunk copy that do not compute what they should, and mend each alone.

Modules are looked at from the inside out: when one disagrees although all that it calls agrees,
the fault is in its own forward. First its attributes are searched for values with which it agrees;
if there are none, its part of the proved graph takes its place.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from fairdeploy.graph.module_paths import module_path
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.surgery.attribute_slots import Number, SlotPath, assign, slots
from fairdeploy.surgery.equivalence import relative_error
from fairdeploy.surgery.graph_part import NoPartError, graph_part
from fairdeploy.surgery.module_calls import ModuleCall, filled, record_calls, run_values
from fairdeploy.surgery.number_changes import NumberChanges, add_changed_lengths

MAX_TRIALS = 64
LOCAL_LIMIT = 1e-4
"""Relative; the whole network is compared more strictly afterwards."""


def repair_modules(
    module: nn.Module,
    candidate: nn.Module,
    graph: UnitGraph,
    shrunk: fx.GraphModule,
    changes: dict[str, NumberChanges],
) -> None:
    """Change attributes of ``candidate``, or replace submodules, until each agrees if it can."""
    inputs = graph.inputs.random(graph.inputs.batch, torch.Generator().manual_seed(1))
    calls = record_calls(module, graph, inputs)
    names = {name for call in calls for name in call.node_names}
    _, before = run_values(graph.module, inputs, ())
    values, after = run_values(shrunk, inputs, names)
    add_changed_lengths(changes, graph, before, after)
    hopeless: set[type[nn.Module]] = set()
    cut = _modules_that_lost_branches(graph, shrunk)
    for call in calls:
        if any(name not in values for name in call.node_names):
            continue  # it went with a residual branch
        agrees = _checker(call, values)
        own = candidate.get_submodule(call.path)
        if agrees(own):
            continue
        found = changes.get(call.path, NumberChanges())
        trials = 1 if type(own) in hopeless else MAX_TRIALS
        is_cut = call.path in cut  # no attribute can make up for a branch
        if not is_cut and _search(module.get_submodule(call.path), own, found, agrees, trials):
            continue
        if not call.path:
            continue
        if not is_cut:
            hopeless.add(type(own))
        try:
            part = graph_part(candidate, call, graph.module, shrunk)
        except NoPartError:
            continue  # then the module around it disagrees too
        if agrees(part):
            _replace(candidate, call.path, part)


def _modules_that_lost_branches(graph: UnitGraph, shrunk: fx.GraphModule) -> set[str]:
    """Paths of the modules that issued the sums."""
    left = {node.name: node for node in shrunk.graph.nodes}
    return {
        module_path(left[branch.total])
        for branch in graph.branches
        if branch.value not in left and branch.total in left
    }


def _checker(call: ModuleCall, values: Mapping[str, Tensor]) -> Callable[[nn.Module], bool]:
    def agrees(layer: nn.Module) -> bool:
        args, kwargs = filled(call.arguments, values)
        try:
            with torch.no_grad():
                result = layer(*args, **kwargs)
            return relative_error(result, filled(call.result, values)) <= LOCAL_LIMIT
        except Exception:  # user code may fail in any way with other sizes
            return False

    return agrees


def _search(
    original: nn.Module,
    own: nn.Module,
    changes: NumberChanges,
    agrees: Callable[[nn.Module], bool],
    max_trials: int,
) -> bool:
    """Try values for the slots of ``own``, likely ones first (changes it); whether one agrees."""
    choices: list[tuple[SlotPath, list[Number]]] = []
    for slot in slots(original):
        options = changes.options(slot.value)
        if len(options) > 1:
            choices.append((slot.path, options))
    first = {path: options[0] for path, options in choices}
    for values in _combinations([options for _, options in choices], max_trials):
        _assign_all(own, dict(zip(first, values, strict=True)))
        if agrees(own):
            return True
    _assign_all(own, first)
    return False


def _combinations(options: list[list[Number]], limit: int) -> list[tuple[Number, ...]]:
    """At most ``limit`` choices; those that take few unlikely values come first."""
    trials: list[tuple[Number, ...]] = []
    places = [range(len(each)) for each in options]
    product = itertools.islice(itertools.product(*places), 50 * MAX_TRIALS)
    ranked = sorted(product, key=lambda ranks: (sum(rank > 0 for rank in ranks), sum(ranks)))
    for ranks in ranked[:limit]:
        trials.append(tuple(each[rank] for each, rank in zip(options, ranks, strict=True)))
    return trials


def _assign_all(module: nn.Module, values: Mapping[SlotPath, Number]) -> None:
    for path, value in values.items():
        assign(module, path, value)


def _replace(network: nn.Module, path: str, part: Any) -> None:
    parent, _, name = path.rpartition(".")
    network.get_submodule(parent)._modules[name] = part
