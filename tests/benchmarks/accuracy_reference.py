"""The method's own package (``network-pruner`` 2.16) at given MACs: its scores and its surgery.

Its tolerance is bisected. Its levels are coarse, and the lowest may remove too much already; then
every layer loses a share between what two levels say (or nothing and the lowest), which layers and
channels being its own choice still. It runs the network hundreds of times for each layer, so it
scores with fewer images. Of CIFAR ResNets it prunes inner channels only, as Torch-Pruning does; it
does not know how to pad, so a convolution that computes the same stands in meanwhile.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from tests.benchmarks.accuracy_case import CLOSE_MACS, Case
from tests.benchmarks.cifar_resnet import stream_layers
from tests.benchmarks.convolved_shortcut import ConvolvedShortcut, padded_again, without_padding
from tests.benchmarks.scoring_reference import reference_scores

REFERENCE = "network-pruner"
_BATCH = 32
_MAX_TRIES = 10
Counts = tuple[int, ...]


class ReferencePruner:
    """Scores once, when the first network is wanted, and after a look whether surgery works."""

    def __init__(self, case: Case, num_images: int) -> None:
        """Nothing is computed yet.

        Args:
            case: Network and images.
            num_images: How many of the calibration images it scores with.
        """
        self._case, self._num_images = case, num_images
        self._module = without_padding(case.module)
        self._names = _prunable(self._module)
        named = dict(self._module.named_modules())
        places = {name: place for place, name in enumerate(named)}
        self._places = [places[name] for name in self._names]
        self._sizes = [_width(named[name]) for name in self._names]

    def network(self, share: float) -> nn.Module:
        """A pruned copy whose MACs are nearest to ``share`` of the original's.

        Raises:
            RuntimeError: Its surgery failed before, and would again.
        """
        # It takes a GPU where it finds one, for some of what it does.
        with mock.patch.object(torch.cuda, "is_available", return_value=False):
            if isinstance(self._failure, Exception):
                raise RuntimeError(str(self._failure)) from self._failure
            low, high = self._bracket(share)
            counts = self._between(low, high, share)
            return self._pruned(counts, self._ranks)

    @cached_property
    def _failure(self) -> Exception | None:
        """What goes wrong if a quarter of every layer goes, by chance; None if nothing does."""
        ranks = {f"D_{j}_s2b_idx": list(range(size)) for j, size in enumerate(self._sizes)}
        try:
            self._case.share_of_macs(self._pruned([size // 4 for size in self._sizes], ranks))
        except Exception as error:  # whatever it raises is the result
            return error
        return None

    @cached_property
    def _ranks(self) -> dict[str, Any]:
        case, count = self._case, self._num_images
        measured_at = dict(zip(self._names, _measured_at(self._module, self._names), strict=True))
        scores = reference_scores(
            self._module,
            case.calibration[:count],
            case.images.calibration_labels[:count],
            measured_at=measured_at,
            batch_size=_BATCH,
            in_eval_mode=False,
            seed=case.seed,
        )
        ranks: dict[str, Any] = {}
        for j, name in enumerate(self._names):
            ranks[f"D_{j}_s2b_idx"] = torch.argsort(scores.u[name]).tolist()
            ranks[f"RE_{j}_hat_s2b_idx"] = torch.argsort(scores.r[name]).tolist()
        return ranks

    def _bracket(self, share: float) -> tuple[Counts, Counts]:
        """Removed counts of two neighbouring levels, or of none and the lowest."""
        lowest = self._counts_at(0.0)
        if self._share(lowest) <= share:
            return tuple(0 for _ in lowest), lowest
        low, high = 0.0, 1.0
        for _ in range(_MAX_TRIES):
            level = (low + high) / 2
            is_above = self._share(self._counts_at(level)) > share
            low, high = (level, high) if is_above else (low, level)
        return self._counts_at(low), self._counts_at(high)

    def _between(self, low: Counts, high: Counts, share: float) -> Counts:
        found = [(abs(self._share(counts) - share), counts) for counts in (low, high)]
        start, end = 0.0, 1.0
        for _ in range(_MAX_TRIES):
            if min(found)[0] <= CLOSE_MACS / 2:
                break
            part = (start + end) / 2
            counts = tuple(
                round(first + part * (last - first)) for first, last in zip(low, high, strict=True)
            )
            got = self._share(counts)
            found.append((abs(got - share), counts))
            start, end = (part, end) if got > share else (start, part)
        return min(found)[1]

    def _counts_at(self, level: float) -> Counts:
        from Network_Pruner import get_ratios

        with contextlib.redirect_stdout(io.StringIO()):
            return tuple(
                get_ratios(self._module, self._ranks, layers2prune=self._places, ToD_level=level)
            )

    def _share(self, counts: Sequence[int]) -> float:
        return self._case.share_of_macs(padded_again(self._skeleton(counts)))

    def _skeleton(self, counts: Sequence[int]) -> nn.Module:
        from Network_Pruner import get_skeleton

        case = self._case
        with contextlib.redirect_stdout(io.StringIO()):
            skeleton: nn.Module = get_skeleton(
                self._module, list(counts), (case.calibration[:2],), layers2prune=self._places
            )
        return skeleton.eval()

    def _pruned(self, counts: Sequence[int], ranks: dict[str, Any]) -> nn.Module:
        from Network_Pruner import prune

        case = self._case
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            pruned, _ = prune(
                self._skeleton(counts),
                self._module,
                ranks,
                list(counts),
                layers2prune=self._places,
                pruned_model_save_path=str(Path(folder) / "pruned.pth"),
                example_inputs=(case.calibration[:2],),
            )
        assert isinstance(pruned, nn.Module)
        return padded_again(pruned.eval())


def _prunable(module: nn.Module) -> list[str]:
    """Convolutions and linear layers but the last, and none that makes a CIFAR ResNet's stream."""
    shortcuts = [
        block.shortcut for block in module.modules() if isinstance(block, ConvolvedShortcut)
    ]
    streams = {id(layer) for layer in (*stream_layers(module), *shortcuts)}
    layers = [
        name for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and id(layer) not in streams
    ]  # fmt: skip
    return layers[:-1]


def _measured_at(module: nn.Module, names: Sequence[str]) -> list[str]:
    """Where its distances are taken: at the activation that follows, as in its example.

    Found where layers stand in a row or have numbered names; else at the layer itself, its default.
    """
    every = [name for name, _ in module.named_modules()]
    layers = dict(module.named_modules())
    found = []
    for name in names:
        place = every.index(name)
        following = [other for other in every[place + 1 : place + 3]]
        activations = [other for other in following if isinstance(layers[other], nn.ReLU)]
        parent = name.rpartition(".")[0]
        near = [other for other in activations if other.rpartition(".")[0] == parent]
        found.append(near[0] if near else name)
    return found


def _width(layer: nn.Module) -> int:
    return int(getattr(layer, "out_channels", 0) or getattr(layer, "out_features", 0))
