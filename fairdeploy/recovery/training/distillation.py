"""A short training without labels: the shrunk network learns to compute what the original does.

First block by block: each block gets what the shrunk network itself computes up to there, and
learns to give what the original gives; all blocks learn in the same passes, and no gradient leaves
a block. Then the network as a whole learns the original's answers (Hinton et al. 2015), with the
blocks' ends as a guide. Images are moved and mirrored at random, few of them blended too, and the
original is asked afresh each time (Beyer et al. 2022). It takes minutes; which moment stays, if
any, ``judgement`` decides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.graph.capture.train_mode import SwitchableGraph, switchable
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import DistillationSummary, TrainingImages, Verdict
from fairdeploy.recovery.judgement import Contest, Judge
from fairdeploy.recovery.least_squares.fitted_weights import own_tensors
from fairdeploy.recovery.least_squares.sweep import Inputs, all_inputs
from fairdeploy.recovery.training.best_weights import trainable
from fairdeploy.recovery.training.network_blocks import (
    Cut,
    find_cuts,
    input_names,
    main_output,
    stretch,
)
from fairdeploy.recovery.training.processes import moved, on_device, training_device
from fairdeploy.recovery.training.schedule import has_batchnorm, rate_factor, set_rate, with_decay
from fairdeploy.recovery.training.unlabelled_images import ENOUGH_IMAGES, UnlabelledImages
from fairdeploy.tasks.base import value_error

Progress = Callable[[int, int], None]

MAX_BATCH = 128
BATCH_VALUE_BYTES = 64_000_000
SHARE_OF_GPU = 0.4
"""Of its free memory, for what the layers give and the gradients with respect to it."""
MIN_IMAGES = 7
MIN_NORM_BATCH = 16
"""Of fewer images batch norms keep their statistics."""
BLOCK_STEPS = 100
ANSWER_STEPS = 600
MIN_STEPS = 20
# Of both networks together, forward and backward; about half an hour on two cores.
MAX_MACS = 3e13
MAX_MACS_ON_GPU = 2e15
# With many images a network with batch norms is trained as it would be from scratch. With few, Adam
# and norms that keep their statistics do as well (ResNet-20, 448 images: 84.0 %, and 83.6 % so).
SGD_RATE = 0.03
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
LOW_RATE = 3e-4
HIGH_RATE = 1e-3
ENOUGH_STEPS = 300
"""For Adam's high rate: it throws the network off at first, and takes a while to return."""
TEMPERATURE = 2.0
LOOKS = 5
"""How often each phase is judged on the selection images."""


def distil(
    graph: UnitGraph,
    shrunk: fx.GraphModule,
    removed: NDArray[np.bool_],
    images: Tensor | Inputs,
    judge: Judge,
    *,
    more: TrainingImages | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    block_steps: int = BLOCK_STEPS,
    answer_steps: int = ANSWER_STEPS,
) -> DistillationSummary | None:
    """Change parameters and norm statistics of ``shrunk`` so that it imitates the original better.

    Equal seeds give equal weights.

    Args:
        graph: Of the original network, which stays as it is.
        shrunk: The network without the removed units, in eval mode; least squares comes first.
        removed: Which units went, bool [num_units].
        images: Calibration images, float32 [N, C, H, W], or one tensor per input. No labels needed.
        judge: Knows other images, and decides which moment stays.
        more: Further images; their labels are not looked at. ResNet-20 on CIFAR-10 at half of its
            MACs: 448 images bring 2.7 points, 18,936 bring 4.7.
        seed: Of the order of the images, and how they are moved.
        progress: Called with (steps done, steps in all).
        block_steps: Steps block by block; fewer if the network is large.
        answer_steps: Steps of the network as a whole; likewise.

    Returns:
        None if there are too few images to train on.
    """
    started = time.perf_counter()
    tensors = all_inputs(images)
    device = training_device()
    batch = _batch_size(graph, len(tensors[0]), device)
    if batch == 0 or len(tensors[0]) < MIN_IMAGES:
        return None
    own_tensors(shrunk, graph.module)
    plan = _steps(graph, removed, batch, (block_steps, answer_steps), device)
    learned = UnlabelledImages(graph, tensors, seed, batch, more)
    with moved(shrunk, device):
        run = _Distilling(graph, shrunk, removed, learned, device)
        plan = (plan[0] if run.num_blocks else 0, plan[1])
        verdict = run.run(plan, judge, progress)
    return DistillationSummary(
        num_blocks=run.num_blocks,
        num_steps=sum(plan),
        num_images=learned.num_images,
        verdict=verdict,
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True, slots=True)
class _Block:
    network: SwitchableGraph
    cut: Cut


