"""Other pruners at given MACs: Torch-Pruning 1.6.1 by its own importances, and a common training.

Torch-Pruning's ratio is bisected until the MACs agree. Its modules are changed in place, so each
try begins from a fresh copy. Of CIFAR ResNets it prunes inner channels only, since it loses count
at their padded shortcuts. Found through ``--peer-path`` (``pip install --no-deps --target FOLDER
torch-pruning==1.6.1``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.cifar_resnet import stream_layers

PEERS = (
    "tp-magnitude", "tp-magnitude-local", "tp-l1-local", "tp-taylor", "tp-isomorphic",
)  # fmt: skip
CLOSE_MACS = 0.01
_MAX_TRIES = 12
_BATCH = 128


def count_macs(module: nn.Module, example: Tensor) -> int:
    """Multiply-adds of one image, attention products included; the same count for every pruner."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(example[:1])
    return int(counter.get_total_flops() // 2)


def pruned_by_peer(
    peer: str, module: nn.Module, images: Tensor, labels: Tensor, share: float
) -> nn.Module:
    """A pruned copy whose MACs are nearest to ``share`` of the original's.

    Args:
        peer: One of ``PEERS``.
        module: In eval mode.
        images: Calibration images; only Taylor's importance looks at more than one.
        labels: Of the images.
        share: Of the MACs.
    """
    whole = count_macs(module, images)
    low, high = 0.0, 0.95
    best: tuple[float, nn.Module] | None = None
    for _ in range(_MAX_TRIES):
        ratio = (low + high) / 2
        found = _pruned(peer, copy.deepcopy(module), images, labels, ratio).eval()
        got = count_macs(found, images) / whole
        if best is None or abs(got - share) < abs(best[0] - share):
            best = got, found
        if abs(got - share) <= CLOSE_MACS / 2:
            break
        low, high = (ratio, high) if got > share else (low, ratio)
    assert best is not None
    return best[1]


def _pruned(
    peer: str, module: nn.Module, images: Tensor, labels: Tensor, ratio: float
) -> nn.Module:
    import torch_pruning  # found through --peer-path

    importance = torch_pruning.importance
    importances: dict[str, Any] = {
        "tp-magnitude": importance.MagnitudeImportance(p=2),
        "tp-magnitude-local": importance.MagnitudeImportance(p=2),
        "tp-l1-local": importance.MagnitudeImportance(p=1),
        "tp-taylor": importance.TaylorImportance(),
        "tp-isomorphic": importance.MagnitudeImportance(p=2),
    }
    if peer == "tp-taylor":
        module.zero_grad()
        for start in range(0, len(images), _BATCH):
            part = slice(start, start + _BATCH)
            functional.cross_entropy(module(images[part]), labels[part]).backward()
    attentions: list[Any] = [
        layer for layer in module.modules() if isinstance(getattr(layer, "qkv", None), nn.Linear)
    ]
    linears = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    pruner = torch_pruning.pruner.BasePruner(
        module,
        images[:1],
        importance=importances[peer],
        global_pruning=not peer.endswith("-local"),
        isomorphic=peer == "tp-isomorphic",
        pruning_ratio=ratio,
        max_pruning_ratio=0.95,
        ignored_layers=[*linears[-1:], *stream_layers(module)],
        num_heads={layer.qkv: layer.num_heads for layer in attentions},
    )
    pruner.step()
    for layer in attentions:
        layer.num_heads = pruner.num_heads[layer.qkv]
        layer.head_dim = layer.qkv.out_features // (3 * layer.num_heads)
        if hasattr(layer, "attn_dim"):
            layer.attn_dim = layer.qkv.out_features // 3
    return module


def with_new_statistics(module: nn.Module, images: Tensor) -> nn.Module:
    """Change the module: its batch norms' running statistics are those of the images."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an average over all batches
        norm.train()
    with torch.no_grad():
        for part in torch.split(images, _BATCH):
            module(part)
    return module.eval()


def trained(
    module: nn.Module, images: Tensor, labels: Tensor, epochs: int, seed: int, size: int
) -> nn.Module:
    """Change the module: SGD with a cosine, crops and flips; the same for every pruner.

    Args:
        module: Pruned.
        images: Normalised, [N, 3, 32, 32].
        labels: Of the images.
        epochs: Whole passes.
        seed: Of order and augmentation.
        size: That the network takes.
    """
    random = torch.Generator().manual_seed(seed)
    parameters = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(parameters, 0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * -(-len(images) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    module.train()
    for _ in range(epochs):
        for index in torch.split(torch.randperm(len(images), generator=random), _BATCH):
            batch = resized(_augmented(images[index], random), size)
            optimizer.zero_grad()
            functional.cross_entropy(module(batch), labels[index]).backward()
            optimizer.step()
            schedule.step()
    return module.eval()


def resized(images: Tensor, size: int) -> Tensor:
    """Bilinear, as the networks on larger images were trained."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(images, size=size, mode="bilinear", align_corners=False)


def _augmented(images: Tensor, random: torch.Generator) -> Tensor:
    """A crop out of a frame of 4 pixels and a flip, drawn for each image."""
    flips = torch.rand(len(images), generator=random) < 0.5
    images = torch.where(flips[:, None, None, None], images.flip(3), images)
    framed = functional.pad(images, (4, 4, 4, 4))
    places = torch.randint(0, 9, (len(images), 2), generator=random).tolist()
    height, width = images.shape[2:]
    return torch.stack([
        image[:, top : top + height, left : left + width]
        for image, (top, left) in zip(framed, places, strict=True)
    ])  # fmt: skip


def accuracy_of(network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
    """Per cent of the images whose first guess is right."""
    with torch.no_grad():
        guesses = torch.cat([network(part).argmax(dim=1) for part in torch.split(images, 250)])
    return 100 * float((guesses == labels).float().mean())
