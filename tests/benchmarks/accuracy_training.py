"""A short training that is the same for every pruner, on a CPU or a GPU.

On a GPU a step forward and backward is recorded once and replayed (CUDA graphs): small networks
spend most of a step on launching kernels. A network that cannot be recorded is trained step by
step; the arithmetic is the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from fairdeploy.recovery.processes import move
from tests.benchmarks.cifar_networks import as_it_takes_them

BATCH = 128
_FRAME = 4
_WARM_UPS = 3
Step = Callable[[Tensor, Tensor], None]


def placed(module: nn.Module, device: torch.device) -> nn.Module:
    """The module itself on the CPU, or a copy elsewhere."""
    if device.type == "cpu":
        return module
    module = copy.deepcopy(module)
    if isinstance(module, fx.GraphModule):
        move(module, device)  # also what its calls make new tensors on
        return module
    return module.to(device)


def train(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    name: str,
    epochs: int,
    rate: float,
    seed: int,
) -> None:
    """Change the module, on its device: SGD with a cosine, crops and flips.

    Args:
        module: Pruned.
        images: Normalised, float32 [N, 3, 32, 32], on the same device.
        labels: Int64 [N].
        name: Of the network, which says what size it takes.
        epochs: Whole passes.
        rate: The learning rate at its highest.
        seed: Of order and augmentation.
    """
    random = torch.Generator().manual_seed(seed)
    parameters = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = max(epochs * (len(images) // BATCH), 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    module.train()
    step: Step | None = None
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=random)
        for index in torch.split(order[: len(order) // BATCH * BATCH], BATCH):
            chosen = index.to(images.device)
            batch = as_it_takes_them(_augmented(images[chosen], random), name)
            if step is None:
                step = _step(module, optimizer, batch, labels[chosen])
            step(batch, labels[chosen])
            optimizer.step()
            schedule.step()
    module.eval()


def _step(
    module: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor, labels: Tensor
) -> Step:
    """Computes the gradients of a batch; recorded where that works."""

    def plain(images: Tensor, wanted: Tensor) -> None:
        optimizer.zero_grad()
        functional.cross_entropy(module(images), wanted).backward()

    if batch.device.type != "cuda":
        return plain
    buffers = {name: tensor.clone() for name, tensor in module.named_buffers()}
    try:
        return _recorded(plain, optimizer, batch, labels)
    except RuntimeError as error:
        print(f"not recorded: {str(error).splitlines()[0]}", flush=True)
        return plain
    finally:
        with torch.no_grad():  # the norms' statistics have moved
            for name, tensor in module.named_buffers():
                tensor.copy_(buffers[name])


def _recorded(plain: Step, optimizer: torch.optim.Optimizer, batch: Tensor, labels: Tensor) -> Step:
    images, wanted = batch.clone(), labels.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            plain(images, wanted)
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plain(images, wanted)

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
