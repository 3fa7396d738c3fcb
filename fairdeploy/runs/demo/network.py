"""The demo's network: a small residual CNN, trained from scratch in about a minute on two cores.

Wide enough that arithmetic, not the cost of a call, takes its time: shrinking it shows as speed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairdeploy.inputs.torchvision_compat import ensure_torchvision
from fairdeploy.runs.demo.images import IMAGE_SIZE, NUM_CLASSES, DigitSplit
from fairdeploy.runs.progress import Stage

NUM_EPOCHS = 10
_BATCH = 64
_PEAK_LEARNING_RATE = 4e-3
_WEIGHT_DECAY = 0.02
_MAX_SHIFT_PX = 3


def build_network() -> nn.Module:
    """An untrained network of timm's own classes, so that its pickle loads without trust."""
    ensure_torchvision()
    from timm.models.resnet import BasicBlock, ResNet

    block: Any = BasicBlock  # timm's annotation asks for an instance
    network: Any = ResNet(
        block, (1, 1, 1, 1), num_classes=NUM_CLASSES, in_chans=1, channels=(64, 96, 128, 160)
    )
    # The stem of CIFAR networks, but at every second pixel: timm's own is made for 224 x 224.
    network.conv1 = nn.Conv2d(1, 64, 3, stride=2, padding=1, bias=False)
    network.maxpool = nn.Identity()
    assert isinstance(network, nn.Module)
    return network


def normalization(split: DigitSplit) -> tuple[float, float]:
    """Mean and standard deviation of the pixels in [0, 1], rounded as they are written down."""
    pixels = split.images / 255.0
    return round(float(pixels.mean()), 4), round(float(pixels.std()), 4)


def images_as_input(split: DigitSplit, mean: float, std: float) -> Tensor:
    """Normalised images, float32 [N, 1, 32, 32]."""
    images = torch.from_numpy(split.images).float().div(255).sub(mean).div(std)
    return images.reshape(-1, 1, IMAGE_SIZE, IMAGE_SIZE)


def train(network: nn.Module, images: Tensor, labels: Tensor, *, seed: int, stage: Stage) -> None:
    """Train ``network`` (changes it) and leave it in eval mode; reports one step per epoch."""
    num_threads = torch.get_num_threads()
    # The layers are so small that threads cost more than they bring, much more on a busy machine.
    torch.set_num_threads(1)
    try:
        _train(network, images, labels, seed=seed, stage=stage)
    finally:
        torch.set_num_threads(num_threads)
        network.eval()


def _train(network: nn.Module, images: Tensor, labels: Tensor, *, seed: int, stage: Stage) -> None:
    random = torch.Generator().manual_seed(seed)
    num_steps = NUM_EPOCHS * -(-len(images) // _BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=_PEAK_LEARNING_RATE, total_steps=num_steps
    )
    network.train()
    for _ in range(NUM_EPOCHS):
        for batch in torch.split(torch.randperm(len(images), generator=random), _BATCH):
            scores = network(_shifted(images[batch], random))
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(scores, labels[batch]))
            optimizer.step()
            schedule.step()
        stage.advance()


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that ``network``, in eval mode, gets right."""
    with torch.no_grad():
        return float((network(images).argmax(1) == labels).float().mean())


def _shifted(images: Tensor, random: torch.Generator) -> Tensor:
    """All images moved by the same few pixels; what leaves on one side is filled with the edge."""
    down, right = torch.randint(-_MAX_SHIFT_PX, _MAX_SHIFT_PX + 1, (2,), generator=random).tolist()
    padded = functional.pad(images, [_MAX_SHIFT_PX] * 4, mode="replicate")
    top, left = _MAX_SHIFT_PX + down, _MAX_SHIFT_PX + right
    return padded[:, :, top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
