"""``--max-drop``: the smallest network that stays as accurate, or a gate for the one that was made.

The search bisects the budget. Each network is made, repaired and tested on the selection images,
which nothing else uses; it passes if even the low end of the interval of its accuracy minus the
original's, on the same images, is within the drop. Accuracy falls with the budget on the whole but
not always, and the interval may be wide: a failure closes the smaller networks off only if it is
certain, or if a second network a little smaller fails too. The result is the smallest network
*seen* to pass, and the report says how many images would have decided what they left open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.search import reachable_range, search
from fairdeploy.errors import AccuracyError, DataError
from fairdeploy.graph.unit_graph import UnitGraph
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
)
from fairdeploy.runs.progress import SilentStage, Stage, Stopwatch
from fairdeploy.runs.stages.evaluation import Evaluation
from fairdeploy.runs.stages.groups import group_sizes, removed_units
from fairdeploy.runs.stages.removal import remove_and_prove
from fairdeploy.runs.stages.repair import mend
from fairdeploy.settings.run import ShrinkSettings

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


def find_smallest(
    graph: UnitGraph,
    groups: tuple[GroupScores, ...],
    costs: CostModel,
    data: DataSplits,
    settings: ShrinkSettings,
    watch: Stopwatch,
) -> Smallest:
    """Make and test networks until the smallest that stays within the drop is known.

    Raises:
        DataError: There are no labelled images to select with.
        AccuracyError: Not one network that was made passes.
    """
    assert settings.max_drop is not None
    selection = data.selection
    if selection is None or selection.labels is None:
        raise DataError(
            "--max-drop needs labelled images besides those for calibration and test, and there "
            "are none; give labelled --data, or a --budget"
        )
    with watch.stage("smallest network", total=MAX_TRIALS) as stage:
        steps = Stopwatch(_Within(stage, watch))
        evaluation = Evaluation(graph, selection, steps)
        evaluation.add("original", graph.module)

        def tried(allocation: Allocation) -> PairedDifference:
            removed = removed_units(graph, groups, allocation)
            shrunk, _ = remove_and_prove(graph, removed, settings.model.seed)
            mend(graph, shrunk, removed, data, settings, steps)
            evaluation.add("candidate", shrunk)
            stage.advance()
            difference = evaluation.difference("candidate")
            assert difference is not None
            return difference

        found = bisect(
            groups, costs, settings.smallest, settings.max_drop, tried,
            original=costs.cost(group_sizes(graph))[settings.smallest],
        )  # fmt: skip
        stage.note(_in_short(found))
    return found


def bisect(
    groups: Sequence[GroupScores],
    costs: CostModel,
    metric: MetricName,
    max_drop: float,
    tried: TryPlan,
    *,
    original: float,
    max_trials: int = MAX_TRIALS,
) -> Smallest:
    """Halve the range between what fails and what passes; doubtful failures are looked at again.

    Args:
        groups: With their scores and limits.
        costs: Knows ``metric``.
        metric: What shall be smallest.
        max_drop: Share of all images.
        tried: Makes and tests the network of a plan.
        original: Cost of the original.
        max_trials: How many networks to make at most.

    Raises:
        AccuracyError: Not one network passes.
    """
    bracket = _Bracket(reachable_range(groups, costs.costs)[metric][0] / original)
    trials: list[DropTrial] = []
    plans: list[Allocation] = []
    while len(trials) < max_trials and bracket.high - bracket.low > NARROW:
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


def require_testable(data: DataSplits) -> None:
    """Refuse a gate that nothing could decide.

    Raises:
        DataError: There are no labelled test images.
    """
    if data.test is None or data.test.labels is None:
        raise DataError("--max-drop needs labelled test images, and there are none; give --data")


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


def _in_short(found: Smallest) -> str:
    search = found.gate.search
    assert search is not None
    return f"{found.budget.text} of {len(search.trials)} networks"


class _Within:
    """A ``Progress`` whose stages are parts of one stage."""

    def __init__(self, outer: Stage, watch: Stopwatch) -> None:
        self._outer, self._watch = outer, watch

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """One part; its name is shown beside the outer stage."""
        self._outer.note(name)
        yield SilentStage()

    def warn(self, text: str) -> None:
        """Pass a warning on once."""
        if text not in self._watch.warnings:
            self._watch.warn(text)