class _Distilling:
    def __init__(
        self,
        graph: UnitGraph,
        shrunk: fx.GraphModule,
        removed: NDArray[np.bool_],
        images: UnlabelledImages,
        device: torch.device,
    ) -> None:
        self._shrunk, self._images, self._device = shrunk, images, device
        self._task = graph.outputs.task
        self._cuts = find_cuts(graph, shrunk, removed)
        main, place = main_output(shrunk, graph.outputs.main).name, graph.outputs.batch_dim
        names = input_names(shrunk)
        targets = [*(cut.node for cut in self._cuts), main]
        original = on_device(graph.module, device)
        self._original = stretch(original, input_names(original), targets, place)
        self._whole = switchable(stretch(shrunk, names, targets, place))
        self._norms_learn = (
            images.batch >= MIN_NORM_BATCH
            and images.num_images >= ENOUGH_IMAGES
            and has_batchnorm(shrunk)
        )
        self._blocks = []
        source: tuple[str, ...] = ()
        for cut in self._cuts:
            block = switchable(stretch(shrunk, (*names, *source), (cut.node,)))
            self._blocks.append(_Block(block, cut))
            source = (cut.node,)

    @property
    def num_blocks(self) -> int:
        return len(self._blocks)

    def run(self, steps: tuple[int, int], judge: Judge, progress: Progress | None) -> Verdict:
        """Both phases; what they brought."""
        contest = Contest(judge, self._shrunk, self._device)
        num_looks = 0

        def look(done: int) -> None:
            nonlocal num_looks
            num_looks += 1
            contest.look()
            if progress is not None:
                progress(done, sum(steps))

        blocks = [block.network for block in self._blocks]
        with closing(self._images.batches()) as batches:
            for done in self._phase(blocks, steps[0], self._block_loss, batches):
                look(done)
            for done in self._phase([self._whole], steps[1], self._answer_loss, batches):
                look(steps[0] + done)
        return contest.end(num_looks)

    def _phase(
        self,
        networks: Sequence[SwitchableGraph],
        count: int,
        loss_of: Callable[[Inputs], Tensor],
        batches: Iterator[Inputs],
    ) -> Iterator[int]:
        """Train; whenever it is time for a look, in eval mode, the steps that are done."""
        with trainable(self._shrunk) as parameters:
            optimizer, rate = self._optimizer(parameters, count)
            self._set_training(networks, count > 0)
            for step in range(count):
                set_rate(optimizer, rate * rate_factor(step, count))
                optimizer.zero_grad(set_to_none=True)
                loss = loss_of(self._moved(next(batches)))
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if (step + 1) % max(count // LOOKS, 1) == 0 or step + 1 == count:
                    self._set_training(networks, False)
                    yield step + 1
                    self._set_training(networks, step + 1 < count)

    def _optimizer(
        self, parameters: list[torch.nn.Parameter], count: int
    ) -> tuple[torch.optim.Optimizer, float]:
        """With its highest rate."""
        if self._norms_learn:
            groups = with_decay(parameters, WEIGHT_DECAY)
            optimizer = torch.optim.SGD(groups, lr=SGD_RATE, momentum=MOMENTUM, nesterov=True)
            return optimizer, SGD_RATE
        rate = HIGH_RATE if count >= ENOUGH_STEPS else LOW_RATE
        return torch.optim.Adam(parameters, lr=rate), rate

    def _set_training(self, networks: Sequence[SwitchableGraph], mode: bool) -> None:
        for network in networks:
            network.train(mode and self._norms_learn)

    def _block_loss(self, inputs: Inputs) -> Tensor:
        """Sum over the blocks; each is fed what the shrunk network gives, without a gradient."""
        with torch.no_grad():
            wanted = self._original(*inputs)
        total = torch.zeros((), device=self._device)
        source: Inputs = ()
        for block, value in zip(self._blocks, wanted[:-1], strict=True):
            (found,) = block.network(*inputs, *source)
            total = total + value_error(found, block.cut.kept_part(value), block.cut.batch_dim)
            source = (found.detach(),)
        return total

    def _answer_loss(self, inputs: Inputs) -> Tensor:
        """Of the answers, and of the blocks' ends on the way to them."""
        with torch.no_grad():
            *wanted, answer = self._original(*inputs)
        *found, own_answer = self._whole(*inputs)
        loss = self._task.imitation_loss(own_answer, answer, TEMPERATURE)
        errors = [
            value_error(value, cut.kept_part(goal), cut.batch_dim)
            for cut, value, goal in zip(self._cuts, found, wanted, strict=True)
        ]
        return loss + sum(errors, torch.zeros_like(loss)) / max(len(errors), 1)

    def _moved(self, inputs: Inputs) -> Inputs:
        return tuple(tensor.to(self._device) for tensor in inputs)


def _batch_size(graph: UnitGraph, num_images: int, device: torch.device) -> int:
    """Images of a step that there is memory for; 0 if there are too few."""
    if not graph.has_dynamic_batch:
        return graph.inputs.batch if num_images >= graph.inputs.batch else 0
    sizes = [4 * math.prod(graph.shape_of(name)) for name in graph.value_units]
    if device.type == "cpu":
        affordable = BATCH_VALUE_BYTES * graph.inputs.batch // max(sizes)
    else:
        free, _ = torch.cuda.mem_get_info(device)
        affordable = int(SHARE_OF_GPU * free) * graph.inputs.batch // (2 * sum(sizes))
    return min(MAX_BATCH, max(1, affordable), num_images)


def _steps(
    graph: UnitGraph,
    removed: NDArray[np.bool_],
    batch: int,
    wanted: tuple[int, int],
    device: torch.device,
) -> tuple[int, int]:
    """Steps of both phases, fewer where the network is large."""
    # The shrunk network backward costs twice what it costs forward.
    nothing = np.zeros_like(removed)
    macs_per_step = batch * (macs_without(graph, nothing) + 3 * macs_without(graph, removed))
    limit = MAX_MACS if device.type == "cpu" else MAX_MACS_ON_GPU
    affordable = int(limit / max(macs_per_step, 1.0))
    share = min(1.0, affordable / max(sum(wanted), 1))
    blocks, answers = (min(count, max(MIN_STEPS, round(share * count))) for count in wanted)
    return blocks, answers


def macs_without(graph: UnitGraph, removed: NDArray[np.bool_]) -> float:
    """MACs per image of the network without these units, bool [num_units]."""
    sizes = [
        group.size - int(removed[group.blocks].sum()) // group.num_blocks for group in graph.groups
    ]
    return sum(
        term.coefficient
        * math.prod(
            fixed + sum(sizes[group] * n for group, n in by_group) for fixed, by_group in term.dims
        )
        for term in graph.cost_terms["macs"]
    )
