"""``--max-drop``: the smallest network that stays as accurate, or a gate for the one that was made.

The search bisects the budget. Each network is made, repaired and tested on the selection images,
which nothing else uses; it passes if even the low end of the interval of its accuracy minus the
original's, on the same images, is within the drop. Accuracy falls with the budget on the whole but
not always, and the interval may be wide: a failure closes the smaller networks off only if it is
certain, or if a second network a little smaller fails too. The result is the smallest network
*seen* to pass, and the report says how many images would have decided what they left open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.search import reachable_range, search
from fairdeploy.errors import AccuracyError, DataError
from fairdeploy.records import (
    Allocation,
    Budget,
    DataSplits,
    DropGate,
    DropSearch,
    DropTrial,
    GroupScores,
    MetricName,
    PairedDifference,
    UnitScores,
)
from fairdeploy.runs.problem import Planned, Search
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.runs.stages.evaluation import Evaluation
from fairdeploy.runs.stages.groups import removed_units
from fairdeploy.runs.stages.removal import remove_and_prove
from fairdeploy.runs.stages.repair import repair

MAX_TRIALS = 12
# Of the original's cost: closer is not worth another network.
NARROW = 0.02
# Of the way down to the smallest network: where a doubtful failure is looked at again.
RECHECK_STEP = 1 / 3

TryPlan = Callable[[Allocation], PairedDifference]


@dataclass(frozen=True, slots=True)
class Smallest:
    """The plan of the smallest network that passed, and how it was found."""

    allocation: Allocation
    budget: Budget
    """What the plan meets, for comparison with plans of equal cost."""
    gate: DropGate


@dataclass(frozen=True, slots=True)
class SmallestWithinDrop(Search):
    """Makes and tests networks until the smallest that stays within the drop is known."""

    def plan(self, scores: UnitScores, data: DataSplits) -> Planned:
        """The plan of the smallest network that passed.

        Raises:
            DataError: There are no labelled images to select with.
            AccuracyError: Not one network that was made passes.
        """
        run, problem, groups = self.run, self.problem, self.problem.groups(scores)
        max_drop, metric = run.settings.max_drop, run.settings.smallest
        assert max_drop is not None
        if data.selection is None or data.selection.labels is None:
            raise DataError(
                "--max-drop needs labelled images besides those for calibration and test, and "
                "there are none; give labelled --data, or a --budget"
            )
        with run.watch.stage("smallest network", total=MAX_TRIALS) as stage:
            inner = replace(run, watch=run.watch.inside(stage))
            evaluation = Evaluation(problem.graph, data.selection, inner.watch)
            evaluation.add("original", problem.graph.module)

            def tried(allocation: Allocation) -> PairedDifference:
                removed = removed_units(problem.graph, groups, allocation)
                shrunk = remove_and_prove(problem.graph, removed, run.seed)
                repair(inner, shrunk, data)
                evaluation.add("candidate", shrunk.module)
                stage.advance()
                difference = evaluation.difference("candidate")
                assert difference is not None
                return difference

            original = problem.original_costs[metric]
            found = bisect(groups, problem.costs, metric, max_drop, tried, original=original)
            assert found.gate.search is not None
            stage.note(f"{found.budget.text} of {len(found.gate.search.trials)} networks")
        return Planned(
            problem, groups, found.allocation, problem.costs, (found.budget,), gate=found.gate
        )


def bisect(
    groups: Sequence[GroupScores],
    costs: CostModel,
    metric: MetricName,
    max_drop: float,
    tried: TryPlan,
    *,
    original: float,
) -> Smallest:
    """Halve the range between what fails and what passes; doubtful failures are looked at again.

    Args:
        groups: With their scores and limits.
        costs: Knows ``metric``.
        metric: What shall be smallest.
        max_drop: Share of all images.
        tried: Makes and tests the network of a plan.
        original: Cost of the original.

    Raises:
        AccuracyError: Not one network passes.
    """
    bracket = _Bracket(reachable_range(groups, costs.costs)[metric][0] / original)
    trials: list[DropTrial] = []
    plans: list[Allocation] = []
    while len(trials) < MAX_TRIALS and bracket.high - bracket.low > NARROW:
        budget = _budget(metric, bracket.share)
        allocation = search(groups, costs.costs, [budget])
        cost = allocation.costs[metric]
        difference = tried(allocation)
        is_within = difference.stays_within(max_drop)
        trials.append(DropTrial(budget.text, cost, cost / original, difference, is_within))
        plans.append(allocation)
        bracket.learn(trials[-1], is_certain=difference.surely_exceeds(max_drop))
    passed = [index for index, trial in enumerate(trials) if trial.is_within]
    if not passed:
        raise AccuracyError(_none_passed(trials, metric, max_drop))
    chosen = min(passed, key=lambda index: trials[index].cost)
    best = trials[chosen]
    gate = DropGate(
        max_drop, "selection", best.difference, DropSearch(metric, tuple(trials), chosen)
    )
    return Smallest(plans[chosen], _budget(metric, best.share), gate)


class _Bracket:
    """Shares of the original's cost: what fails, what passes, and where to look next."""

    def __init__(self, smallest: float) -> None:
        self.low, self.high = smallest, 1.0
        self.share = (self.low + self.high) / 2
        self._doubtful: float | None = None

    def learn(self, trial: DropTrial, *, is_certain: bool) -> None:
        """Narrow the range by a trial at ``share``; ``is_certain`` is of its failure."""
        if trial.is_within:
            self.high, self._doubtful = min(self.high, trial.share), None
        elif self._doubtful is None and not is_certain and self.share - self.low > NARROW:
            self._doubtful = self.share
        else:
            self.low, self._doubtful = max(self.low, self._doubtful or self.share), None
        if self._doubtful is None:
            self.share = (self.low + self.high) / 2
        else:
            self.share -= RECHECK_STEP * (self.share - self.low)


def final_gate(
    max_drop: float | None, found: DropGate | None, evaluation: Evaluation, watch: Stopwatch
) -> DropGate | None:
    """What the report says about ``--max-drop``: the search's result, else that of the test."""
    difference = evaluation.final_difference()
    if max_drop is None or difference is None:
        return found
    if found is None:
        return DropGate(max_drop, "test", difference)
    if -difference.value > max_drop:
        watch.warn(
            f"on the {difference.num_images:,} test images the accuracy fell by "
            f"{-100 * difference.value:.2f} points, more than the {100 * max_drop:g} that it was "
            "within on the selection images; give more labelled images for a safer choice"
        )
    return found


def _budget(metric: MetricName, share: float) -> Budget:
    return Budget(metric, f"{metric}={100 * share:.2f}%", fraction=share)


def _none_passed(trials: Sequence[DropTrial], metric: MetricName, max_drop: float) -> str:
    if not trials:
        return f"nothing can be removed that would lower the {metric}; see 'fairdeploy inspect'"
    best = max(trials, key=lambda trial: trial.difference.low)
    difference = best.difference
    needed = difference.images_needed(max_drop)
    how_many = f" (about {needed:,} would tell)" if needed else ""
    return (
        f"no network of {len(trials)} stays within --max-drop {max_drop:.3g}: the best, with "
        f"{best.share:.1%} of the {metric}, changes the accuracy by {100 * difference.value:+.2f} "
        f"points ({100 * difference.low:+.2f} to {100 * difference.high:+.2f} on "
        f"{difference.num_images:,} selection images); allow more, add --recover distil or "
        f"--finetune, or give more labelled images for a narrower interval{how_many}"
    )
