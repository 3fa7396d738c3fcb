"""Take back a factor that the user's own code computes from a length.

``corr / sqrt(C)``, with the ``C`` of what it is given, is another number once channels are gone.
Where no piece of the graph can take that code's place (the network's own forward), a module that
makes such a value becomes a piece instead, one that gives it scaled so that the factor is taken
back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from fairdeploy.graph.capture.train_mode import SwitchableGraph
from fairdeploy.surgery.own_class.module_calls import ModuleCall, NodeValue
from fairdeploy.surgery.own_class.number_changes import NumberChanges

EXPONENTS = (0.25, 0.5, 1.0, -0.25, -0.5, -1.0)
"""A length stands alone or under a root, and the value that is scaled is used once or twice."""
MAX_TRIALS = 64

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
