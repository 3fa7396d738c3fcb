"""What the slots of a disagreeing module may become, and the search for what makes it agree."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import fx, nn

from fairdeploy.surgery.own_class.attribute_slots import Number, SlotPath, assign, slots
from fairdeploy.surgery.own_class.module_calls import is_plain_layer
from fairdeploy.surgery.own_class.number_changes import NumberChanges

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
