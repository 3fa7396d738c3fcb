"""What is said of each restriction after a plan is made."""

from __future__ import annotations

import pytest

from fairdeploy.allocation.restriction_outcomes import restriction_outcomes
from fairdeploy.allocation.restrictions import group_limits, rules_of
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import GroupRemark, RestrictionOutcome, Restrictions
from tests.allocation.restricted_networks import heads, two_stages


@pytest.fixture(scope="module")
def graph() -> UnitGraph:
    """Groups: ``stem.conv`` (12), ``body.0.inner`` (24), ``tail.conv`` (32)."""
    return two_stages()


def outcome(graph: UnitGraph, removed: dict[str, int], **options: object) -> RestrictionOutcome:
    """The last option's outcome in a plan that removes so many units."""
    rules = rules_of(graph, Restrictions(**options))  # type: ignore[arg-type]
    limits = group_limits(graph.groups, rules, [1] * len(graph.groups))
    return restriction_outcomes(graph, rules, limits, removed)[-1]


def test_exclude_counts_the_groups_that_it_holds(graph: UnitGraph) -> None:
    assert outcome(graph, {}, exclude=("tail",)) == RestrictionOutcome("--exclude tail", 1, 1)


def test_group_that_spans_excluded_and_other_modules_says_whom_it_holds_too(
    graph: UnitGraph,
) -> None:
    found = outcome(graph, {}, exclude=("stem",))
    text = "stays whole with 'body.0.out', which must keep the same width"
    assert found.notes == (GroupRemark("stem.conv", text),)


def test_group_that_is_included_in_part_says_what_is_missing(graph: UnitGraph) -> None:
    found = outcome(graph, {}, include=("stem", "tail"))
    assert found.num_groups == 2
    assert found.notes == (GroupRemark("stem.conv", "stays whole: 'body.0.out' is not included"),)


def test_cap_counts_the_groups_that_are_at_it(graph: UnitGraph) -> None:
    found = outcome(graph, {"tail.conv": 16, "body.0.inner": 5}, max_prune=(("*", 0.5),))
    assert (found.num_groups, found.num_held) == (3, 1)


def test_cap_below_one_unit_says_so(graph: UnitGraph) -> None:
    found = outcome(graph, {}, max_prune=(("stem", 0.05),))
    text = "stays whole: 0.05 of 12 units is less than one"
    assert found.notes == (GroupRemark("stem.conv", text),)


def test_cap_that_leaves_no_multiple_says_so(graph: UnitGraph) -> None:
    rules = rules_of(graph, Restrictions(max_prune=(("tail", 0.3),), round_to=16))
    limits = group_limits(graph.groups, rules, [1, 1, 1])
    cap, rounding = restriction_outcomes(graph, rules, limits, {})
    text = "stays whole: at most 9 of 32 units may go, but 16 at once"
    assert cap.notes == (GroupRemark("tail.conv", text),)
    assert "tail.conv" not in [remark.group for remark in rounding.exceptions]  # 32 is a multiple


def test_group_smaller_than_min_units_could_not_honour_it(graph: UnitGraph) -> None:
    found = outcome(graph, {"tail.conv": 16}, min_units=(("*", 16),))
    assert found.exceptions == (GroupRemark("stem.conv", "has only 12 units; all of them stay"),)
    assert found.num_held == 2  # the stem cannot shrink, the tail is at its 16


def test_groups_without_a_multiple_say_why(graph: UnitGraph) -> None:
    found = outcome(graph, {"tail.conv": 16}, round_to=16)
    small = "stays whole at 12 channels: no smaller count is a multiple of 16"
    unasked = "stays whole at 24 channels: the budget did not ask for fewer"
    assert found.exceptions == (
        GroupRemark("stem.conv", small),
        GroupRemark("body.0.inner", unasked),
    )
    assert (found.num_groups, found.num_held) == (3, 1)


def test_cap_that_forbids_the_next_multiple_is_named(graph: UnitGraph) -> None:
    found = outcome(graph, {}, max_prune=(("body.0.inner", 0.1),), round_to=16)
    text = "stays whole at 24 channels: its cap leaves no multiple of 16"
    assert GroupRemark("body.0.inner", text) in found.exceptions


def test_excluded_group_need_not_be_a_multiple(graph: UnitGraph) -> None:
    found = outcome(graph, {}, exclude=("stem", "body"), round_to=16)
    assert found.exceptions == ()
    assert found.num_groups == 1


def test_units_of_several_channels_say_how_many_go_together() -> None:
    graph = heads()
    found = outcome(graph, {"qkv": 2, "proj": 2, "pointwise": 8}, round_to=4)
    assert found.notes == (GroupRemark("qkv", "units of 18 channels go by 2"),)
    assert found.exceptions == ()
    found = outcome(graph, {"proj": 2, "pointwise": 8}, round_to=16)
    text = "stays whole at 72 channels (4 units of 18): no smaller count is a multiple of 16"
    assert found.exceptions[0] == GroupRemark("qkv", text)
