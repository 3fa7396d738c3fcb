"""Why a network is not as fast as its MACs promise, in plain words.

If time followed MACs, every operator would take its old time divided by P, the MACs of the original
over those of the shrunk network. What it takes above that is *lost*; the losses of all operators
sum to exactly what the network is slower than promised. Each operator that loses time gets the
first cause that holds:

1. ``reformatting``: the runtime itself put it there, to reorder memory or to cast.
2. ``launch-bound``: it takes less than 10 µs. In ONNX Runtime's profile operators that do nothing
   (``Shape``, ``Squeeze``) show 4 to 10 µs, so there is nothing left to save.
3. ``memory-bound``: it multiplies nothing (norms, activations, sums, pooling, softmax, moves). Its
   time follows the numbers that it reads and writes, and these fall with the width, while the MACs
   between two shrunk layers fall with its square.
4. ``misaligned``: the channels that it reads or makes changed to a number that is no multiple of
   what the target likes, and its time fell by less than 0.9 times as much as its own MACs.
5. ``frozen``: it has at least 98 % of its MACs, and no unit in it may go: an operation holds its
   widths, or an option of the user.
6. ``depthwise``: one kernel a channel; its MACs fall with the width only, and a 3x3 kernel has but
   4.5 of them for each number read or written.
7. ``kept``: its own MACs fell by less than 0.9 P: it could shrink further, but the plan spent the
   budget there.
8. ``memory-bound`` again: fewer than 16 MACs for each number (4 per byte) read or written, weights
   included. A core with AVX-512 does 50 to 100 G MACs a second and reads 10 to 20 GB from memory.
9. ``unexplained``: its MACs fell as promised, its time did not.

On a GPU, ONNX Runtime's profile tells how long the host takes to start an operator, not how long it
runs there (onnxruntime issue 7390). Then whatever is not as fast as promised is ``launch-bound``.

What is within a tenth of its share (MACs fell by 0.9 P or more, time by 0.9 times its MACs) has no
cause.

These are rules of thumb about causes; the times are measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fairdeploy.graph.layer_facts import LayerFacts
from fairdeploy.records import Cause, Obstacle, OperatorRow

LAUNCH_MS = 0.010
UNCHANGED_MACS = 0.98
NEARLY = 0.9
LOW_INTENSITY = 16.0
"""MACs per number read or written."""

MIN_LOST_SHARE = 0.01
"""Obstacles that lose less of the shrunk network's time are not worth a line."""
MAX_OBSTACLES = 8
_MAX_MODULES = 3


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the target likes, and what the user keeps."""

    channel_multiple: int = 1
    held: Mapping[int, str] = field(default_factory=dict)
    """By index of a group that stays whole: the option that says so."""
    knows_starts_only: bool = False
    """The profile tells when operators are started, and they run elsewhere meanwhile."""


def cause_of(
    row: OperatorRow, facts: LayerFacts | None, promised: float, conditions: Conditions
) -> tuple[Cause | None, str]:
    """The first cause that holds, and the numbers behind it; None if it is about as promised.

    Args:
        row: With its times.
        facts: None for what the runtime added.
        promised: MACs of the whole original over those of the shrunk network.
        conditions: See there.
    """
    if facts is None:
        return "reformatting", "the runtime moves values into the layout that the next one wants"
    if conditions.knows_starts_only:
        return "launch-bound", "this is how long the host takes to start it; the GPU runs it later"
    if row.shrunk_ms < LAUNCH_MS * row.num_runs:
        return "launch-bound", f"less than {1000 * LAUNCH_MS:.0f} µs each, most of it to start it"
    if not facts.macs[0]:
        return "memory-bound", _moved(facts)
    return _cause_of_product(row, facts, promised, conditions)


def _cause_of_product(
    row: OperatorRow, facts: LayerFacts, promised: float, conditions: Conditions
) -> tuple[Cause | None, str]:
    """Of a convolution, linear layer or matrix product."""
    before, after = facts.macs
    fall = before / after if after else promised
    speedup = row.original_ms / row.shrunk_ms
    multiple = conditions.channel_multiple
    odd = [new for old, new in (facts.inputs, facts.channels) if new != old and new % multiple]
    if odd and speedup < NEARLY * fall:
        counts = " and ".join(map(str, dict.fromkeys(odd)))
        return "misaligned", f"{counts} channels, no multiple of {multiple}"
    is_whole = after >= UNCHANGED_MACS * before
    free = [group for group in facts.groups if group not in conditions.held]
    if is_whole and not free:
        return "frozen", _why_frozen(facts, conditions.held)
    intensity = after / facts.elements[1] if facts.elements[1] else 0.0
    if facts.is_depthwise and facts.channels[0] != facts.channels[1]:
        return "depthwise", "one kernel a channel: MACs fall with the width, not with its square"
    if is_whole or fall < NEARLY * promised:
        left = "all" if is_whole else f"{after / before:.0%}"
        return "kept", f"the plan left {left} of the MACs here"
    if speedup >= NEARLY * fall:
        return None, ""
    if intensity < LOW_INTENSITY:
        return "memory-bound", f"only {intensity:.2g} MACs for each number read or written"
    return "unexplained", f"its MACs fell {fall:.2g} times, its time {speedup:.2g} times"


def _moved(facts: LayerFacts) -> str:
    left = facts.elements[1] / facts.elements[0] if facts.elements[0] else 1.0
    return f"multiplies nothing, and reads and writes {left:.0%} of what it did"


def _why_frozen(facts: LayerFacts, held: Mapping[int, str]) -> str:
    options = dict.fromkeys(held[group] for group in facts.groups)
    if options:
        return f"kept whole by {' and '.join(options)}"
    return facts.frozen_reason or "tied to inputs, outputs or operators that need all of it"


def obstacles_of(rows: Sequence[OperatorRow], shrunk_ms: float) -> tuple[Obstacle, ...]:
    """Rows with one cause and operator as one obstacle; the one that loses most first.

    Args:
        rows: With their causes.
        shrunk_ms: Time of the whole shrunk network, by the same profiler.
    """
    alike: dict[tuple[Cause, str], list[OperatorRow]] = defaultdict(list)
    for row in rows:
        if row.cause is not None:
            alike[row.cause, row.op].append(row)
    found = [_obstacle(*kind, own, shrunk_ms) for kind, own in alike.items()]
    found.sort(key=lambda obstacle: -obstacle.lost_ms)
    return tuple(item for item in found if item.lost_ms >= MIN_LOST_SHARE * shrunk_ms)[
        :MAX_OBSTACLES
    ]


def _obstacle(cause: Cause, op: str, rows: Sequence[OperatorRow], shrunk_ms: float) -> Obstacle:
    rows = sorted(rows, key=lambda row: -row.lost_ms)
    original, shrunk, lost = (
        sum(getattr(row, name) for row in rows) for name in ("original_ms", "shrunk_ms", "lost_ms")
    )
    modules = tuple(dict.fromkeys(row.module for row in rows))
    details = list(dict.fromkeys(row.detail for row in rows))
    where = f"; in {_names(modules[:1])}" if len(details) > 1 else ""
    text = (
        f"{op} in {_names(modules)}: {shrunk:.3g} of {shrunk_ms:.3g} ms "
        f"({shrunk / shrunk_ms:.0%}), before {original:.3g} ms; {cause}{where}: {details[0]}"
    )
    return Obstacle(cause, op, modules, original, shrunk, lost, text)


def _names(modules: Sequence[str]) -> str:
    """``a, b, c and 2 more``."""
    shown = ", ".join(module or "the network itself" for module in modules[:_MAX_MODULES])
    more = len(modules) - _MAX_MODULES
    return f"{shown} and {more} more" if more > 0 else shown
