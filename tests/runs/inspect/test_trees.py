"""Many modules and groups in few lines."""

from __future__ import annotations

from typing import Any

from fairdeploy.runs.inspect.alike_groups import alike_groups, common_glob
from fairdeploy.runs.inspect.module_tree import deepest_tree_that_fits, tree


def rows(*modules: tuple[str, int, int]) -> list[dict[str, Any]]:
    """Module, parameters and removable parameters."""
    return [
        {"module": name, "params": params, "removable_params": removable, "stays": []}
        for name, params, removable in modules
    ]


NETWORK = rows(
    ("", 100, 50),
    ("stem", 10, 5), ("stem.conv", 10, 5),
    ("blocks", 80, 40),
    *((f"blocks.{i}{part}", 20, 10) for i in range(3) for part in ("", ".fc")),
    ("blocks.3", 20, 11), ("blocks.3.fc", 20, 11),
    ("head", 10, 5),
)  # fmt: skip


def shown(lines: list[Any]) -> list[tuple[int, str, int]]:
    return [(line.level, line.label, line.num_alike) for line in lines]


def test_tree_ends_at_the_depth() -> None:
    assert shown(tree(NETWORK, 0)) == [(0, "the whole network", 1)]
    assert shown(tree(NETWORK, 1)) == [
        (0, "the whole network", 1), (1, "stem.conv", 1), (1, "blocks", 1), (1, "head", 1),
    ]  # fmt: skip


def test_numbered_neighbours_that_look_alike_share_a_line() -> None:
    assert shown(tree(NETWORK, 2))[2:5] == [
        (1, "blocks", 1), (2, "0 … 2", 3), (2, "3.fc", 1),
    ]  # fmt: skip


def test_neighbours_with_equal_numbers_but_different_insides_do_not_share_a_line() -> None:
    different = rows(
        ("", 4, 2), ("0", 2, 1), ("0.a", 2, 1), ("1", 2, 1), ("1.b", 2, 1),
    )  # fmt: skip
    assert shown(tree(different, 1)) == [(0, "the whole network", 1), (1, "0.a", 1), (1, "1.b", 1)]


def test_named_neighbours_never_share_a_line() -> None:
    twins = rows(("", 4, 2), ("query", 2, 1), ("value", 2, 1))
    assert shown(tree(twins, 1))[1:] == [(1, "query", 1), (1, "value", 1)]


def test_tree_is_as_deep_as_fits() -> None:
    assert deepest_tree_that_fits(NETWORK, 30) == tree(NETWORK, 3)
    assert deepest_tree_that_fits(NETWORK, 5) == tree(NETWORK, 1)
    assert deepest_tree_that_fits(NETWORK, 1) == tree(NETWORK, 1)


def test_glob_stands_for_names_that_differ_in_one_number() -> None:
    assert common_glob(["blocks.0.fc", "blocks.11.fc"]) == "blocks.*.fc"
    assert common_glob(["blocks.0.fc"]) == "blocks.0.fc"
    assert common_glob(["blocks.0.fc", "blocks.1.qkv"]) == ""
    assert common_glob(["a.0.b.0", "a.1.b.1"]) == ""
    assert common_glob(["a.0", "a.0.b"]) == ""


def test_groups_are_alike_only_if_their_numbers_are() -> None:
    def group(name: str, units: int) -> dict[str, Any]:
        return {"name": name, "units": units, "smallest": 1, "channels_per_unit": 1,
                "removable_params": 9.0}  # fmt: skip

    groups = [group("a.0.fc", 4), group("a.1.fc", 4), group("a.2.fc", 8), group("b", 4)]
    assert [names for names, _ in alike_groups(groups)] == [["a.0.fc", "a.1.fc"], ["a.2.fc"], ["b"]]
