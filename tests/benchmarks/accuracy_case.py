"""What every pruner is given, and how what it makes is counted and tested."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.accuracy_training import Trainee, placed, train
from tests.benchmarks.cifar_networks import as_it_takes_them

CLOSE_MACS = 0.01
"""How far two networks' shares of the MACs may be apart."""
_BATCH = 128
_TEST_BATCH = 250
_AT_A_TIME = 2
"""Networks that are trained side by side; a GPU's memory holds them all."""


@dataclass(frozen=True, slots=True)
class Images:
    """Of one seed; none is in two of them. Normalised, float32 [N, 3, 32, 32]."""

    calibration: Tensor
    calibration_labels: Tensor
    training: Tensor
    training_labels: Tensor
    selection: Tensor
    """To choose a learning rate with."""
    selection_labels: Tensor
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
        return self._right(placed(network, self.device), self.test, self.images.test_labels)

    def trained(
        self, networks: Sequence[nn.Module], epochs: int, rates: Sequence[float]
    ) -> list[Trainee]:
        """What becomes of each after a training that is the same for all.

        Each rate is tried, and the one that is best on the selection images taken.
        """
        images, labels = self._to_train_on
        best: list[Trainee] = []
        for start in range(0, len(networks), _AT_A_TIME):
            tried = [
                [Trainee(placed(copy.deepcopy(one), self.device), rate) for rate in rates]
                for one in networks[start : start + _AT_A_TIME]
            ]
            every = [trainee for of_one in tried for trainee in of_one]
            train(every, images, labels, self.name, epochs, self.seed)
            best += [max(of_one, key=self._selected) for of_one in tried]
        return best

    def _selected(self, trainee: Trainee) -> float:
        return self._right(trainee.module, self._selection, self.images.selection_labels)

    def _right(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        parts = torch.split(images, _TEST_BATCH)
        with torch.no_grad():
            guesses = torch.cat([network(part.to(self.device)).argmax(dim=1) for part in parts])
        return 100 * float((guesses.cpu() == labels).float().mean())

    @cached_property
    def _selection(self) -> Tensor:
        return as_it_takes_them(self.images.selection, self.name)

    @cached_property
    def _to_train_on(self) -> tuple[Tensor, Tensor]:
        images, labels = self.images.training, self.images.training_labels
        return images.to(self.device), labels.to(self.device)

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
