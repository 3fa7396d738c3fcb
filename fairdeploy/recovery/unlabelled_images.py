"""Images as a label-free training needs them: some to learn from, some calibration images held out.

The teacher says what each image is, so images may be moved, mirrored and blended at will: in
training for more variety, and the held-out ones so that a comparison on few images is less a matter
of chance. Whatever else of the training images nothing uses is learned from, too.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import TrainingImages
from fairdeploy.recovery.augmentation import blended, shifted_and_flipped
from fairdeploy.recovery.sweep import Inputs

HELD_OUT_EVERY = 8
NUM_VIEWS = 4
"""Of each held-out image: itself, and moved."""
BLENDED_SHARE = 0.5
ENOUGH_IMAGES = 4_096
"""So many are not blended: then it does harm (ResNet-56, half of its MACs, 20,000 images and 700
steps: 85.7 % right with it and 86.4 % without)."""


def not_held_out(images: Inputs) -> Inputs:
    """The images that are learned from.

    An earlier repair must not see the others: what is fitted to them looks better there than it is.
    """
    _, used = split(len(images[0]))
    return tuple(tensor[used] for tensor in images)


def split(num_images: int) -> tuple[Tensor, Tensor]:
    """Which images are held out, and which are learned from."""
    every = torch.arange(num_images)
    is_held_out = every % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return every[is_held_out], every[~is_held_out]


class UnlabelledImages:
    """The inputs of a network, by what they are for."""

    def __init__(
        self,
        graph: UnitGraph,
        tensors: Inputs,
        seed: int,
        batch: int,
        more: TrainingImages | None = None,
    ) -> None:
        """Divide them.

        Args:
            graph: Says which input is the image.
            tensors: One per input, all calibration images.
            seed: Of the order and of what is drawn.
            batch: Images of a step, and of a chunk.
            more: Further images to learn from, read when they are needed.
        """
        self._graph, self._place = graph, graph.inputs.image
        self._tensors, self._seed, self._more = tensors, seed, more
        self.batch = batch
        self.held_out, self.used = split(len(tensors[0]))
        self.num_images = len(self.used) + (0 if more is None else more.num_images)
        """That are learned from."""

    def views(self) -> Iterator[Inputs]:
        """The held-out images, each in several views, in chunks; always the same.

        A network of fixed batch leaves the last few out.
        """
        generator = torch.Generator().manual_seed(0)
        chosen = [tensor[self.held_out] for tensor in self._tensors]
        for view in range(NUM_VIEWS):
            seen = list(chosen)
            if view > 0:
                seen[self._place] = shifted_and_flipped(seen[self._place], generator)
            for part in zip(*(torch.split(one, self.batch) for one in seen), strict=True):
                if self._graph.has_dynamic_batch or len(part[0]) == self.batch:
                    yield part

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
        known = self.used[chosen[chosen < len(self.used)]]
        others = chosen[chosen >= len(self.used)] - len(self.used)
        taken = [tensor[known] for tensor in self._tensors]
        if self._more is not None and len(others):
            read = self._graph.inputs.arranged(self._more.fetch(others.numpy()))
            taken = [torch.cat(parts) for parts in zip(taken, read, strict=True)]
        if len(taken[0]) == 0:
            taken = [tensor[self.used] for tensor in self._tensors]
        # Copies of held-out images are left out, and a network may want just this many.
        again = torch.arange(self.batch) % len(taken[0])
        return [tensor[again] for tensor in taken]

    def _arranged(self, taken: list[Tensor], generator: torch.Generator) -> Inputs:
        images = shifted_and_flipped(taken[self._place], generator)
        # Other inputs belong to their image.
        if len(taken) == 1 and self.num_images < ENOUGH_IMAGES:
            images = blended(images, BLENDED_SHARE, generator)
        taken[self._place] = images
        return tuple(taken)
