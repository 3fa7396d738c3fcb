"""``--steps N``: prune a bit, repair, score again, prune on; towards the budget in equal ratios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.search import search
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import Allocation, Budget, DataSplits, GroupScores, UnitScores
from fairdeploy.recovery.training.best_weights import copied_state
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.runs.stages.groups import group_sizes, removed_units
from fairdeploy.runs.stages.removal import remove_and_prove
from fairdeploy.runs.stages.repair import mend
from fairdeploy.scoring.unit_scores import score_units
from fairdeploy.settings.run import ShrinkSettings
from fairdeploy.surgery.removal import full_size, remove_units

GroupsOf = Callable[[UnitScores], tuple[GroupScores, ...]]


@dataclass(frozen=True, slots=True)
class Stepped:
    """Where the last step begins: which units go in all, and the tensors repaired so far."""

    allocation: Allocation
    groups: tuple[GroupScores, ...]
    """With the scores of the last step."""
    tensors: dict[str, Tensor]
    """Of the shrunk network before its last repair, by name."""


def prune_in_steps(
    graph: UnitGraph,
    scores: UnitScores,
    groups_of: GroupsOf,
    costs: CostModel,
    budgets: Sequence[Budget],
    data: DataSplits,
    settings: ShrinkSettings,
    watch: Stopwatch,
) -> Stepped:
    """Everything up to the removal of the last step; its repair is the caller's."""
    method = settings.method
    original, num_steps = costs.cost(group_sizes(graph)), settings.steps
    current, gone = graph, np.zeros(graph.num_units, dtype=np.bool_)
    for step in range(1, num_steps + 1):
        with watch.stage(f"step {step} of {num_steps}") as stage:
            groups = groups_of(scores)
            wanted = [_on_the_way(budget, original, step / num_steps) for budget in budgets]
            allocation = search(groups, costs.costs, wanted)
            allocation = _with_those_gone(graph, groups, allocation, gone, costs)
            removed = removed_units(graph, groups, allocation)
            stage.note(", ".join(budget.text for budget in wanted))
        shrunk = remove_units(current, removed).module
        if step == num_steps:
            break
        remove_and_prove(graph, removed, settings.model.seed)
        mend(graph, shrunk, removed, data, settings, watch)
        current, gone = full_size(graph, shrunk, removed), removed
        with watch.stage(f"score units again ({step})", total=len(data.calibration)) as stage:
            found = score_units(
                current, data.calibration, seed=settings.model.seed,
                signal=method.signal, protect=method.protect, progress=stage.advance,
            )  # fmt: skip
        scores = _gone_first(found, gone)
    return Stepped(allocation, groups, copied_state(shrunk))


def _on_the_way(budget: Budget, original: dict[str, float], way: float) -> Budget:
    """What the budget allows after this share of the way; the last step is the budget itself."""
    if way == 1:
        return budget
    share = (budget.allowed(original[budget.metric]) / original[budget.metric]) ** way
    return Budget(budget.metric, f"{budget.metric}={100 * share:.1f}%", fraction=min(share, 1.0))


def _gone_first(scores: UnitScores, gone: NDArray[np.bool_]) -> UnitScores:
    """Units that are gone are the first to go."""
    u, r = scores.u.copy(), scores.r.copy()
    u[gone], r[gone] = scores.u.min() - 1.0, 0.0
    return replace(scores, u=u, r=r)


def _with_those_gone(
    graph: UnitGraph,
    groups: tuple[GroupScores, ...],
    allocation: Allocation,
    gone: NDArray[np.bool_],
    costs: CostModel,
) -> Allocation:
    """The allocation without those units back that earlier steps removed."""
    removed = {}
    for group, scored in zip(graph.groups, groups, strict=True):
        blocks = group.units if scored.places is None else group.units[scored.places[:, 0]]
        before = {int(place) for place in np.flatnonzero(gone[blocks])}
        removed[group.name] = tuple(sorted(before | set(allocation.removed[group.name])))
    kept = np.array([g.size - len(removed[g.name]) for g in graph.groups], dtype=np.int64)
    return replace(allocation, removed=removed, costs=costs.cost(kept))
