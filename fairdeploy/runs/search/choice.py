"""One way to a plan for each kind of budget, and which one a run takes."""

from __future__ import annotations

from dataclasses import dataclass

from fairdeploy.allocation.search import search
from fairdeploy.records import KNOBS, DataSplits, UnitScores
from fairdeploy.runs.problem import Planned, Problem, Search
from fairdeploy.runs.run import Run
from fairdeploy.runs.search.accuracy import SmallestWithinDrop
from fairdeploy.runs.search.latency import ready_to_race
from fairdeploy.runs.search.steps import StepByStep
from fairdeploy.settings.run import ShrinkSettings


def search_for(run: Run[ShrinkSettings], problem: Problem) -> Search:
    """What finds a plan for the budgets of a problem; without any, the smallest within the drop.

    Raises:
        BudgetError: Even the smallest plan takes longer than the budget of latency allows.
    """
    if not problem.budgets:
        return SmallestWithinDrop(run, problem)
    if run.settings.steps > 1:
        return StepByStep(run, problem)
    if problem.latency is not None:
        return ready_to_race(run, problem, problem.latency)
    return CountedSearch(run, problem)


@dataclass(frozen=True, slots=True)
class CountedSearch(Search):
    """Bisects one knob until all counted budgets are met."""

    def plan(self, scores: UnitScores, data: DataSplits) -> Planned:
        """The plan that just meets all budgets."""
        problem, groups = self.problem, self.problem.groups(scores)
        knob = KNOBS[problem.allocation]
        with self.run.watch.stage(f"search {knob}") as stage:
            allocation = search(groups, problem.costs.costs, problem.counted)
            stage.note(f"{knob} {allocation.tolerance:.3f}")
        return Planned(problem, groups, allocation, problem.costs, problem.counted)
