"""Plans near another one: within their limits, as long as asked, and the cheapest blocks first."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fairdeploy.allocation.limits import CostFunction
from fairdeploy.allocation.nearby import CLOSE, nearby_plan
from fairdeploy.allocation.search import search
from fairdeploy.records import Allocation, Budget, GroupScores
from tests.allocation.staircases import random_staircase


def group(name: str, r: list[float], **changes: object) -> GroupScores:
    """U falls with the unit's number, so that the last unit goes first."""
    u = np.arange(len(r), 0, -1, dtype=np.float64)
    return GroupScores(name, u, np.array(r), **({"max_removed": len(r) - 1} | changes))  # type: ignore[arg-type]


def costs(ms: list[float]) -> CostFunction:
    """Each unit of a group costs so many milliseconds, and one MAC."""

    def cost_of(kept: NDArray[np.int64]) -> Mapping[str, NDArray[np.float64]]:
        return {"latency": kept @ np.array(ms), "macs": kept.sum(axis=-1).astype(np.float64)}

    return cost_of


def plan(**removed: tuple[int, ...]) -> Allocation:
    return Allocation(0.0, removed, {}, {}, 1)


CHEAP = group("cheap", [1.0, 1.0, 2.0, 3.0])
DEAR = group("dear", [1.0, 1.0, 1.0, 1.0])


def test_units_come_back_where_they_bring_most_r_mass_for_their_time() -> None:
    """R per ms: cheap 3 and 2, dear 0.1; the best of ``cheap``'s removed units is unit 3."""
    found = nearby_plan(
        plan(cheap=(2, 3), dear=(3,)), [CHEAP, DEAR], costs([1.0, 10.0]), (), latency_ms=33.0
    )
    assert found is not None
    assert found.removed == {"cheap": (2,), "dear": (3,)}
    assert found.costs["latency"] == 33.0


def test_units_go_where_the_least_r_mass_is_lost_for_the_time_saved() -> None:
    """R per ms: the next of ``dear`` 0.1, of ``cheap`` 3."""
    found = nearby_plan(
        plan(cheap=(), dear=()), [CHEAP, DEAR], costs([1.0, 10.0]), (), latency_ms=34.0
    )
    assert found is not None
    assert found.removed == {"cheap": (), "dear": (3,)}


def test_fixed_groups_and_whole_streams_stay_as_they_are() -> None:
    stream = group("stream", [0.0] * 4, reluctance=0.5)
    groups = [CHEAP, stream]
    cost_of = costs([1.0, 1.0])
    start = plan(cheap=(), stream=())
    found = nearby_plan(start, groups, cost_of, (), latency_ms=7.0)
    assert found is not None
    assert found.removed == {"cheap": (3,), "stream": ()}
    assert nearby_plan(start, groups, cost_of, (), latency_ms=7.0, fixed=["cheap"]) is None


def test_no_plan_is_given_where_blocks_are_too_large() -> None:
    coarse = [group("coarse", [1.0] * 4, step=2)]
    assert nearby_plan(plan(coarse=()), coarse, costs([1.0]), (), latency_ms=3.0) is None
    found = nearby_plan(plan(coarse=()), coarse, costs([1.0]), (), latency_ms=2.0)
    assert found is not None
    assert found.removed == {"coarse": (2, 3)}


def test_other_budgets_hold_when_units_come_back() -> None:
    budget = (Budget("macs", "macs=4", absolute=4.0),)
    start = plan(cheap=(0, 1, 2), dear=(1,))
    assert nearby_plan(start, [CHEAP, DEAR], costs([1.0, 1.0]), budget, latency_ms=6.0) is None


def test_where_another_rule_shares_out_its_knob_decides() -> None:
    """Both lose unit 3 at once; unit 2 of ``late`` would go at 0.9, of ``early`` at 0.3."""
    early = group("early", [9.0] * 4, knob=np.array([0.1, 0.3, 0.5, 1.0]))
    late = group("late", [1.0] * 4, knob=np.array([0.1, 0.9, 0.95, 1.0]))
    start = plan(early=(3,), late=(3,))
    found = nearby_plan(start, [early, late], costs([1.0, 1.0]), (), latency_ms=5.0)
    assert found is not None
    assert found.removed == {"early": (2, 3), "late": (3,)}


@given(
    seed=st.integers(0, 10_000),
    share=st.floats(0.3, 0.9),
    factor=st.floats(0.9, 1.1),
    num_fixed=st.integers(0, 6),
)
def test_every_nearby_plan_is_allowed_close_and_the_same_again(
    seed: int, share: float, factor: float, num_fixed: int
) -> None:
    made = random_staircase(seed)
    groups, cost_of = made.groups, made.costs.costs
    least = made.predicted_ms(made.smallest_kept()) / made.predicted_ms(made.sizes)
    budgets = (Budget("params", "params=90%", fraction=0.9),)
    limit = Budget("latency", "latency", fraction=max(share, least + 0.01))
    start = search(groups, cost_of, (*budgets, limit))
    fixed = [one.name for one in groups[:num_fixed]]
    asked = start.costs["latency"] * factor
    found = nearby_plan(start, groups, cost_of, budgets, latency_ms=asked, fixed=fixed)
    again = nearby_plan(start, groups, cost_of, budgets, latency_ms=asked, fixed=fixed)
    assert found == again
    if found is None:
        return
    kept = made.kept(found)
    assert abs(made.predicted_ms(kept) / asked - 1) <= CLOSE + 1e-9
    assert found.costs == pytest.approx(made.costs.cost(kept))
    assert found.costs["params"] <= 0.9 * made.costs.cost(made.sizes)["params"]
    for one in groups:
        units = found.removed[one.name]
        assert len(set(units)) == len(units) <= one.max_removed
        assert list(units) == sorted(units)
        left = len(one.u) - len(units)
        assert left % one.step == 0 or left == len(one.u)
        if one.name in fixed:
            assert units == start.removed[one.name]
