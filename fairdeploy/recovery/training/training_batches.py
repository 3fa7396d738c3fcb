"""The batches of a training, round by round, in a seeded order and shared out to processes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import ImageSet, TrainingImages
from fairdeploy.recovery.least_squares.sweep import Inputs
from fairdeploy.recovery.training.augmentation import shifted_and_flipped
from fairdeploy.recovery.training.processes import Runtime

MIN_BATCH = 2
"""Of fewer images a norm has no statistics."""


class TrainingBatches:
    """Moved and mirrored images on the device where they are needed, with their labels."""

    def __init__(
        self,
        graph: UnitGraph,
        training: TrainingImages,
        batch_size: int,
        seed: int,
        runtime: Runtime,
        *,
        with_labels: bool,
    ) -> None:
        self._graph, self._training, self._seed = graph, training, seed
        self._runtime, self._with_labels = runtime, with_labels
        wanted = batch_size if graph.has_dynamic_batch else graph.inputs.batch
        self._size = min(wanted, training.num_images)
        per_process = training.num_images // self._size // runtime.num_processes
        self.steps_per_epoch = max(per_process, 1)

    def of_epoch(self, epoch: int) -> Iterator[tuple[Inputs, Tensor | None]]:
        """This process's share; the next batch is read while one is trained on."""
        seed = self._seed * 1_000_003 + epoch
        order = torch.randperm(
            self._training.num_images, generator=torch.Generator().manual_seed(seed)
        ).numpy()
        runtime, size = self._runtime, self._size
        end = self.steps_per_epoch * runtime.num_processes
        chosen = [
            order[(number * size) % len(order) :][:size]
            for number in range(runtime.rank, end, runtime.num_processes)
        ]
        moves = torch.Generator().manual_seed(seed * 1_009 + runtime.rank)
        with ThreadPoolExecutor(1) as reader:
            waiting = reader.submit(self._training.fetch, chosen[0])
            for following in (*chosen[1:], None):
                images = waiting.result()
                if following is not None:
                    waiting = reader.submit(self._training.fetch, following)
                if len(images) >= MIN_BATCH:
                    yield self._arranged(images, moves)

    def _arranged(self, images: ImageSet, moves: torch.Generator) -> tuple[Inputs, Tensor | None]:
        tensors = list(self._graph.inputs.arranged(images))
        place = self._graph.inputs.image
        tensors[place] = shifted_and_flipped(tensors[place], moves)
        labels = images.labels if self._with_labels else None
        if not self._graph.has_dynamic_batch:
            # Copies may have been left out, and the network takes just this many.
            again = torch.arange(self._graph.inputs.batch) % len(images)
            tensors = [tensor[again] for tensor in tensors]
            labels = None if labels is None else labels[again]
        device = self._runtime.device
        return (
            tuple(tensor.to(device) for tensor in tensors),
            None if labels is None else labels.to(device),
        )
