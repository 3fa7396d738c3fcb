"""Find the modules of a shrunk copy that do not compute what they should, and mend each alone.

Modules are looked at from the inside out: when one disagrees although all that it calls agrees,
the fault is in its own forward. First its attributes, then those of modules that it holds, are
searched for values with which it agrees; if there are none, its part of the proved graph takes its
place. The network itself has none: there a factor may be taken back (``find_scaled_part``).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from fairdeploy.graph.call_facts import module_path
from fairdeploy.graph.capture.kept_state import unchanged
from fairdeploy.graph.capture.train_mode import SwitchableGraph
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.surgery.equivalence import relative_error
from fairdeploy.surgery.own_class.attribute_slots import Number, SlotPath, assign, slots
from fairdeploy.surgery.own_class.graph_part import NoPartError, graph_part
from fairdeploy.surgery.own_class.module_calls import (
    ModuleCall,
    NodeValue,
    filled,
    is_plain_layer,
    record_calls,
    run_values,
)
from fairdeploy.surgery.own_class.number_changes import NumberChanges, add_changed_lengths
from fairdeploy.surgery.own_class.own_class_check import missing_parameters

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
    place = Place(
        functools.partial(_part, candidate, graph.module, shrunk),
        functools.partial(_replace, candidate),
    )
    hopeless: set[type[nn.Module]] = set()
    cut = _modules_that_lost_branches(graph, shrunk)
    for call in calls:
        if any(name not in values for name in call.node_names):
            continue  # it went with a residual branch
        own = candidate.get_submodule(call.path)
        check = _Check(call, values, candidate)
        # a weight that the graph holds ready made: its module must hold it too
        is_lacking = _is_within_any(call.path, missing_parameters(candidate, shrunk))
        if check.agrees() and not is_lacking:
            continue
        original, found = module.get_submodule(call.path), changes.get(call.path, NumberChanges())
        trials = 1 if type(own) in hopeless else MAX_TRIALS
        is_cut = call.path in cut  # no attribute can make up for a branch
        if not (is_lacking or is_cut) and _mended(original, own, found, check, trials):
            continue
        if not is_cut:
            hopeless.add(type(own))
        if call.path:
            _take_part(call, place, check.agrees)
        elif check.runs():
            find_scaled_part(callees_of("", calls), found, place, check.agrees)


def _modules_that_lost_branches(graph: UnitGraph, shrunk: fx.GraphModule) -> set[str]:
    """Paths of the modules that issued the sums."""
    left = {node.name: node for node in shrunk.graph.nodes}
    return {
        module_path(left[branch.total])
        for branch in graph.branches
        if branch.value not in left and branch.total in left
    }


def _is_within_any(path: str, names: list[str]) -> bool:
    return any(name.startswith(f"{path}.") for name in names)


@dataclass(frozen=True, slots=True)
class _Check:
    """Compares what the copy has at a call's path with what the proved graph gives there."""

    call: ModuleCall
    values: Mapping[str, Tensor]
    candidate: nn.Module

    def agrees(self) -> bool:
        """Whether the module gives the same."""
        error = self._error()
        return error is not None and error <= LOCAL_LIMIT

    def runs(self) -> bool:
        """Whether it gives anything."""
        return self._error() is not None

    def _error(self) -> float | None:
        args, kwargs = filled(self.call.arguments, self.values)
        try:
            part = self.candidate.get_submodule(self.call.path)
            with torch.no_grad(), unchanged(part):
                result = part(*args, **kwargs)
            return relative_error(result, filled(self.call.result, self.values))
        except Exception:  # user code may fail in any way with other sizes
            return None


def _mended(
    original: nn.Module,
    own: nn.Module,
    changes: NumberChanges,
    check: _Check,
    max_trials: int,
) -> bool:
    """Search the slots of ``own``, then those of what it holds (changes them if they help)."""
    choices = own_choices(original, own, changes)
    if search(choices, check.agrees, max_trials):
        return True
    _assign_rank(choices, 0)
    inner = inner_choices(original, own, changes)
    if inner and search(inner, check.agrees, max_trials):
        return True
    _assign_rank(inner, 0)
    if not check.runs():
        _assign_rank(inner, -1)
    return False


def _assign_rank(choices: Sequence[Choice], rank: int) -> None:
    assign_all(choices, [choice.options[rank] for choice in choices])


def _take_part(call: ModuleCall, place: Place, agrees: Callable[[], bool]) -> None:
    """Let the part of the graph take the module's place, unless the part disagrees too."""
    part = place.make(call)
    if part is not None:
        undo = place.put(call.path, part)
        if not agrees():
            undo()  # then the module around it disagrees too


def _part(
    candidate: nn.Module, original: fx.GraphModule, shrunk: fx.GraphModule, call: ModuleCall
) -> SwitchableGraph | None:
    try:
        return graph_part(candidate, call, original, shrunk)
    except NoPartError:
        return None


def _replace(network: nn.Module, path: str, part: SwitchableGraph) -> Callable[[], None]:
    """Put a part in the place of a module (changes ``network``); returns what undoes it."""
    parent, _, name = path.rpartition(".")
    owner = network.get_submodule(parent)
    old = owner._modules[name]
    owner._modules[name] = part
    return lambda: owner._modules.__setitem__(name, old)


# ---- what the slots of a disagreeing module may become, and the search for what makes it agree ---


MAX_TRIALS = 64


