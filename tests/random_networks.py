"""Random small networks for property tests: all ways of tying channels, in random order."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.random_blocks import MORE_BLOCKS

BLOCKS = (
    "plain", "residual", "padded_residual", "dense", "depthwise", "grouped", "split", "shared",
    "gated", "shuffle", "branches", "attention", *MORE_BLOCKS,
)  # fmt: skip
IMAGE = (3, 8, 8)


class ConvNorm(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, into: int, out: int, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(into, out, 3, padding=1, groups=groups, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        )


class Block(nn.Module):
    """One random block; ``out`` tells how many channels it gives."""

    def __init__(self, kind: str, into: int, width: int) -> None:
        super().__init__()
        self.kind, self.width, self.into = kind, width, into
        self.out = into
        if kind in {"plain", "padded_residual"}:
            self.first = ConvNorm(into, width)
            self.out = width if kind == "plain" else into + 2
            if kind == "padded_residual":
                self.second = ConvNorm(width, self.out)
        elif kind in {"residual", "shared"}:
            self.first = ConvNorm(into, width)
            self.second = ConvNorm(width, into)
        elif kind == "dense":
            self.first = ConvNorm(into, width)
            self.out = into + width
        elif kind == "depthwise":
            self.first = ConvNorm(into, into, groups=into)
        elif kind in {"grouped", "shuffle"}:
            self.widen = ConvNorm(into, 4 * width)
            self.first = ConvNorm(4 * width, 4 * width, groups=2)
            self.out = 4 * width
        elif kind in {"split", "branches"}:
            self.widen = ConvNorm(into, 2 * width)
            self.first = ConvNorm(width, width)
            self.out = 2 * width
        elif kind == "gated":
            self.gate = nn.Conv2d(into, into, 1)
        elif kind == "attention":
            self.num_heads = 2
            self.qkv = nn.Conv2d(into, 3 * 2 * width, 1)
            self.proj = nn.Conv2d(2 * width, into, 1)
        elif kind in MORE_BLOCKS:
            self.whole = MORE_BLOCKS[kind](into, width)
            self.out = self.whole.out

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        if self.kind in MORE_BLOCKS:
            return self.whole(x)
        if self.kind in {"plain", "depthwise"}:
            return self.first(x)
        if self.kind == "residual":
            return x + self.second(self.first(x))
        if self.kind == "shared":
            return self.second(self.first(x)) + self.second(self.first(torch.flip(x, [3])))
        if self.kind == "padded_residual":
            return self.second(self.first(x)) + nn.functional.pad(x, (0, 0, 0, 0, 1, 1))
        if self.kind == "dense":
            return torch.cat([x, self.first(x)], dim=1)
        if self.kind == "grouped":
            return self.first(self.widen(x))
        if self.kind == "shuffle":
            y = self.first(self.widen(x))
            n, c, h, w = y.shape
            return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        if self.kind == "split":
            kept, changed = self.widen(x).split(self.width, dim=1)
            return torch.cat([kept, self.first(changed)], dim=1)
        if self.kind == "branches":
            kept, changed = self.widen(x).chunk(2, dim=1)
            return torch.cat([kept + self.first(changed), changed], dim=1)
        if self.kind == "gated":
            return x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        n, _, h, w = x.shape
        qkv = self.qkv(x).flatten(2).transpose(1, 2)
        q, k, v = qkv.reshape(n, h * w, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        y = y.transpose(1, 2).reshape(n, h * w, -1).transpose(1, 2)
        return x + self.proj(y.reshape(n, -1, h, w))


class RandomNetwork(nn.Module):
    """Stem, random blocks, and a classifier on flattened or pooled maps."""

    def __init__(self, kinds: tuple[str, ...], widths: tuple[int, ...], flatten: bool) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 4)
        blocks, channels = [], 4
        for kind, width in zip(kinds, widths, strict=True):
            block = Block(kind, channels, width)
            channels = block.out
            blocks.append(block)
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AvgPool2d(4 if flatten else 8)
        self.head = nn.Linear(channels * (4 if flatten else 1), 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 5]."""
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))

    def examples(self) -> tuple[Tensor, ...]:
        """Inputs to capture it with."""
        return (torch.randn(2, *IMAGE, generator=torch.Generator().manual_seed(0)),)


class TwoInputNetwork(RandomNetwork):
    """A random network whose first maps meet a second input: an image, or a few numbers."""

    def __init__(
        self, kinds: tuple[str, ...], widths: tuple[int, ...], flatten: bool, meeting: str
    ) -> None:
        super().__init__(kinds, widths, flatten)
        self.meeting = meeting
        self.other = nn.Linear(6, 8) if meeting == "modulated" else ConvNorm(3, 4)
        self.mix = ConvNorm(8 if meeting == "joined" else 4, 4)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:  # type: ignore[override]
        """Logits, [N, 5]."""
        x, y = self.stem(x), self.other(other)
        if self.meeting == "modulated":
            scale, shift = y[:, :, None, None].chunk(2, dim=1)
            x = x * scale + shift
        else:
            x = x + y if self.meeting == "added" else torch.cat([x, y], dim=1)
        return self.head(self.pool(self.blocks(self.mix(x))).flatten(1))

    def examples(self) -> tuple[Tensor, ...]:
        """Inputs to capture it with."""
        shape = (6,) if self.meeting == "modulated" else IMAGE
        other = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
        return (*super().examples(), other)


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Give every norm random statistics and affine values (changes ``module``); eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 0.5 / max(parameter[0].numel(), 1) ** 0.5 if parameter.dim() > 1 else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        for layer in module.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.weight.copy_(torch.rand(layer.weight.shape, generator=generator) + 0.5)
                layer.running_mean.normal_(0.0, 0.2, generator=generator)
                layer.running_var.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


MEETINGS = ("added", "joined", "modulated")


@st.composite
def networks(draw: st.DrawFn, max_blocks: int = 4, *, max_inputs: int = 1) -> RandomNetwork:
    """A random network in eval mode with random weights and norm statistics."""
    kinds = draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=max_blocks))
    widths = draw(st.lists(st.integers(2, 6), min_size=len(kinds), max_size=len(kinds)))
    arguments = (tuple(kinds), tuple(widths), draw(st.booleans()))
    if draw(st.integers(1, max_inputs)) == 1:
        network = RandomNetwork(*arguments)
    else:
        network = TwoInputNetwork(*arguments, draw(st.sampled_from(MEETINGS)))
    randomise(network, draw(st.integers(0, 2**16)))
    return network
