"""The search for the smallest network within a drop, with invented accuracies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fairdeploy.accuracy_target import bisect
from fairdeploy.allocation.cost import CostModel
from fairdeploy.errors import AccuracyError
from fairdeploy.graph.unit_graph import CostTerm
from fairdeploy.records import Allocation, DropGate, GroupScores, PairedDifference
from fairdeploy.reporting.accuracy_rows import gate_problem

NUM_UNITS = 100


def groups() -> tuple[GroupScores, ...]:
    scores = np.arange(NUM_UNITS, dtype=np.float64)
    return (GroupScores("only", scores, scores, max_removed=NUM_UNITS - 1),)


def costs() -> CostModel:
    """One parameter a unit."""
    term = CostTerm(1.0, ((0, ((0, 1.0),)),))
    return CostModel({"params": (term,), "macs": (term,), "size": (term,)}, 1)


def difference(value: float, spread: float = 0.004) -> PairedDifference:
    return PairedDifference(value, value - spread, value + spread, 1000, 0, 0, 0)


class Networks:
    """Accuracy as a function of the share that stays; remembers what was made."""

    def __init__(self, drop_at: Callable[[float], float]) -> None:
        self._drop_at = drop_at
        self.shares: list[float] = []

    def tried(self, allocation: Allocation) -> PairedDifference:
        self.shares.append(allocation.costs["params"] / NUM_UNITS)
        return difference(-self._drop_at(self.shares[-1]))


def test_the_smallest_share_whose_low_end_is_within_the_drop_is_found() -> None:
    # Each per cent that goes costs 0.1 points: with 0.4 points of doubt 1.04 % allow 6.4 per cent.
    networks = Networks(lambda share: 0.1 * (1 - share))
    found = bisect(groups(), costs(), "params", 0.0104, networks.tried, original=NUM_UNITS)
    search = found.gate.search
    assert search is not None
    assert 0.94 <= search.trials[search.chosen].share <= 0.96
    assert found.allocation.costs["params"] == search.trials[search.chosen].cost
    assert found.gate.passed
    assert len(search.trials) == len(networks.shares) <= 8
    assert all(trial.is_within == (trial.share > 0.936) for trial in search.trials)


def test_a_network_that_loses_nothing_is_shrunk_as_far_as_it_goes() -> None:
    networks = Networks(lambda share: 0.0)
    found = bisect(groups(), costs(), "params", 0.01, networks.tried, original=NUM_UNITS)
    assert found.allocation.costs["params"] <= 3


def test_the_smallest_that_passed_wins_though_a_larger_one_failed() -> None:
    networks = Networks(lambda share: 0.0 if share < 0.6 or share > 0.7 else 0.5)
    found = bisect(groups(), costs(), "params", 0.01, networks.tried, original=NUM_UNITS)
    assert found.allocation.costs["params"] == 100 * min(networks.shares)


def test_if_none_passes_the_best_is_named_with_its_interval() -> None:
    networks = Networks(lambda share: 0.02)
    with pytest.raises(AccuracyError) as caught:
        bisect(groups(), costs(), "params", 0.01, networks.tried, original=NUM_UNITS, max_trials=3)
    assert caught.value.exit_code == 5
    text = str(caught.value)
    assert text.startswith("no network of 3 stays within --max-drop 0.01: the best, with ")
    assert "by -2.00 points (-2.40 to -1.60 on 1,000 selection images)" in text
    assert "\n" not in text


def test_a_gate_says_whether_accuracy_fell_or_may_have_fallen() -> None:
    fell = DropGate(0.01, "test", difference(-0.02))
    doubtful = DropGate(0.01, "test", difference(-0.008))
    kept = DropGate(0.01, "test", difference(-0.006))
    assert [gate.passed for gate in (fell, doubtful, kept)] == [False, False, True]
    assert gate_problem(fell).startswith(
        "accuracy fell by more than --max-drop 1% allows: by 2.00 points on 1,000 test images, at "
        "most 2.40 with 95 % confidence; "
    )
    assert "may have fallen by more" in gate_problem(doubtful)
    assert gate_problem(doubtful).endswith("or test on more images")
