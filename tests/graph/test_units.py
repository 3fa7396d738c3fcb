"""Which indices form units, what is frozen and why."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fairdeploy.errors import ModelError
from fairdeploy.graph.capture.capture import capture
from fairdeploy.graph.unit_graph import KEPT, UnitGraph
from fairdeploy.graph.units import build_unit_graph, unit_graph_from_capture

EXAMPLE = (torch.zeros(2, 3, 8, 8),)


def graph_of(module: nn.Module) -> UnitGraph:
    return build_unit_graph(module.eval(), EXAMPLE)


def membership(graph: UnitGraph, group_name: str) -> set[tuple[str, int]]:
    group = next(group for group in graph.groups if group.name == group_name)
    return {(member.tensor, member.dim) for member in group.members}


class Chain(nn.Module):
    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


def test_channels_of_a_plain_chain_are_units_with_norm_and_next_weight() -> None:
    graph = graph_of(Chain(a=nn.Conv2d(3, 6, 3), norm=nn.BatchNorm2d(6), b=nn.Conv2d(6, 5, 3)))
    assert [(group.name, group.size) for group in graph.groups] == [("a", 6)]
    assert membership(graph, "a") == {
        ("a.weight", 0), ("a.bias", 0), ("norm.weight", 0), ("norm.bias", 0),
        ("norm.running_mean", 0), ("norm.running_var", 0), ("b.weight", 1),
    }  # fmt: skip
    roles = {m.tensor: m.role for m in graph.groups[0].members}
    assert roles["b.weight"] == "consumes"
    assert {role for name, role in roles.items() if name != "b.weight"} == {"produces"}
    assert graph.frozen_groups[0].name == "b"
    assert graph.frozen_groups[0].reason == "reaches the network's output"


def test_residual_ties_both_branches_into_one_group() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            y = self.a(x)
            y += self.b(y)
            return self.c(y)

    graph = graph_of(Residual())
    assert membership(graph, "a") == {
        ("a.weight", 0), ("a.bias", 0), ("b.weight", 0), ("b.weight", 1), ("b.bias", 0),
        ("c.weight", 1),
    }  # fmt: skip


def test_only_a_group_that_layers_are_added_up_in_is_a_stream() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)
            self.out = nn.Conv2d(4, 6, 1)
            self.head, self.shift = nn.Conv2d(6, 2, 1), nn.Parameter(torch.zeros(1, 4, 1, 1))

        def forward(self, x):
            x = self.stem(x)
            inner = self.inner(x) + self.shift
            x = x + self.out(inner * inner.sigmoid())
            return self.head(x)

    streams = {group.name: group.is_summed for group in graph_of(Net()).groups}
    assert streams == {"stem": True, "inner": False}


def test_concat_keeps_its_parts_as_separate_groups() -> None:
    class Concat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(10, 2, 1)

        def forward(self, x):
            return self.c(torch.cat([self.a(x), self.b(x)], 1))

    graph = graph_of(Concat())
    assert [(group.name, group.size) for group in graph.groups] == [("a", 4), ("b", 6)]
    consumer = next(m for m in graph.groups[1].members if m.tensor == "c.weight")
    assert consumer.positions[:, 0].tolist() == [4, 5, 6, 7, 8, 9]


def test_flatten_gives_each_channel_all_of_its_pixels() -> None:
    graph = graph_of(Chain(a=nn.Conv2d(3, 6, 1), flat=nn.Flatten(), b=nn.Linear(6 * 64, 2)))
    consumer = next(m for m in graph.groups[0].members if m.tensor == "b.weight")
    assert consumer.positions.shape == (6, 64)
    assert consumer.positions[2].tolist() == list(range(128, 192))


def test_channel_shuffle_ties_the_same_place_of_each_block() -> None:
    graph = graph_of(Chain(a=nn.Conv2d(3, 8, 1), mix=nn.ChannelShuffle(2), b=nn.Conv2d(8, 2, 1)))
    group = graph.groups[0]
    assert group.size == 4
    first = next(m for m in group.members if m.tensor == "a.weight")
    assert first.positions.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    consumer = next(m for m in group.members if m.tensor == "b.weight")
    assert consumer.positions.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_attention_units_are_whole_heads() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.proj = nn.Linear(8, 36), nn.Linear(12, 8)

        def forward(self, x):
            x = x[:, 0]
            q, k, v = self.qkv(x).reshape(-1, 8, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
            weights = (q @ k.transpose(-2, -1) * 0.5).softmax(-1)
            return self.proj((weights @ v).transpose(1, 2).reshape(-1, 8, 12))

    graph = graph_of(Attention())
    assert [(group.name, group.size) for group in graph.groups] == [("qkv", 3)]
    rows = next(m for m in graph.groups[0].members if m.tensor == "qkv.weight")
    assert rows.positions[1].tolist() == [*range(4, 8), *range(16, 20), *range(28, 32)]
    columns = next(m for m in graph.groups[0].members if m.tensor == "proj.weight")
    assert columns.positions[1].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("groups", "units"),
    [(12, 12), (6, 6), (2, 6)],
    ids=["depthwise", "whole groups", "same place of each group"],
)
def test_grouped_convolution_takes_the_finer_choice(groups: int, units: int) -> None:
    graph = graph_of(
        Chain(
            a=nn.Conv2d(3, 12, 1),
            b=nn.Conv2d(12, 12, 3, groups=groups, bias=False),
            c=nn.Conv2d(12, 2, 1),
        )
    )
    assert {group.size for group in graph.groups} == {units}


def test_layer_norm_freezes_and_says_so() -> None:
    graph = graph_of(
        Chain(
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            a=nn.Linear(3, 6),
            norm=nn.LayerNorm(6),
            b=nn.Linear(6, 2),
        )
    )
    assert graph.num_units == 0
    assert any(
        group.name == "a" and "layer norm takes its statistics" in group.reason
        for group in graph.frozen_groups
    )


def test_unknown_operator_freezes_what_it_touches_and_is_reported() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.c(self.b(torch.cummax(self.a(x), dim=1).values))

    graph = graph_of(Strange())
    assert [group.name for group in graph.groups] == ["b"]
    unknown = [freeze for freeze in graph.freezes if freeze.is_unknown_op]
    assert [freeze.op for freeze in unknown] == ["cummax"]
    assert unknown[0].num_units == 6
    assert "test_units.py:" in unknown[0].source_line


def test_shared_weight_is_one_member() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.c(self.b(self.b(self.a(x))))

    graph = graph_of(Shared())
    assert [(group.name, group.size) for group in graph.groups] == [("a", 6)]


def test_padded_zero_channels_go_only_with_what_they_meet() -> None:
    class OptionA(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            y = self.a(x)
            return self.c(self.b(y) + nn.functional.pad(y, (0, 0, 0, 0, 2, 2)))

    graph = graph_of(OptionA())
    assert sorted(group.size for group in graph.groups) == [4, 4]
    alone = next(group for group in graph.groups if not any(
        member.tensor == "a.weight" for member in group.members))  # fmt: skip
    rows = next(m for m in alone.members if m.tensor == "b.weight" and m.dim == 0)
    assert rows.positions[:, 0].tolist() == [0, 1, 6, 7]


def test_model_that_refuses_a_dynamic_batch_is_captured_with_a_fixed_one() -> None:
    class FixedBatch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            if x.shape[0] != 2:
                raise ValueError("two images, please")
            return self.b(self.a(x)).reshape(2, -1)

    graph = graph_of(FixedBatch())
    assert not graph.has_dynamic_batch
    assert [group.size for group in graph.groups] == [6]


def test_nothing_that_reaches_an_output_can_go() -> None:
    graph = graph_of(Chain(a=nn.Conv2d(3, 6, 1)))
    assert graph.num_units == 0
    assert (graph.tensor_units["a.weight"][0] == KEPT).all()


def test_model_that_cannot_be_traced_is_refused_with_the_user_s_line() -> None:
    class Branching(nn.Module):
        def forward(self, x):
            if x.sum() > 0:  # data-dependent
                return x
            return -x

    with pytest.raises(ModelError, match=r"torch.export cannot trace .*test_units\.py:\d+ in for"):
        graph_of(Branching())


def test_value_without_a_known_shape_freezes_what_meets_it_and_is_reported() -> None:
    captured = capture(
        Chain(a=nn.Conv2d(3, 6, 1), b=nn.ReLU(), c=nn.Conv2d(6, 2, 1)).eval(), EXAMPLE
    )
    relu = next(node for node in captured.module.graph.nodes if node.name == "relu")
    del relu.meta["val"]
    graph = unit_graph_from_capture(captured)
    assert graph.num_units == 0
    assert {freeze.op for freeze in graph.freezes if freeze.is_unknown_op} >= {"relu"}


def test_tensor_that_nothing_reads_has_no_units() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle, self.a, self.b = nn.Linear(5, 7), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.b(self.a(x))

    assert [(group.name, group.size) for group in graph_of(Idle()).groups] == [("a", 6)]


def test_module_under_two_names_is_one_whichever_name_is_read() -> None:
    class Alias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a_name = nn.Conv2d(3, 6, 1)
            self.b_name = self.a_name
            self.head = nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.head(self.b_name(x) + self.a_name(torch.flip(x, [3])))

    graph = graph_of(Alias())
    assert [group.size for group in graph.groups] == [6]
    assert sum(term.coefficient for term in graph.cost_terms["params"] if not term.dims) + sum(
        term.coefficient * 6 for term in graph.cost_terms["params"] if term.dims
    ) == sum(parameter.numel() for parameter in graph.module.parameters())


def test_coordinates_that_a_layer_is_given_are_no_units() -> None:
    class Bias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.rand(8, 2))
            self.first, self.second = nn.Linear(2, 6), nn.Linear(6, 1)

        def forward(self, x):
            return x + self.second(self.first(self.table).relu())

    assert [(group.name, group.size) for group in graph_of(Bias()).groups] == [("first", 6)]
