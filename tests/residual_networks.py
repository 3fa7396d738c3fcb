"""Small networks with residual blocks of each kind, for the tests of whole blocks that go."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.random_networks import randomise

IMAGE = (3, 8, 8)


class BasicBlock(nn.Module):
    """Two convolutions around a shortcut that is padded (option A) or projected."""

    def __init__(self, into: int, out: int, *, projects: bool) -> None:
        super().__init__()
        self.stride = 1 if into == out else 2
        self.conv1 = nn.Conv2d(into, out, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.padding = (out - into) // 2
        self.downsample: nn.Module | None = None
        if projects and into != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(into, out, 1, self.stride, bias=False), nn.BatchNorm2d(out)
            )

    def shortcut(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            return self.downsample(x)
        if self.stride == 1:
            return x
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return self.relu(y)


class ResidualNetwork(nn.Module):
    """Stem, two stages of three basic blocks, classifier."""

    def __init__(self, *, projects: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(*(BasicBlock(4, 4, projects=projects) for _ in range(3)))
        self.layer2 = nn.Sequential(
            BasicBlock(4, 8, projects=projects),
            *(BasicBlock(8, 8, projects=projects) for _ in range(2)),
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.bn1(self.conv1(x)).relu()))
        return self.head(x.mean((2, 3)))


class TransformerBlock(nn.Module):
    """Attention and two layers, each after a norm and with drop path and a scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = SelfAttention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))
        self.scale = nn.Parameter(torch.ones(width))
        self.drop_path = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.scale * self.mlp(self.norm2(x)))


class SelfAttention(nn.Module):
    """Two heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        parts = self.qkv(x).reshape(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*parts.unbind(0))
        return self.proj(y.transpose(1, 2).flatten(2))


class PreNormTransformer(nn.Module):
    """Patches, places, three blocks, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.places = nn.Parameter(torch.zeros(1, 4, 8))
        self.blocks = nn.Sequential(*(TransformerBlock(8) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(x)).mean(1))


class ConvNextBlock(nn.Module):
    """Depthwise convolution, norm and two layers in channels-last order, a scale, a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 12), nn.Linear(12, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    """Stem, three blocks, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 2, stride=2)
        self.blocks = nn.Sequential(*(ConvNextBlock(6) for _ in range(3)))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "option A": lambda: ResidualNetwork(projects=False),
    "projected": lambda: ResidualNetwork(projects=True),
    "transformer": PreNormTransformer,
    "convnext": ConvNext,
}


def network(kind: str, seed: int = 3) -> nn.Module:
    """One of them with random weights and norm statistics, in eval mode."""
    return randomise(NETWORKS[kind](), seed)


def images(count: int, seed: int = 0) -> Tensor:
    """Noise, [count, 3, 8, 8]."""
    return torch.randn(count, *IMAGE, generator=torch.Generator().manual_seed(seed))
