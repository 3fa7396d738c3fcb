"""``--steps N``: prune a bit, repair, score again, prune on; towards the budget in equal ratios."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fairdeploy.allocation.search import search
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import Allocation, Budget, DataSplits, GroupScores, UnitScores
from fairdeploy.recovery.training.best_weights import copied_state
from fairdeploy.runs.problem import Planned, Problem, Search
from fairdeploy.runs.stages.removal import remove_and_prove
from fairdeploy.runs.stages.repair import repair
from fairdeploy.scoring.unit_scores import score_units
from fairdeploy.surgery.removal import full_size, remove_units


@dataclass(frozen=True, slots=True)
class StepByStep(Search):
    """Goes towards the budgets in equal ratios; the repair of the last step is the caller's."""

    def plan(self, scores: UnitScores, data: DataSplits) -> Planned:
        """Which units go in all, and the tensors repaired up to the last step."""
        problem, num_steps = self.problem, self.run.settings.steps
        current = graph = problem.graph
        gone = np.zeros(graph.num_units, dtype=np.bool_)
        for step in range(1, num_steps + 1):
            with self.run.watch.stage(f"step {step} of {num_steps}") as stage:
                wanted = self._budgets_at(step / num_steps)
                planned = self._planned(problem.groups(scores), wanted, gone)
                stage.note(", ".join(budget.text for budget in wanted))
            module = remove_units(current, planned.removed).module
            if step == num_steps:
                break
            shrunk = remove_and_prove(graph, planned.removed, self.run.seed)
            repair(self.run, replace(shrunk, module=module), data)
            current, gone = full_size(graph, module, planned.removed), planned.removed
            scores = _gone_first(self._scored_again(current, data, step), gone)
        return replace(planned, budgets=problem.counted, tensors=copied_state(module))

    def _budgets_at(self, way: float) -> tuple[Budget, ...]:
        """What the budgets allow after this share of the way; at its end they are themselves."""
        original = self.problem.original_costs
        return tuple(_partly(budget, original, way) for budget in self.problem.counted)

    def _planned(
        self, groups: tuple[GroupScores, ...], budgets: tuple[Budget, ...], gone: NDArray[np.bool_]
    ) -> Planned:
        """A plan for these budgets that brings no unit back."""
        problem = self.problem
        found = search(groups, problem.costs.costs, budgets)
        allocation = _keep_gone(problem, groups, found, gone)
        return Planned(problem, groups, allocation, problem.costs, budgets)

    def _scored_again(self, graph: UnitGraph, data: DataSplits, step: int) -> UnitScores:
        method, watch = self.run.settings.method, self.run.watch
        with watch.stage(f"score units again ({step})", total=len(data.calibration)) as stage:
            return score_units(
                graph, data.calibration, seed=self.run.seed,
                signal=method.signal, protect=method.protect, progress=stage.advance,
            )  # fmt: skip


def _partly(budget: Budget, original: dict[str, float], way: float) -> Budget:
    if way == 1:
        return budget
    share = (budget.allowed(original[budget.metric]) / original[budget.metric]) ** way
    return Budget(budget.metric, f"{budget.metric}={100 * share:.1f}%", fraction=min(share, 1.0))


def _gone_first(scores: UnitScores, gone: NDArray[np.bool_]) -> UnitScores:
    """Units that are gone are the first to go."""
    u, r = scores.u.copy(), scores.r.copy()
    u[gone], r[gone] = scores.u.min() - 1.0, 0.0
    return replace(scores, u=u, r=r)


def _keep_gone(
    problem: Problem,
    groups: tuple[GroupScores, ...],
    allocation: Allocation,
    gone: NDArray[np.bool_],
) -> Allocation:
    """The allocation without those units back that earlier steps removed."""
    removed = {}
    for group, scored in zip(problem.graph.groups, groups, strict=True):
        blocks = group.units if scored.places is None else group.units[scored.places[:, 0]]
        before = {int(place) for place in np.flatnonzero(gone[blocks])}
        removed[group.name] = tuple(sorted(before | set(allocation.removed[group.name])))
    counts = [group.size - len(removed[group.name]) for group in problem.graph.groups]
    kept = np.array(counts, dtype=np.int64)
    return replace(allocation, removed=removed, costs=problem.costs.cost(kept))
