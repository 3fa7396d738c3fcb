"""Who decides the channel multiple, and the plan beside one with any counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.restrictions import rules_of
from fairdeploy.allocation.search import search
from fairdeploy.deployment.latency.channel_multiples import choose_multiple
from fairdeploy.deployment.latency.channel_sweep import COUNTS
from fairdeploy.errors import ExportError
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import (
    Budget,
    MultipleChoice,
    Restrictions,
    Rounding,
    TargetProfile,
    UnitScores,
    WidthTime,
)
from fairdeploy.runs.problem import Planned, Problem, tensor_names
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.runs.stages import multiples as rounding
from fairdeploy.runs.stages.groups import group_scores, unit_step
from fairdeploy.runs.stages.multiples import (
    Multiple,
    resolve_multiple,
    with_multiple,
)
from fairdeploy.runs.stages.plan import rounding_outcome
from tests.deployment.fakes import PROFILE, FailingExporter, WorkingExporter

WORKING = WorkingExporter()
AUTO = replace(PROFILE, channel_multiple="auto")


@pytest.fixture(scope="module", autouse=True)
def _quick_files(quick_files: None) -> None:
    """No test here looks into an ONNX file."""


def sixteen(*, is_cached: bool = False) -> MultipleChoice:
    rows = [WidthTime(count, float(-(-count // 16))) for count in COUNTS]
    return choose_multiple([rows] * 5, seconds=7.0, is_cached=is_cached)


def resolve(
    folder: Path,
    profile: TargetProfile = AUTO,
    round_to: int | None = None,
    *,
    may_measure: bool = True,
    exporter: WorkingExporter = WORKING,
) -> tuple[Multiple, Stopwatch]:
    watch = Stopwatch()
    found = resolve_multiple(profile, round_to, exporter, folder, watch, may_measure=may_measure)
    return found, watch


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "measured_multiple", lambda *_: sixteen())


def test_the_user_s_multiple_wins_without_a_measurement(tmp_path: Path) -> None:
    found, watch = resolve(tmp_path, round_to=12, exporter=FailingExporter())
    assert (found.number, found.source, found.choice) == (12, "--round-to", None)
    assert watch.seconds == {}
    assert with_multiple(AUTO, found).channel_multiple == 12


def test_what_the_target_likes_is_not_what_the_user_asks_for(tmp_path: Path) -> None:
    found, _ = resolve(tmp_path, replace(PROFILE, channel_multiple=4), round_to=1)
    assert (found.number, found.liked) == (1, 4)
    assert with_multiple(AUTO, found).channel_multiple == 4


def test_a_number_in_the_profile_is_taken_as_it_is(tmp_path: Path) -> None:
    found, watch = resolve(tmp_path, replace(PROFILE, channel_multiple=4))
    assert (found.number, found.source) == (4, "profile")
    assert watch.seconds == {}


@pytest.mark.usefixtures("measured")
def test_auto_is_measured_in_a_stage_of_its_own(tmp_path: Path) -> None:
    found, watch = resolve(tmp_path)
    assert (found.number, found.source, found.choice) == (16, "measured", sixteen())
    assert list(watch.seconds) == ["channel multiple"]
    assert with_multiple(AUTO, found).channel_multiple == 16


def test_without_measuring_the_usual_multiple_is_taken_whatever_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, watch = resolve(tmp_path, may_measure=False, exporter=FailingExporter())
    assert (found.number, found.source, found.liked) == (8, "not measured", 8)
    monkeypatch.setattr(rounding, "cached_multiple", lambda *_: sixteen(is_cached=True))
    found, watch = resolve(tmp_path, may_measure=False, exporter=FailingExporter())
    assert (found.number, found.source, found.choice) == (8, "not measured", None)
    # what is known of the target may still explain why a layer is slow
    assert found.liked == 16
    assert watch.seconds == {}


def test_a_sweep_that_fails_costs_a_warning_and_gives_multiples_of_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> MultipleChoice:
        raise ExportError("no disk")

    monkeypatch.setattr(rounding, "measured_multiple", fail)
    found, watch = resolve(tmp_path)
    assert (found.number, found.source) == (8, "not measured")
    assert watch.warnings == [
        "which channel counts are fast was not measured (no disk); they become multiples of 8"
    ]


class Wide(nn.Module):
    """Two groups of 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 1)
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


def outcome(number: int, options: Restrictions | None = None) -> Rounding | None:
    graph = build_unit_graph(Wide().eval(), (torch.zeros(2, 3, 4, 4),))
    random = np.random.default_rng(5)
    scores = UnitScores(random.random(128), random.random(128), 2, 0)
    rules = rules_of(graph, options or Restrictions())
    groups = group_scores(graph, scores, number, rules)
    costs = CostModel(graph.cost_terms, len(graph.groups))
    budgets = (Budget("params", "57%", fraction=0.57),)
    plan = search(groups, costs.costs, budgets)
    problem = Problem(
        graph, costs, rules, Multiple(number, "measured"), budgets, "tod", PROFILE,
        tensor_names(graph, is_input_named=False),
    )  # fmt: skip
    return rounding_outcome(Planned(problem, groups, plan, costs, budgets), scores)


def test_the_outcome_sets_rounded_beside_any_counts() -> None:
    found = outcome(8)
    assert found is not None
    assert [(group.name, group.units) for group in found.groups] == [("first", 64), ("second", 64)]
    assert all(group.kept % 8 == 0 for group in found.groups)
    assert any(group.kept_unrounded % 8 for group in found.groups)
    # 3 + 1 weights a channel of the first, then 64 by 64, then 4 by 64; 57 % may stay
    whole = 64 * 4 + 64 * 65 + 4 * 65
    for costs in (found.costs, found.costs_unrounded):
        assert 0.45 * whole < costs["params"] <= 0.57 * whole
    assert found.costs["params"] <= found.costs_unrounded["params"]
    assert found.r_mass > 0
    assert found.r_mass_unrounded > 0


def test_a_user_s_multiple_is_set_beside_any_counts_too() -> None:
    found = outcome(8, Restrictions(round_to=8))
    assert found is not None
    assert any(group.kept_unrounded % 8 for group in found.groups)


def test_there_is_nothing_to_tell_where_any_count_was_allowed() -> None:
    assert outcome(1) is None


def test_where_latency_decides_narrow_layers_keep_to_the_multiple_if_budgets_allow() -> None:
    usual = Multiple(8, "measured", None, 8)
    strict = usual.where_latency_decides()
    assert strict.to_try == (strict, usual)
    assert str(strict) == "multiples of 8 channels in narrow layers too"
    assert str(usual) == "multiples of 8 channels"
    coarse = Multiple(16, "measured", None, 16).where_latency_decides()
    assert coarse.to_try == (coarse, Multiple(8, "budget", None, 16))
    asked = Multiple(8, "--round-to", None, 8)
    assert asked.where_latency_decides().to_try == (asked,)


@pytest.mark.parametrize(
    ("size", "loose", "strict"), [(64, 8, 8), (32, 4, 8), (16, 2, 8), (8, 1, 4)]
)
def test_steps_of_narrow_layers(size: int, loose: int, strict: int) -> None:
    graph = build_unit_graph(
        nn.Sequential(nn.Conv2d(3, size, 1), nn.Conv2d(size, 4, 1)), (torch.zeros(1, 3, 4, 4),)
    )
    (group,) = (group for group in graph.groups if group.size == size)
    assert unit_step(group, 8) == loose
    assert unit_step(group, 8, is_strict=True) == strict
