"""Blocks from which the same number goes: found, linked, and given up where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fairdeploy.graph.unit_graph import Group, UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.graph.walk.balance import Balance, find_components
from fairdeploy.surgery.equivalence import prove
from fairdeploy.surgery.removal import remove_units

EXAMPLE = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


class Attention(nn.Module):
    """Packed projection, explicit products, three heads of four channels."""

    def __init__(self, shared_index: bool = False) -> None:
        super().__init__()
        self.qkv, self.proj, self.head = nn.Linear(8, 36), nn.Linear(12, 8), nn.Linear(8, 2)
        self.turn = nn.Parameter(torch.rand(4)) if shared_index else None

    def forward(self, x):
        q, k, v = self.qkv(x[:, 0]).reshape(-1, 8, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        if self.turn is not None:
            q, v = q * self.turn, v * self.turn
        weights = (q @ k.transpose(-2, -1) * 0.5).softmax(-1)
        return self.head(self.proj((weights @ v).transpose(1, 2).reshape(-1, 8, 12)))


def group_named(graph: UnitGraph, name: str) -> Group:
    return next(group for group in graph.groups if group.name == name)


def rows_of_weight(group: Group, tensor: str) -> list[list[int]]:
    """For each block, the rows of a weight that its units hold."""
    rows: dict[int, list[int]] = {}
    for member in group.members:
        if (member.tensor, member.dim) == (tensor, 0):
            rows |= dict(zip(member.units.tolist(), member.positions.tolist(), strict=True))
    size = group.size
    return [
        sorted(row for unit in range(block * size, (block + 1) * size) for row in rows[unit])
        for block in range(group.num_blocks)
    ]


def test_channels_of_each_head_are_blocks_and_query_goes_with_key() -> None:
    graph = build_unit_graph(Attention().eval(), EXAMPLE, attention="channels")
    group = group_named(graph, "qkv")
    assert (group.num_blocks, group.size) == (6, 4)
    query_key = [[*range(h * 4, h * 4 + 4), *range(12 + h * 4, 16 + h * 4)] for h in range(3)]
    value = [list(range(24 + h * 4, 28 + h * 4)) for h in range(3)]
    assert sorted(rows_of_weight(group, "qkv.weight")) == sorted(query_key + value)


def test_other_channels_go_from_each_head_and_the_result_is_exact() -> None:
    graph = build_unit_graph(Attention().eval(), EXAMPLE, attention="channels")
    group = group_named(graph, "qkv")
    removed = np.zeros(graph.num_units, dtype=bool)
    for number, block in enumerate(group.blocks):
        removed[block[[number % 4, (number + 1) % 4]]] = True
    shrunk = remove_units(graph, removed).module
    assert shrunk.get_parameter("qkv.weight").shape == (18, 8)
    assert prove(graph, shrunk, removed).passed


def test_a_factor_that_all_heads_share_ties_the_same_channel_of_each() -> None:
    graph = build_unit_graph(Attention(shared_index=True).eval(), EXAMPLE, attention="channels")
    group = group_named(graph, "qkv")
    assert (group.num_blocks, group.size) == (1, 4)
    rows = next(m for m in group.members if m.tensor == "qkv.weight")
    assert rows.positions.shape == (4, 9)


def test_heads_and_channels_share_indices_when_both_may_go() -> None:
    graph = build_unit_graph(Attention().eval(), EXAMPLE, attention="both")
    heads, channels = group_named(graph, "qkv"), group_named(graph, "qkv (channels)")
    assert (heads.num_blocks, heads.size) == (1, 3)
    assert (channels.num_blocks, channels.size) == (6, 4)
    removed = np.zeros(graph.num_units, dtype=bool)
    removed[heads.units[1]] = True
    removed[channels.blocks[:, 2]] = True
    shrunk = remove_units(graph, removed).module
    # two of three heads, three of four channels in each
    assert shrunk.get_parameter("qkv.weight").shape == (3 * 2 * 3, 8)
    assert shrunk.get_parameter("proj.weight").shape == (8, 2 * 3)
    assert prove(graph, shrunk, removed).passed


def test_nothing_goes_from_attention_when_it_is_left_alone() -> None:
    graph = build_unit_graph(Attention().eval(), EXAMPLE, attention="none")
    assert all("qkv" not in group.name for group in graph.groups)
    assert any("--attention none" in group.reason for group in graph.frozen_groups)


def test_groups_of_a_convolution_lose_different_channels() -> None:
    grouped = nn.Conv2d(8, 12, 3, groups=2)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), grouped, nn.Conv2d(12, 2, 1)).eval()
    graph = build_unit_graph(network, EXAMPLE)
    first, second = graph.groups
    assert (first.num_blocks, first.size) == (2, 4)
    assert (second.num_blocks, second.size) == (2, 6)
    removed = np.zeros(graph.num_units, dtype=bool)
    removed[[*first.blocks[0, :2], *first.blocks[1, 2:]]] = True
    shrunk = remove_units(graph, removed).module
    weight, original = shrunk.get_parameter("1.weight"), grouped.weight
    assert weight.shape == (12, 2, 3, 3)
    torch.testing.assert_close(weight[:6], original[:6, 2:])
    torch.testing.assert_close(weight[6:], original[6:, :2])
    assert prove(graph, shrunk, removed).passed


def test_equal_pieces_of_a_split_stay_equal() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.inner, self.out = (
                nn.Conv2d(3, 8, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(9, 2, 1))  # fmt: skip

        def forward(self, x):
            first, second = self.wide(x).chunk(2, 1)
            return self.out(torch.cat([first, self.inner(second)], 1))

    graph = build_unit_graph(Split().eval(), EXAMPLE)
    group = group_named(graph, "wide")
    assert rows_of_weight(group, "wide.weight") == [[0, 1, 2, 3], [4, 5, 6, 7]]


def balance(node: str, rows: list[list[int]], is_required: bool = True) -> Balance:
    return Balance(node, np.array(rows), is_required)


def components(*balances: Balance, kinds: dict[int, int] | None = None):
    roots = [b.rows for b in balances]
    signature_of = kinds or {root: 7 for rows in roots for root in rows.reshape(-1).tolist()}
    return find_components(balances, roots, signature_of)


def test_requests_that_share_a_block_are_linked() -> None:
    found = components(balance("a", [[1, 2], [3, 4]]), balance("b", [[4, 3], [5, 6]]))
    (blocks,) = found.blocks
    assert {frozenset(block) for block in blocks.tolist()} == {
        frozenset({1, 2}), frozenset({3, 4}), frozenset({5, 6}),
    }  # fmt: skip
    assert not found.misfits


def test_a_request_that_cuts_across_another_is_a_misfit() -> None:
    found = components(balance("a", [[1, 2], [3, 4]]), balance("b", [[2, 3], [5, 6]]))
    assert found.misfits == {"b"}


def test_a_wish_that_does_not_fit_is_dropped() -> None:
    found = components(balance("a", [[2, 3], [5, 6]], False), balance("b", [[1, 2], [3, 4]]))
    assert not found.misfits
    assert len(found.blocks) == 1


@pytest.mark.parametrize(
    ("kinds", "num_blocks"),
    [({1: 7, 2: 8, 3: 7, 4: 8}, [2, 2]), ({1: 7, 2: 8, 3: 7, 4: 7}, []), ({1: 7, 2: 7, 3: 7}, [])],
    ids=["two kinds in each row", "unequal kinds", "a frozen unit"],
)
def test_rows_of_several_kinds_are_cut_into_one_request_for_each(kinds, num_blocks) -> None:
    found = components(balance("a", [[1, 2], [3, 4]]), kinds=kinds)
    assert [len(blocks) for blocks in found.blocks] == num_blocks
    assert found.misfits == (frozenset() if num_blocks else {"a"})
