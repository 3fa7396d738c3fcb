"""How the learning rate goes over a training."""

from __future__ import annotations

import math

import torch

WARMUP_SHARE = 0.05


def rate_factor(step: int, count: int) -> float:
    """Share of the highest rate in step ``step`` of ``count``: up in a line, down like a cosine."""
    warmup = max(1, round(WARMUP_SHARE * count))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(count - warmup, 1)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Change the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
