"""Images as a label-free training needs them.

The teacher says what each image is, so images may be moved, mirrored and blended at will, for more
variety. Whatever else of the training images nothing uses is learned from, too.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import TrainingImages
from fairdeploy.recovery.least_squares.sweep import Inputs
from fairdeploy.tasks.augmentation import blended, shifted_and_flipped

BLENDED_SHARE = 0.5
ENOUGH_IMAGES = 4_096
"""So many are not blended: then it does harm (ResNet-56, half of its MACs, 20,000 images and 700
steps: 85.7 % right with it and 86.4 % without)."""


class UnlabelledImages:
    """What the inputs of a network learn from."""

    def __init__(
        self,
        graph: UnitGraph,
        tensors: Inputs,
        seed: int,
        batch: int,
        more: TrainingImages | None = None,
    ) -> None:
        """Know them.

        Args:
            graph: Says which input is the image.
            tensors: One per input, calibration images.
            seed: Of the order and of what is drawn.
            batch: Images of a step, and of a chunk.
            more: Further images to learn from, read when they are needed.
        """
        self._graph, self._place = graph, graph.inputs.image
        self._tensors, self._seed, self._more = tensors, seed, more
        self.batch = batch
        self._num_known = len(tensors[0])
        self.num_images = self._num_known + (0 if more is None else more.num_images)
        """That are learned from."""

    def batches(self) -> Generator[Inputs, None, None]:
        """Full batches to learn from, without end, each round in a new order.

        The next one is read while one is learned from.
        """
        generator = torch.Generator().manual_seed(self._seed)
        every = self._chosen(generator)
        with ThreadPoolExecutor(1) as reader:
            waiting = reader.submit(self._taken, next(every))
            while True:
                following = reader.submit(self._taken, next(every))
                taken, waiting = waiting.result(), following
                yield self._arranged(taken, generator)

    def _chosen(self, generator: torch.Generator) -> Iterator[Tensor]:
        while True:
            order = torch.randperm(self.num_images, generator=generator)
            for chosen in torch.split(order, self.batch):
                if len(chosen) == self.batch:
                    yield chosen

    def _taken(self, chosen: Tensor) -> list[Tensor]:
        """The images with these numbers; the calibration images come first."""
        known = chosen[chosen < self._num_known]
        others = chosen[chosen >= self._num_known] - self._num_known
        taken = [tensor[known] for tensor in self._tensors]
        if self._more is not None and len(others):
            read = self._graph.inputs.arranged(self._more.fetch(others.numpy()))
            taken = [torch.cat(parts) for parts in zip(taken, read, strict=True)]
        if len(taken[0]) == 0:
            taken = list(self._tensors)
        # Copies of held-out images are left out, and a network may want just this many.
        again = torch.arange(self.batch) % len(taken[0])
        return [tensor[again] for tensor in taken]

    def _arranged(self, taken: list[Tensor], generator: torch.Generator) -> Inputs:
        if not self._graph.inputs.are_pixels:
            return tuple(taken)
        images = shifted_and_flipped(taken[self._place], generator)
        # Other inputs belong to their image.
        if len(taken) == 1 and self.num_images < ENOUGH_IMAGES:
            images = blended(images, BLENDED_SHARE, generator)
        taken[self._place] = images
        return tuple(taken)
