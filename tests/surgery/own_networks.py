"""Small networks that hold their sizes in every way that attribute patching has to find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.surgery.removal import remove_units

IMAGE = (3, 8, 8)
EXAMPLE = (torch.randn(2, *IMAGE, generator=torch.Generator().manual_seed(0)),)


@dataclass(frozen=True)
class Sizes:
    """A plain object that a module keeps."""

    heads: int
    head_dim: int


class Attention(nn.Module):
    """Attention whose numbers come from attributes; ``spelling`` says from which."""

    def __init__(self, dim: int, heads: int, head_dim: int, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.proj = nn.Linear(heads * head_dim, dim)
        if spelling == "object":
            self.sizes = Sizes(heads, head_dim)
        elif spelling == "dict":
            self.options = {"shape": {"heads": heads, "head_dim": head_dim}}
        elif spelling == "input width":
            self.heads = heads
        else:
            self.heads, self.head_dim, self.inner = heads, head_dim, heads * head_dim

    def forward(self, x: Tensor) -> Tensor:
        """Attention over [N, L, dim]."""
        n, length, width = x.shape
        if self.spelling == "object":
            heads, head_dim = self.sizes.heads, self.sizes.head_dim
        elif self.spelling == "dict":
            heads = self.options["shape"]["heads"]
            head_dim = self.options["shape"]["head_dim"]
        elif self.spelling == "input width":
            heads, head_dim = self.heads, width // self.heads
        else:
            heads, head_dim = self.heads, self.head_dim
        qkv = self.qkv(x).reshape(n, length, 3, heads, head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        inner = self.inner if self.spelling == "attributes" else heads * head_dim
        return self.proj(y.transpose(1, 2).reshape(n, length, inner))


class AttentionNetwork(nn.Module):
    """Patches, normed attention and hidden neurons, a classifier."""

    def __init__(self, spelling: str, dim: int = 8, heads: int = 4, head_dim: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, head_dim, spelling)
        self.mlp = nn.Sequential(nn.Linear(dim, 12), nn.GELU(), nn.Linear(12, dim))
        self.head = nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 5]."""
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = y + self.attention(self.norm(y))
        return self.head((y + self.mlp(y)).mean(1))


class SplitNetwork(nn.Module):
    """Splits by sizes that a list holds, into pieces of equal length that may end unequal."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.pieces = [4, 4, 4]
        self.branches = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 5]."""
        parts = torch.split(torch.relu(self.stem(x)), self.pieces, 1)
        joined = [branch(part) for branch, part in zip(self.branches, parts, strict=True)]
        return self.head(torch.cat(joined, 1).mean((2, 3)))


class BareParameters(nn.Module):
    """A plain tensor, a tensor in a list and a bare parameter, all as wide as the units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1)
        self.offset = torch.arange(6.0).reshape(1, 6, 1, 1)
        self.listed = [torch.arange(6.0).reshape(1, 6, 1, 1) + 1]
        self.gain = nn.Parameter(torch.linspace(1, 2, 6))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 5]."""
        y = torch.relu(self.first(x) + self.offset) * self.listed[0]
        return self.second(y * self.gain.view(1, -1, 1, 1)).mean((2, 3))


class CachedBias(nn.Module):
    """Looks a bias up once in eval mode and keeps it, as LeViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1)
        self.table = nn.Parameter(torch.linspace(-1, 1, 6)[:, None].repeat(1, 3))
        self.cache: dict[str, Tensor] = {}

    def bias(self) -> Tensor:
        """The bias, [1, 6, 1, 1]."""
        if self.training:
            return self.table.sum(1)[None, :, None, None]
        if "bias" not in self.cache:
            self.cache["bias"] = self.table.sum(1)[None, :, None, None]
        return self.cache["bias"]

    def train(self, mode: bool = True) -> CachedBias:
        """Drop the cache before the table changes."""
        self.cache.clear()
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 5]."""
        return self.second(torch.relu(self.first(x) + self.bias())).mean((2, 3))


class MaskedMixer(nn.Module):
    """Reads its width off its input, and writes a mask into a tensor that it makes."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.share = 2
        self.widen, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix [N, L, width] along L, without the first entry."""
        n, length, width = x.shape
        mask = x.new_zeros(length)
        mask[1:] = 1.0
        hidden = self.widen(x).reshape(n, length, 2 * width)
        return self.narrow(hidden * mask[:, None])


class MaskedNetwork(nn.Module):
    """Calls a mixer and reads an attribute of it."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.mixer = MaskedMixer(8, 16)
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 5]."""
        y = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        y = y + self.mixer(y) / self.mixer.share
        return self.head((y + self.mlp(y)).mean(1))


class Trainable(nn.Module):
    """Batch norm and all kinds of dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.maps = nn.Dropout2d(0.3)
        self.hidden = nn.Linear(12, 12)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 5]."""
        y = self.maps(torch.relu(self.norm(self.conv(x)))).mean((2, 3))
        return self.head(F.dropout(self.drop(torch.relu(self.hidden(y))), 0.1, self.training))


def half_of_each_group(graph: UnitGraph, seed: int = 0) -> NDArray[np.bool_]:
    """Half of each group's units, drawn at random."""
    rng = np.random.default_rng(seed)
    removed = np.zeros(graph.num_units, dtype=bool)
    for group in graph.groups:
        for block in group.blocks:
            removed[rng.choice(block, len(block) // 2, replace=False)] = True
    return removed


def halved(
    network: nn.Module, seed: int = 0
) -> tuple[UnitGraph, NDArray[np.bool_], fx.GraphModule]:
    """The unit graph, what goes, and the graph module without it."""
    if network.training:
        network.eval()
    graph = build_unit_graph(network, EXAMPLE)
    removed = half_of_each_group(graph, seed)
    assert removed.any()
    return graph, removed, remove_units(graph, removed).module
