"""Trades make the network faster without losing R-mass or breaking a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fairdeploy.allocation.limits import CostFunction
from fairdeploy.allocation.search import reachable_range, search
from fairdeploy.allocation.trade import traded
from fairdeploy.records import Allocation, Budget, GroupScores


def group(name: str, r: list[float], step: int = 1, reluctance: float = 0.0) -> GroupScores:
    """U ranks as R does, so that the tolerance never sees a conflict."""
    scores = np.array(r)
    return GroupScores(name, scores.copy(), scores, len(r) - 1, step, reluctance)


def costs(params: list[float], ms: list[float]) -> CostFunction:
    """Each unit of a group costs so many parameters and milliseconds."""

    def cost_of(kept: NDArray[np.int64]) -> Mapping[str, NDArray[np.float64]]:
        return {"params": kept @ np.array(params), "latency": kept @ np.array(ms)}

    return cost_of


def r_removed(allocation: Allocation, groups: list[GroupScores]) -> float:
    return float(sum(g.r[list(allocation.removed[g.name])].sum() for g in groups))


HALF = (Budget("params", "params=50%", fraction=0.5),)


def test_units_that_save_no_time_come_back_for_units_that_do() -> None:
    """Both groups weigh the same in parameters, but only ``slow`` takes time."""
    groups = [group("slow", [1.0] * 8), group("quick", [1.0] * 8)]
    cost_of = costs([1.0, 1.0], [1.0, 0.01])
    before = Allocation(
        0.0, {"slow": (0,), "quick": (0, 1, 2, 3, 4, 5, 6)}, {}, {"params": 8, "latency": 7}, 1
    )
    after = traded(before, groups, cost_of, HALF)
    assert len(after.removed["slow"]) == 7
    assert len(after.removed["quick"]) == 1
    assert after.costs == {"params": 8.0, "latency": 1.0 + 7 * 0.01}


def test_trade_that_would_lose_r_mass_is_not_made() -> None:
    groups = [group("slow", [5.0] * 8), group("quick", [1.0] * 8)]
    before = Allocation(0.0, {"slow": (), "quick": (0, 1)}, {}, {}, 1)
    budget = (Budget("params", "params=90%", fraction=0.9),)
    after = traded(before, groups, costs([1.0, 1.0], [1.0, 0.01]), budget)
    assert after.removed == before.removed


def test_whole_residual_stream_is_not_touched() -> None:
    groups = [group("stream", [1.0] * 8, reluctance=0.5), group("inner", [1.0] * 8)]
    before = Allocation(0.0, {"stream": (), "inner": (0, 1, 2, 3)}, {}, {}, 1)
    budget = (Budget("params", "params=90%", fraction=0.9),)
    after = traded(before, groups, costs([1.0, 1.0], [1.0, 0.01]), budget)
    assert after.removed["stream"] == ()


def test_residual_blocks_and_what_lies_inside_a_missing_one_are_not_traded() -> None:
    """``inside`` costs nothing while its block is gone: its R-mass pays for nothing."""
    block = replace(group("block", [0.001]), max_removed=1, tolerances=np.array([0.3]))
    other = replace(group("other block", [0.001]), max_removed=1, tolerances=np.array([0.4]))
    groups = [group("slow", [1.0] * 8), block, group("inside", [9.0] * 8), other]

    def cost_of(kept: NDArray[np.int64]) -> Mapping[str, NDArray[np.float64]]:
        slow, has_block, inside, has_other = kept.T
        cost = slow + inside * has_block + 4.0 * has_other
        return {"params": cost, "latency": cost}

    before = Allocation(
        0.3, {"slow": (0,), "block": (0,), "inside": (0, 1, 2, 3), "other block": ()}, {}, {}, 1
    )
    after = traded(before, groups, cost_of, (Budget("params", "params=90%", fraction=0.9),))
    assert after.removed == before.removed


SCORES = st.lists(st.floats(0.01, 10), min_size=4, max_size=12)


@given(
    scores=st.lists(SCORES, min_size=2, max_size=4),
    fraction=st.floats(0.4, 0.9),
    seed=st.integers(0, 1000),
    step=st.integers(1, 3),
)
def test_trades_never_make_anything_worse(
    scores: list[list[float]], fraction: float, seed: int, step: int
) -> None:
    rng = np.random.default_rng(seed)
    groups = [group(str(i), list(rng.permutation(r)), step) for i, r in enumerate(scores)]
    cost_of = costs(list(rng.uniform(1, 5, len(groups))), list(rng.uniform(0, 1, len(groups))))
    budget = Budget("params", "params", fraction=fraction)
    least = reachable_range(groups, cost_of)["params"]
    assume(least[0] <= fraction * least[1])
    before = search(groups, cost_of, (budget,))
    after = traded(before, groups, cost_of, (budget,))
    whole = float(cost_of(np.array([[len(g.u) for g in groups]]))["params"][0])
    assert after.costs["params"] <= fraction * whole * (1 + 1e-9)
    assert after.costs["latency"] <= before.costs["latency"] + 1e-9
    prefixes = sum(float(np.sort(g.u)[: len(before.removed[g.name])].sum()) for g in groups)
    assert r_removed(after, groups) <= max(prefixes, r_removed(before, groups)) + 1e-6
    for one in groups:
        left = len(one.u) - len(after.removed[one.name])
        assert left >= 1
        assert left == len(one.u) or left % step == 0
