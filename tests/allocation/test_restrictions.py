"""From options to the limits of each group."""

from __future__ import annotations

import pytest

from fairdeploy.allocation.restrictions import (
    GroupLimit,
    group_limits,
    held_groups,
    rules_of,
    rules_without_an_option,
)
from fairdeploy.errors import UsageError
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import Restrictions
from tests.allocation.restricted_networks import heads, two_stages


@pytest.fixture(scope="module")
def graph() -> UnitGraph:
    """Groups: ``stem.conv`` (12), ``body.0.inner`` (24), ``tail.conv`` (32)."""
    return two_stages()


def limits(graph: UnitGraph, **options: object) -> list[tuple[int, int]]:
    """Most removed and step of each group, where the target likes multiples of 4."""
    rules = rules_of(graph, Restrictions(**options))  # type: ignore[arg-type]
    found = group_limits(graph.groups, rules, [4] * len(graph.groups))
    return [(limit.max_removed, limit.step) for limit in found]


def most_removed(graph: UnitGraph, **options: object) -> list[int]:
    return [most for most, _ in limits(graph, **options)]


def test_without_restrictions_all_but_one_unit_may_go_in_the_target_s_steps(
    graph: UnitGraph,
) -> None:
    assert limits(graph) == [(11, 4), (23, 4), (31, 4)]


def test_exclude_keeps_every_group_that_it_touches_whole(graph: UnitGraph) -> None:
    assert most_removed(graph, exclude=("tail",)) == [11, 23, 0]
    # The stream is made by stem.conv too: one excluded module is enough.
    assert most_removed(graph, exclude=("body.0.out",)) == [0, 23, 31]
    assert most_removed(graph, exclude=("*norm*",)) == [0, 23, 31]


def test_include_leaves_only_groups_whose_layers_are_all_covered(graph: UnitGraph) -> None:
    assert most_removed(graph, include=("tail", "body.0.inner")) == [0, 23, 31]
    assert most_removed(graph, include=("stem",)) == [0, 0, 0]
    # The norm need not be named.
    assert most_removed(graph, include=("stem.conv", "body.0.out")) == [11, 0, 0]


def test_exclude_wins_over_include(graph: UnitGraph) -> None:
    assert most_removed(graph, include=("*",), exclude=("tail.conv",)) == [11, 23, 0]


def test_cap_is_a_share_of_each_group_rounded_down(graph: UnitGraph) -> None:
    assert most_removed(graph, max_prune=(("*", 0.7),)) == [8, 16, 22]
    assert most_removed(graph, max_prune=(("*", 1.0),)) == [11, 23, 31]
    assert most_removed(graph, max_prune=(("*", 0.0),)) == [0, 0, 0]


def test_strictest_of_several_caps_counts(graph: UnitGraph) -> None:
    caps = (("tail", 0.25), ("*", 0.5), ("tail.conv", 0.75))
    assert most_removed(graph, max_prune=caps) == [6, 12, 8]


def test_cap_touches_a_group_by_any_module_that_makes_it(graph: UnitGraph) -> None:
    assert most_removed(graph, max_prune=(("body", 0.5),)) == [6, 12, 31]


def test_cap_of_seven_tenths_of_ten_units_is_seven_in_spite_of_binary_fractions() -> None:
    graph = heads()
    assert most_removed(graph, max_prune=(("proj", 0.7),))[1] == 7
    assert most_removed(graph, max_prune=(("proj", 0.29999999999999998),))[1] == 3


def test_min_units_stay_in_every_group_that_has_them(graph: UnitGraph) -> None:
    assert most_removed(graph, min_units=(("*", 16),)) == [0, 8, 16]
    assert most_removed(graph, min_units=(("body.0.inner", 5), ("*", 2))) == [10, 19, 30]


def test_round_to_replaces_the_target_s_step_however_small_the_group(graph: UnitGraph) -> None:
    assert limits(graph, round_to=16) == [(11, 16), (23, 16), (31, 16)]
    assert limits(graph, round_to=1) == [(11, 1), (23, 1), (31, 1)]


def test_round_to_counts_channels_not_units() -> None:
    # A head has 18 rows of qkv: two make 36, a multiple of 12. A neuron is one channel.
    assert [step for _, step in limits(heads(), round_to=12)] == [2, 12, 12]


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"include": ("tail", "nose")}, "--include 'nose'"),
        ({"exclude": ("nose",)}, "--exclude 'nose'"),
        ({"max_prune": (("nose", 0.5),)}, "--max-prune 'nose'"),
        ({"min_units": (("nose", 2),)}, "--min-units 'nose'"),
    ],
)
def test_glob_that_matches_nothing_names_its_option(
    graph: UnitGraph, options: dict[str, object], option: str
) -> None:
    with pytest.raises(UsageError, match=f"{option} matches no module"):
        limits(graph, **options)


def test_rules_show_as_they_are_typed(graph: UnitGraph) -> None:
    restrictions = Restrictions(
        include=("tail", "body.*"), exclude=("stem",), round_to=8,
        max_prune=(("*", 0.7), ("tail", 0.5)), min_units=(("*", 2),),
    )  # fmt: skip
    assert [rule.option for rule in rules_of(graph, restrictions)] == [
        "--include tail --include 'body.*'",
        "--exclude stem",
        "--max-prune 0.7",
        "--max-prune tail=0.5",
        "--min-units 2",
        "--round-to 8",
    ]


def test_each_option_can_be_left_out_and_all_of_them(graph: UnitGraph) -> None:
    restrictions = Restrictions(exclude=("stem", "tail"), max_prune=(("*", 0.5),))
    without = rules_without_an_option(rules_of(graph, restrictions))
    assert {name: [rule.kind for rule in rules] for name, rules in without.items()} == {
        "--exclude stem --exclude tail": ["max_prune"],
        "--max-prune 0.5": ["exclude", "exclude"],
        "--exclude stem --exclude tail and --max-prune 0.5": [],
    }
    assert rules_without_an_option(()) == {}
    assert GroupLimit(11, 4) in group_limits(graph.groups, (), [4, 4, 4])


def test_held_groups_name_every_option_that_keeps_them_whole(graph: UnitGraph) -> None:
    options = Restrictions(exclude=("tail",), max_prune=(("tail", 0.0), ("stem", 0.5)))
    assert held_groups(graph.groups, rules_of(graph, options)) == {
        2: "--exclude tail and --max-prune tail=0"
    }
    whole = Restrictions(min_units=(("stem.conv", 99),))
    assert held_groups(graph.groups, rules_of(graph, whole)) == {0: "--min-units stem.conv=99"}
