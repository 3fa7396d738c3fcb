"""How weights are changed in a training, and how the learning rate goes over it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

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


def with_decay(parameters: Sequence[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Groups for an optimiser: weights are pulled towards zero; norms and biases are not."""
    weights = [parameter for parameter in parameters if parameter.dim() > 1]
    others = [parameter for parameter in parameters if parameter.dim() <= 1]
    groups = ((weights, decay), (others, 0.0))
    return [{"params": chosen, "weight_decay": own} for chosen, own in groups if chosen]


def has_batchnorm(network: fx.GraphModule) -> bool:
    """Whether it has one; without, gradients of different layers differ much in size."""
    batch_norm = torch.ops.aten.batch_norm.default
    return any(node.target is batch_norm for node in network.graph.nodes)
