"""A short training that is the same for every pruner, on a CPU or a GPU.

Several networks are trained side by side on the same batches. On a GPU each has a stream of its own
and a step forward and backward is recorded once and replayed (CUDA graphs), since small networks
spend most of a step on launching kernels. A network that cannot be recorded is trained without; the
arithmetic is the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from fairdeploy.recovery.training.processes import on_device
from tests.benchmarks.cifar_networks import as_it_takes_them

BATCH = 128
_FRAME = 4
_WARM_UPS = 3
Step = Callable[[Tensor, Tensor], None]


def placed(module: nn.Module, device: torch.device) -> nn.Module:
    """The module itself on the CPU, or a copy elsewhere."""
    if isinstance(module, fx.GraphModule):
        return on_device(module, device)  # also what its calls make new tensors on
    return module if device.type == "cpu" else copy.deepcopy(module).to(device)


@dataclass(frozen=True, slots=True)
class Trainee:
    """A network to be changed, on the device of the images, and the highest learning rate."""

    module: nn.Module
    rate: float


def train(
    trainees: Sequence[Trainee], images: Tensor, labels: Tensor, name: str, epochs: int, seed: int
) -> None:
    """Change the networks: SGD with a cosine, crops and flips.

    Args:
        trainees: Pruned networks; all see the same batches.
        images: Normalised, float32 [N, 3, 32, 32].
        labels: Int64 [N], on the same device.
        name: Of the network, which says what size it takes.
        epochs: Whole passes.
        seed: Of order and augmentation.
    """
    random = torch.Generator().manual_seed(seed)
    steps = max(epochs * (len(images) // BATCH), 1)
    trainings: list[_Training] = []
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=random)
        for index in torch.split(order[: len(order) // BATCH * BATCH], BATCH):
            chosen = index.to(images.device)
            batch = as_it_takes_them(_augmented(images[chosen], random), name)
            if not trainings:
                trainings = [
                    _Training(trainee, steps, batch, labels[chosen]) for trainee in trainees
                ]
            for training in trainings:
                training.step(batch, labels[chosen])
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    for trainee in trainees:
        trainee.module.eval()


class _Training:
    def __init__(self, trainee: Trainee, steps: int, batch: Tensor, labels: Tensor) -> None:
        self._module = trainee.module
        parameters = [one for one in self._module.parameters() if one.is_floating_point()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        self._optimizer = torch.optim.SGD(
            parameters, trainee.rate, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, steps)
        self._module.train()
        self._stream = torch.cuda.Stream() if batch.device.type == "cuda" else None
        self._gradients = self._plain if self._stream is None else self._recorded(batch, labels)

    def step(self, images: Tensor, labels: Tensor) -> None:
        with ExitStack() as stack:
            if self._stream is not None:
                self._stream.wait_stream(torch.cuda.default_stream())
                stack.enter_context(torch.cuda.stream(self._stream))
                images.record_stream(self._stream)
                labels.record_stream(self._stream)
            self._gradients(images, labels)
            self._optimizer.step()
            self._schedule.step()

    def _plain(self, images: Tensor, labels: Tensor) -> None:
        self._optimizer.zero_grad()
        functional.cross_entropy(self._module(images), labels).backward()

    def _recorded(self, batch: Tensor, labels: Tensor) -> Step:
        """The same, recorded, where that works."""
        buffers = {name: tensor.clone() for name, tensor in self._module.named_buffers()}
        images, wanted = batch.clone(), labels.clone()
        graph = torch.cuda.CUDAGraph()
        assert self._stream is not None
        torch.cuda.synchronize()
        try:
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UPS):
                    self._plain(images, wanted)
            torch.cuda.synchronize()
            self._optimizer.zero_grad()
            with torch.cuda.graph(graph, stream=self._stream):
                self._plain(images, wanted)
        except RuntimeError as error:
            print(f"not recorded: {str(error).splitlines()[0]}", flush=True)
            return self._plain
        finally:
            with torch.no_grad():  # the norms' statistics have moved
                for name, tensor in self._module.named_buffers():
                    tensor.copy_(buffers[name])
            torch.cuda.synchronize()

        def replayed(new_images: Tensor, new_labels: Tensor) -> None:
            images.copy_(new_images)
            wanted.copy_(new_labels)
            graph.replay()

        return replayed


def _augmented(images: Tensor, random: torch.Generator) -> Tensor:
    """A crop out of a frame of 4 pixels and a flip, drawn for each image."""
    count, _, height, width = images.shape
    framed = functional.pad(images, (_FRAME,) * 4)
    is_flipped = torch.rand(count, generator=random) < 0.5
    places = torch.randint(0, 2 * _FRAME + 1, (2, count, 1), generator=random)
    rows, columns = places[0] + torch.arange(height), places[1] + torch.arange(width)
    columns = torch.where(is_flipped[:, None], columns.flip(1), columns)
    batch = torch.arange(count)[:, None, None]
    at = [index.to(images.device) for index in (batch, rows[:, :, None], columns[:, None, :])]
    return framed[at[0], :, at[1], at[2]].movedim(-1, 1).contiguous()
