"""Blocks for random networks beyond convolutions: each tells in ``out`` how many channels it gives.

All take and give maps of any number of channels and keep height and width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MapBlock(nn.Module):
    """Takes ``into`` channels and gives ``out``."""

    out: int


class Recurrent(MapBlock):
    """Rows of the map as a sequence, through one or two layers, both ways; added to the map."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        kind = nn.LSTM if width % 2 else nn.GRU
        self.layer = kind(
            into, width, 1 + width // 4, batch_first=True, bidirectional=width % 3 != 0
        )
        self.proj = nn.Linear(width * (1 + self.layer.bidirectional), into)
        self.out = into

    def forward(self, x: Tensor) -> Tensor:
        rows, _ = self.layer(x.mean(3).transpose(1, 2))
        return x + self.proj(rows).transpose(1, 2)[..., None]


class GatedLinear(MapBlock):
    """Value and gate from one convolution."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(into, 2 * width, 1), width

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.conv(x), dim=1)


class Transposed(MapBlock):
    """A transposed convolution of two groups."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(into, 2 * width, 1)
        self.conv = nn.ConvTranspose2d(2 * width, 4 * width, 3, padding=1, groups=2)
        self.out = 4 * width

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.widen(x).relu())


class Pixels(MapBlock):
    """Pixels into channels, a convolution, and back."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(4 * into, 4 * width, 1), width

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(F.pixel_unshuffle(x, 2)).relu(), 2)


class GroupNormed(MapBlock):
    """A group norm of ``width`` groups."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(into, 2 * width, 1), nn.GroupNorm(width, 2 * width)
        self.out = 2 * width

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


class SqueezeExcite(MapBlock):
    """Channels scaled by what all of them say."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(into, width, 1), nn.Conv2d(width, into, 1)
        self.out = into

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class RootMeanSquare(MapBlock):
    """Two linear layers after a root mean square norm, added to the map."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(into, eps=0.1, elementwise_affine=width % 2 == 0)
        self.wide, self.narrow = nn.Linear(into, width), nn.Linear(width, into)
        self.out = into

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(self.wide(self.norm(x.permute(0, 2, 3, 1))).relu())
        return x + y.permute(0, 3, 1, 2)


class Einsum(MapBlock):
    """A linear layer and a sum over channels as Einstein sums."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        self.weight, self.out = nn.Parameter(torch.zeros(into, width)), width

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bc...,cd->bd...", x, self.weight)
        return y * torch.einsum("bdhw->bhw", y)[:, None].sigmoid()


class GlobalResponse(MapBlock):
    """Channels scaled by their share of the mean length (ConvNeXt V2)."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(into, width, 1), nn.Parameter(torch.ones(width, 1, 1))
        self.out, self.eps = width, 0.01

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        length = y.norm(p=2, dim=(2, 3), keepdim=True)
        return y + self.scale * y * length / (length.mean(1, keepdim=True) + self.eps)


MORE_BLOCKS: dict[str, Callable[[int, int], MapBlock]] = {
    "recurrent": Recurrent,
    "glu": GatedLinear,
    "transposed": Transposed,
    "pixels": Pixels,
    "group_norm": GroupNormed,
    "squeeze": SqueezeExcite,
    "rms": RootMeanSquare,
    "einsum": Einsum,
    "response": GlobalResponse,
}