@dataclass(frozen=True, slots=True)
class Choice:
    """One slot of the copy, and what it may become, likeliest first."""

    owner: nn.Module
    path: SlotPath
    options: tuple[Number, ...]


def own_choices(original: nn.Module, own: nn.Module, changes: NumberChanges) -> list[Choice]:
    """The slots of the module itself that may become more than one number."""
    choices = []
    for slot in slots(original):
        options = changes.options(slot.value)
        if len(options) > 1:
            choices.append(Choice(own, slot.path, tuple(options)))
    return choices


def inner_choices(original: nn.Module, own: nn.Module, changes: NumberChanges) -> list[Choice]:
    """Slots of modules within that still hold a number which the module's own calls have changed.

    Code may read a size off a module that it holds, or call another method of it than its forward.
    """
    twins = dict(own.named_modules())
    choices = []
    for name, layer in original.named_modules():
        twin = twins.get(name)
        if not name or twin is None or isinstance(twin, fx.GraphModule) or is_plain_layer(layer):
            continue
        now = {slot.path: slot.value for slot in slots(twin)}
        for slot in slots(layer):
            new = changes.plain(slot.value)
            if new != slot.value and now.get(slot.path) == slot.value:
                choices.append(Choice(twin, slot.path, (new, slot.value)))
    return choices


def search(choices: Sequence[Choice], agrees: Callable[[], bool], max_trials: int) -> bool:
    """Try values for the slots, likely ones first (changes their owners); whether any agrees."""
    for values in _combinations([choice.options for choice in choices], max_trials):
        assign_all(choices, values)
        if agrees():
            return True
    return False


def assign_all(choices: Sequence[Choice], values: Sequence[Number]) -> None:
    """Put one value in each slot (changes their owners)."""
    for choice, value in zip(choices, values, strict=True):
        assign(choice.owner, choice.path, value)


def _combinations(options: list[tuple[Number, ...]], limit: int) -> list[tuple[Number, ...]]:
    """At most ``limit`` choices; those that take few unlikely values come first."""
    places = [range(len(each)) for each in options]
    product = itertools.islice(itertools.product(*places), 50 * MAX_TRIALS)
    ranked = sorted(product, key=lambda ranks: (sum(rank > 0 for rank in ranks), sum(ranks)))
    return [
        tuple(each[rank] for each, rank in zip(options, ranks, strict=True))
        for ranks in ranked[:limit]
    ]


# ---- take back a factor that the user's own code computes from a length --------------------------


EXPONENTS = (0.25, 0.5, 1.0, -0.25, -0.5, -1.0)
"""A length stands alone or under a root, and the value that is scaled is used once or twice."""

MakePart = Callable[[ModuleCall], SwitchableGraph | None]


@dataclass(frozen=True, slots=True)
class Place:
    """How to put a part in the place of a module, and to take it out again."""

    make: MakePart
    put: Callable[[str, SwitchableGraph], Callable[[], None]]
    """Takes the path and the part; returns what undoes it."""


def find_scaled_part(
    callees: Sequence[ModuleCall],
    changes: NumberChanges,
    place: Place,
    agrees: Callable[[], bool],
) -> bool:
    """Let one of the called modules be a part whose result is scaled, if that makes all agree.

    ``corr / sqrt(C)``, with the ``C`` of what it is given, is another number once channels are
    gone. Where no piece of the graph can take that code's place (the network's own forward), a
    module that makes such a value becomes a piece instead, which takes the factor back.

    Args:
        callees: Calls of modules whose results the disagreeing code uses.
        changes: Of the lengths that this code deals with.
    """
    factors = list(_factors(changes))
    num_left = MAX_TRIALS
    for call in callees:
        part = place.make(call) if isinstance(call.result, NodeValue) and factors else None
        if part is None:
            continue
        undo = place.put(call.path, part)
        scale = _scaling(part)
        for factor in factors[:num_left]:
            scale(factor)
            if agrees():
                return True
        num_left -= len(factors)
        undo()
        if num_left <= 0:
            break
    return False


def _factors(changes: NumberChanges) -> Iterator[float]:
    ratios = {
        new / old
        for old, news in (*changes.lengths.items(), *changes.constants.items())
        for new in news
        if isinstance(old, int) and isinstance(new, int) and old > 0 and new > 0
    }
    for ratio in sorted(ratios):
        yield from (ratio**exponent for exponent in EXPONENTS)


def _scaling(part: SwitchableGraph) -> Callable[[float], None]:
    """Multiply the result of ``part`` by a factor, to be given and changed later (changes it)."""
    output = part.graph.output_node()
    (result,) = output.all_input_nodes
    with part.graph.inserting_before(output):
        product = part.graph.call_function(torch.ops.aten.mul.Tensor, (result, 1.0))
    product.meta = dict(result.meta)
    output.replace_input_with(result, product)

    def scale(factor: float) -> None:
        product.args = (result, factor)
        part.recompile()

    return scale


def callees_of(path: str, calls: Iterable[ModuleCall]) -> list[ModuleCall]:
    """Calls of modules in the module at ``path`` that no other recorded module lies between."""
    inside = [call for call in calls if call.path and _is_within(call.path, path)]
    return [
        call
        for call in inside
        if not any(_is_within(call.path, other.path) for other in inside if other.path != call.path)
    ]


def _is_within(inner: str, outer: str) -> bool:
    return inner != outer and (not outer or inner.startswith(f"{outer}."))
