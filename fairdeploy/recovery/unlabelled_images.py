"""Calibration images as a label-free training needs them: some to learn from, others held out.

The teacher says what each image is, so images may be moved, mirrored and blended at will: in
training for more variety, and the held-out ones so that a comparison on few images is less a matter
of chance.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.recovery.augmentation import blended, shifted_and_flipped
from fairdeploy.recovery.sweep import Inputs

HELD_OUT_EVERY = 8
NUM_VIEWS = 4
"""Of each held-out image: itself, and moved."""
BLENDED_SHARE = 0.5


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

    def __init__(self, graph: UnitGraph, tensors: Inputs, seed: int, batch: int) -> None:
        """Divide them.

        Args:
            graph: Says which input is the image.
            tensors: One per input, all images.
            seed: Of the order and of what is drawn.
            batch: Images of a step, and of a chunk.
        """
        self._place, self._has_dynamic_batch = graph.inputs.image, graph.has_dynamic_batch
        self._tensors, self._seed, self._batch = tensors, seed, batch
        self.held_out, self.used = split(len(tensors[0]))

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
            for part in zip(*(torch.split(one, self._batch) for one in seen), strict=True):
                if self._has_dynamic_batch or len(part[0]) == self._batch:
                    yield part

    def batches(self) -> Iterator[Inputs]:
        """Full batches to learn from, without end, each round in a new order."""
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            order = self.used[torch.randperm(len(self.used), generator=generator)]
            for chosen in torch.split(order, self._batch):
                if len(chosen) == self._batch:
                    yield self._arranged([tensor[chosen] for tensor in self._tensors], generator)

    def _arranged(self, taken: list[Tensor], generator: torch.Generator) -> Inputs:
        images = shifted_and_flipped(taken[self._place], generator)
        if len(taken) == 1:  # other inputs belong to their image
            images = blended(images, BLENDED_SHARE, generator)
        taken[self._place] = images
        return tuple(taken)
