"""A small residual network with every kind of produced parameter."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TinyResidual(nn.Module):
    """Stem and block around a shortcut, then two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 5, 3, padding=1)
        self.outer = nn.Conv2d(5, 6, 3, padding=1)
        self.hidden = nn.Linear(6, 7)
        self.head = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 4]."""
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = torch.relu(x + self.outer(torch.relu(self.inner(x))))
        out: Tensor = self.head(torch.tanh(self.hidden(x.mean((2, 3)))))
        return out


LAYERS = {
    "stem.weight": "trunk",
    "outer.weight": "trunk",
    "inner.weight": "inner",
    "hidden.weight": "hidden",
}
OTHERS = {
    "stem_norm.weight": "trunk",
    "stem_norm.bias": "trunk",
    "outer.bias": "trunk",
    "inner.bias": "inner",
    "hidden.bias": "hidden",
}


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give all parameters and statistics seeded random values; changes ``module``."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
        for name, buffer in module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return module.eval()
