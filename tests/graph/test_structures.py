"""Which groups count as equal in kind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairdeploy.graph.units import build_unit_graph
from fairdeploy.graph.weight_readers import structures


class ConvNorm(nn.Sequential):
    """Convolution, norm, activation."""

    def __init__(self, into: int, out: int, size: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(into, out, size, stride, size // 2, bias=False), nn.BatchNorm2d(out)
        )


class Stages(nn.Module):
    """Two stages of two residual blocks each, of 8 and 12 channels; a hidden layer on top."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 8)
        self.inner = nn.ModuleList(
            [ConvNorm(8, 5), ConvNorm(8, 6, size=1), ConvNorm(12, 7), ConvNorm(12, 9)]
        )
        self.outer = nn.ModuleList(
            [ConvNorm(5, 8), ConvNorm(6, 8), ConvNorm(7, 12), ConvNorm(9, 12)]
        )
        self.between = ConvNorm(8, 12, stride=2)
        self.hidden = nn.Linear(12, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 4]."""
        x = self.stem(x).relu()
        for number, (inner, outer) in enumerate(zip(self.inner, self.outer, strict=True)):
            x = self.between(x).relu() if number == 2 else x
            x = (x + outer(inner(x).relu())).relu()
        out: Tensor = self.head(self.hidden(x.mean((2, 3))).relu())
        return out


def test_inner_channels_of_all_blocks_are_of_one_kind_and_streams_and_neurons_of_others() -> None:
    graph = build_unit_graph(Stages().eval(), (torch.zeros(2, 3, 8, 8),))
    kinds = dict(zip((group.name for group in graph.groups), structures(graph), strict=True))
    inner = {kinds[f"inner.{number}.0"] for number in range(4)}
    assert len(inner) == 1
    # The first stream is read by a convolution more, the second by the hidden layer.
    streams = {kinds[group.name] for group in graph.groups if group.is_summed}
    assert len(streams) == 2
    assert len({*inner, *streams, kinds["hidden"]}) == 4
    assert len(kinds) == 7


class Heads(nn.Module):
    """Two attention blocks of other widths, and a feed-forward part after each."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.ModuleList([nn.Linear(8, 3 * heads * 4) for heads in (2, 3)])
        self.back = nn.ModuleList([nn.Linear(heads * 4, 8) for heads in (2, 3)])
        self.wide = nn.ModuleList([nn.Linear(8, width) for width in (6, 9)])
        self.narrow = nn.ModuleList([nn.Linear(width, 8) for width in (6, 9)])
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 2], of [N, 5, 8]."""
        for block in range(2):
            parts = self.qkv[block](self.norm(x)).reshape(-1, 5, 3, 2 + block, 4)
            query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
            mixed = nn.functional.scaled_dot_product_attention(query, key, value)
            x = x + self.back[block](mixed.transpose(1, 2).reshape(-1, 5, (2 + block) * 4))
            x = x + self.narrow[block](self.wide[block](x).relu())
        out: Tensor = self.head(self.norm(x).mean(1))
        return out


def test_heads_are_one_kind_and_hidden_neurons_another() -> None:
    graph = build_unit_graph(Heads().eval(), (torch.zeros(2, 5, 8),))
    kinds = dict(zip((group.name for group in graph.groups), structures(graph), strict=True))
    assert kinds["qkv.0"] == kinds["qkv.1"] != kinds["wide.0"] == kinds["wide.1"]
    assert len(kinds) == 4
