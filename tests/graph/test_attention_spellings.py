"""Attention as people write it: whole heads, and channels within heads, whatever the spelling."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records.method import AttentionOption
from fairdeploy.surgery.equivalence import prove
from fairdeploy.surgery.removal import remove_units
from tests.surgery.exactness import random_removal

WIDTH, HEADS, CHANNELS, TOKENS = 12, 4, 6, 9
INNER = HEADS * CHANNELS
EXAMPLE = (torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0)),)


def heads_of(x: Tensor, num_heads: int = HEADS) -> Tensor:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.transpose(-2, -1)) * CHANNELS**-0.5).softmax(-1) @ v


def fused(net: Net, x: Tensor) -> Tensor:
    q, k, v = (heads_of(part) for part in net.qkv(x).chunk(3, -1))
    return joined(F.scaled_dot_product_attention(q, k, v))


def packed_eager(net: Net, x: Tensor) -> Tensor:
    qkv = net.qkv(x).reshape(-1, TOKENS, 3, HEADS, CHANNELS).permute(2, 0, 3, 1, 4)
    return joined(softmax_attention(*qkv.unbind(0)))


def heads_first(net: Net, x: Tensor) -> Tensor:
    qkv = net.qkv(x).reshape(-1, TOKENS, HEADS, 3 * CHANNELS).permute(0, 2, 1, 3)
    return joined(softmax_attention(*qkv.split(CHANNELS, -1)))


def separate(net: Net, x: Tensor) -> Tensor:
    return joined(softmax_attention(heads_of(net.q(x)), heads_of(net.k(x)), heads_of(net.v(x))))


def by_einsum(net: Net, x: Tensor) -> Tensor:
    q, k, v = (part(x).unflatten(-1, (HEADS, -1)) for part in (net.q, net.k, net.v))
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)


def joined_with_the_batch(net: Net, x: Tensor) -> Tensor:
    q, k, v = (heads_of(part(x)).flatten(0, 1) for part in (net.q, net.k, net.v))
    mixed = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
    return joined(mixed.unflatten(0, (-1, HEADS)))


def cross_covariance(net: Net, x: Tensor) -> Tensor:
    qkv = net.qkv(x).reshape(-1, TOKENS, 3, HEADS, CHANNELS).permute(2, 0, 3, 4, 1)
    q, k, v = qkv.unbind(0)
    weights = (q @ k.transpose(-2, -1)).softmax(-1)
    return (weights @ v).permute(0, 3, 1, 2).flatten(2)


def linear_attention(net: Net, x: Tensor) -> Tensor:
    q, k, v = (heads_of(part(x)) for part in (net.q, net.k, net.v))
    return joined(q.relu() @ (k.relu().transpose(-2, -1) @ v))


def grouped_queries(net: Net, x: Tensor) -> Tensor:
    k, v = (heads_of(part(x), 2) for part in (net.few_k, net.few_v))
    return joined(F.scaled_dot_product_attention(heads_of(net.q(x)), k, v, enable_gqa=True))


def repeated_keys(net: Net, x: Tensor) -> Tensor:
    k, v = (heads_of(part(x), 2).repeat_interleave(2, 1) for part in (net.few_k, net.few_v))
    return joined(softmax_attention(heads_of(net.q(x)), k, v))


def one_key_for_all(net: Net, x: Tensor) -> Tensor:
    k, v = (heads_of(part(x), 1) for part in (net.one_k, net.one_v))
    return joined(softmax_attention(heads_of(net.q(x)), k, v))


def talking_heads(net: Net, x: Tensor) -> Tensor:
    q, k, v = (heads_of(part(x)) for part in (net.q, net.k, net.v))
    scores = (q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)
    return joined(net.talk(scores).permute(0, 3, 1, 2).softmax(-1) @ v)


class Net(nn.Module):
    """A block with every projection that some spelling needs, and a head."""

    def __init__(self, attend: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.attend = attend
        self.qkv = nn.Linear(WIDTH, 3 * INNER)
        self.q, self.k, self.v = (nn.Linear(WIDTH, INNER) for _ in range(3))
        self.few_k, self.few_v = (nn.Linear(WIDTH, INNER // 2) for _ in range(2))
        self.one_k, self.one_v = (nn.Linear(WIDTH, CHANNELS) for _ in range(2))
        self.talk = nn.Linear(HEADS, HEADS)
        self.proj, self.head = nn.Linear(INNER, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.proj(self.attend(self, x))).mean(1)


# spelling, units of heads, and (blocks, units in each) of channels
SPELLINGS = [
    (fused, HEADS, {(2 * HEADS, CHANNELS)}),
    (packed_eager, HEADS, {(2 * HEADS, CHANNELS)}),
    (heads_first, HEADS, {(HEADS, CHANNELS)}),
    (separate, HEADS, {(HEADS, CHANNELS)}),
    (joined_with_the_batch, HEADS, {(1, CHANNELS)}),
    (cross_covariance, HEADS, set()),
    (linear_attention, HEADS, {(HEADS, CHANNELS)}),
    (grouped_queries, 2, {(1, CHANNELS)}),
    (repeated_keys, 2, {(2, CHANNELS)}),
    (one_key_for_all, HEADS, {(1, CHANNELS)}),
    (talking_heads, None, {(HEADS, CHANNELS)}),
    (by_einsum, HEADS, None),
]
NAMES = [spelling.__name__ for spelling, _, _ in SPELLINGS]


def attention_groups(network: Net, attention: AttentionOption) -> tuple[set[tuple[int, int]], bool]:
    """Shapes of the groups within attention, and whether a random removal is exact."""
    graph = build_unit_graph(network, EXAMPLE, attention=attention)
    removed = random_removal(graph, seed=1, share=0.4)
    shrunk = remove_units(graph, removed).module
    shapes = {
        (group.num_blocks, group.size)
        for group in graph.groups
        if any((m.tensor, m.dim) == ("proj.weight", 1) for m in group.members)
        or any(m.tensor.startswith(("q.", "qkv.")) and m.dim == 0 for m in group.members)
    }
    return shapes, prove(graph, shrunk, removed).passed


@pytest.mark.parametrize(("spelling", "num_heads", "_"), SPELLINGS, ids=NAMES)
def test_whole_heads_go_from_any_spelling(spelling, num_heads, _) -> None:
    torch.manual_seed(0)
    shapes, is_exact = attention_groups(Net(spelling).eval(), "heads")
    assert is_exact
    if num_heads is not None:
        assert shapes == {(1, num_heads)}


@pytest.mark.parametrize(("spelling", "_", "channels"), SPELLINGS, ids=NAMES)
def test_channels_within_heads_go_from_any_spelling(spelling, _, channels) -> None:
    torch.manual_seed(0)
    shapes, is_exact = attention_groups(Net(spelling).eval(), "channels")
    assert is_exact
    if channels is not None:
        assert shapes == channels


@pytest.mark.parametrize(("spelling", "num_heads", "channels"), SPELLINGS, ids=NAMES)
def test_both_go_from_any_spelling(spelling, num_heads, channels) -> None:
    torch.manual_seed(0)
    shapes, is_exact = attention_groups(Net(spelling).eval(), "both")
    assert is_exact
    if num_heads is not None and channels is not None:
        assert shapes == {(1, num_heads)} | channels


@pytest.mark.parametrize("fast", [True, False], ids=["fused", "eager"])
@pytest.mark.parametrize("attention", ["heads", "channels", "both"])
def test_torch_s_own_multihead_attention_shrinks(fast: bool, attention: AttentionOption) -> None:
    class Mha(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mha, self.head = nn.MultiheadAttention(WIDTH, HEADS), nn.Linear(WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = x.transpose(0, 1)
            mixed, _ = self.mha(y, y, y, need_weights=not fast)
            return self.head(mixed.transpose(0, 1)).mean(1)

    torch.manual_seed(0)
    graph = build_unit_graph(Mha().eval(), EXAMPLE, attention=attention)
    removed = random_removal(graph, seed=1, share=0.5)
    assert removed.any()
    shrunk = remove_units(graph, removed).module
    assert prove(graph, shrunk, removed).passed
