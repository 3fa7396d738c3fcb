"""What every pruner is given, and how what it makes is counted, tested and trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.cifar_networks import as_it_takes_them

CLOSE_MACS = 0.01
"""How far two networks' shares of the MACs may be apart."""
_BATCH = 128
_TEST_BATCH = 250


@dataclass(frozen=True, slots=True)
class Images:
    """Of one seed; none is in two of them. Normalised, float32 [N, 3, 32, 32]."""

    calibration: Tensor
    calibration_labels: Tensor
    training: Tensor
    training_labels: Tensor
    test: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class Case:
    """A network with the images of one seed."""

    name: str
    module: nn.Module
    seed: int
    images: Images

    @cached_property
    def calibration(self) -> Tensor:
        """In the network's size."""
        return as_it_takes_them(self.images.calibration, self.name)

    @cached_property
    def test(self) -> Tensor:
        """In the network's size."""
        return as_it_takes_them(self.images.test, self.name)

    @cached_property
    def original(self) -> float:
        """Accuracy before anything goes, per cent."""
        return self.accuracy(self.module)

    @cached_property
    def whole_macs(self) -> int:
        """MACs per image before anything goes."""
        return count_macs(self.module, self.calibration)

    def accuracy(self, network: Callable[[Tensor], Tensor]) -> float:
        """Per cent of the test images whose first guess is right."""
        with torch.no_grad():
            guesses = torch.cat(
                [network(part).argmax(dim=1) for part in torch.split(self.test, _TEST_BATCH)]
            )
        return 100 * float((guesses == self.images.test_labels).float().mean())

    def share_of_macs(self, network: nn.Module) -> float:
        """What is left of the original's MACs."""
        return count_macs(network, self.calibration) / self.whole_macs


def count_macs(module: nn.Module, images: Tensor) -> int:
    """Multiply-adds of one image, attention products included; the same count for every pruner."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(images[:1])
    return int(counter.get_total_flops() // 2)


def with_new_statistics(module: nn.Module, images: Tensor) -> nn.Module:
    """Change the module: its batch norms' running statistics are those of the images."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # an average over all batches
            norm.train()
    with torch.no_grad():
        for part in torch.split(images, _BATCH):
            module(part)
    return module.eval()


def trained(module: nn.Module, case: Case, epochs: int, rate: float) -> nn.Module:
    """Change the module: SGD with a cosine, crops and flips; the same for every pruner.

    Args:
        module: Pruned.
        case: The seed is also that of order and augmentation.
        epochs: Whole passes.
        rate: The learning rate at its highest.
    """
    images, labels = case.images.training, case.images.training_labels
    random = torch.Generator().manual_seed(case.seed)
    parameters = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = max(epochs * (len(images) // _BATCH), 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    module.train()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=random)
        for index in torch.split(order[: len(order) // _BATCH * _BATCH], _BATCH):
            batch = as_it_takes_them(_augmented(images[index], random), case.name)
            optimizer.zero_grad()
            functional.cross_entropy(module(batch), labels[index]).backward()
            optimizer.step()
            schedule.step()
    return module.eval()


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
