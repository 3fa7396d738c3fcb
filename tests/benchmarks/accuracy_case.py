"""What every pruner is given, and how what it makes is counted and tested."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.accuracy_training import placed, train
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
    device: torch.device
    """Where networks are tested and trained; they are pruned and repaired on the CPU."""

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

    def accuracy(self, network: nn.Module) -> float:
        """Per cent of the test images whose first guess is right."""
        network = placed(network, self.device)
        parts = torch.split(self.test, _TEST_BATCH)
        with torch.no_grad():
            guesses = torch.cat([network(part.to(self.device)).argmax(dim=1) for part in parts])
        return 100 * float((guesses.cpu() == self.images.test_labels).float().mean())

    def trained(self, network: nn.Module, epochs: int, rate: float) -> nn.Module:
        """The network, changed, or a copy: after a training that is the same for every pruner."""
        network = placed(network, self.device)
        images, labels = self._to_train_on
        train(network, images, labels, self.name, epochs, rate, self.seed)
        return network

    @cached_property
    def _to_train_on(self) -> tuple[Tensor, Tensor]:
        return (
            self.images.training.to(self.device), self.images.training_labels.to(self.device),
        )  # fmt: skip

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
