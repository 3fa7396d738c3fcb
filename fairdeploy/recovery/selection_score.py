"""How good a network is on images that are only there to choose with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, fx

from fairdeploy.errors import UsageError
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import ImageSet
from fairdeploy.recovery.imitation import are_scores
from fairdeploy.recovery.network_blocks import input_names, main_output, stretch
from fairdeploy.recovery.processes import Runtime

TEST_BATCH = 64


class SelectionScore:
    """Accuracy, or without labels the agreement with the original."""

    def __init__(self, graph: UnitGraph, selection: ImageSet) -> None:
        """Find out which classes are wanted.

        Raises:
            UsageError: The network does not give one score per class.
        """
        self._graph, self._selection = graph, selection
        module = graph.module
        main = main_output(module, graph.outputs.main).name
        original = stretch(module, input_names(module), [main])
        count = len(selection) if selection.labels is None else min(TEST_BATCH, len(selection))
        answers = self._answers(original, torch.device("cpu"), count)
        if not are_scores(answers):
            raise UsageError(
                f"--finetune needs a network with one score per class, not {list(answers.shape)}; "
                "use --recover distil"
            )
        labels = selection.labels
        self._wanted = answers.argmax(dim=1) if labels is None else labels
        self.measure: Literal["accuracy", "agreement"] = (
            "agreement" if labels is None else "accuracy"
        )

    def of(self, network: fx.GraphModule, runtime: Runtime) -> float:
        """Share of the images with the wanted class; ``network`` in eval mode, on its device."""
        answers = self._answers(network, runtime.device, len(self._selection))
        right = float((answers.argmax(dim=1) == self._wanted).float().mean())
        # Each process has norm statistics of its own; the first one's count.
        return runtime.gathered(right if runtime.rank == 0 else 0.0)

    def _answers(self, network: fx.GraphModule, device: torch.device, count: int) -> Tensor:
        tensors = self._graph.inputs.arranged(self._selection)
        is_fixed = not self._graph.has_dynamic_batch
        batch = self._graph.inputs.batch if is_fixed else TEST_BATCH
        parts = []
        with torch.no_grad():
            for start in range(0, count, batch):
                end = start + batch if is_fixed else min(start + batch, count)
                chosen = torch.arange(start, end) % len(self._selection)
                outputs = network(*(tensor[chosen].to(device) for tensor in tensors))
                parts.append(outputs[-1].float().cpu())
        return torch.cat(parts)[:count]
