"""Torch-Pruning 1.6.1 at given MACs, by its own importances.

Its ratio is bisected until the MACs agree. Where every layer loses the same share, a step of the
ratio can be several per cent of the MACs: then some of the layers, drawn by chance, take the higher
step and the others the lower. Its modules are changed in place, so each try begins from a fresh
copy. Of CIFAR ResNets it prunes inner channels only, since it loses count at their padded
shortcuts. Found through ``--peer-path`` (``pip install --no-deps --target FOLDER
torch-pruning==1.6.1``).
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.benchmarks.accuracy_case import CLOSE_MACS, Case
from tests.benchmarks.cifar_resnet import stream_layers

PEERS = (
    "tp-magnitude", "tp-magnitude-local", "tp-l1-local", "tp-taylor", "tp-isomorphic",
)  # fmt: skip
LOOKS_AT_IMAGES = ("tp-taylor",)
_MAX_RATIO = 0.95
_MAX_TRIES = 12
_BATCH = 128
Gradients = Mapping[str, Tensor]


def pruned_by_torch_pruning(peer: str, case: Case, share: float) -> nn.Module:
    """A pruned copy whose MACs are nearest to ``share`` of the original's.

    Args:
        peer: One of ``PEERS``.
        case: Only the importance by Taylor looks at its images.
        share: Of the MACs.
    """
    return _Bisection(peer, case, share).nearest()


class _Bisection:
    def __init__(self, peer: str, case: Case, share: float) -> None:
        self._peer, self._case, self._share = peer, case, share
        self._gradients = _gradients(case) if peer in LOOKS_AT_IMAGES else {}
        self._found: tuple[float, nn.Module] | None = None

    def nearest(self) -> nn.Module:
        low, high = self._bisect_ratio()
        if not self._is_near and self._peer.endswith("-local"):
            self._bisect_layers(low, high)
        assert self._found is not None
        return self._found[1]

    def _bisect_ratio(self) -> tuple[float, float]:
        low, high = 0.0, _MAX_RATIO
        for _ in range(_MAX_TRIES):
            ratio = (low + high) / 2
            is_above = self._try(ratio, {}) > self._share
            low, high = (ratio, high) if is_above else (low, ratio)
            if self._is_near:
                break
        return low, high

    def _bisect_layers(self, low: float, high: float) -> None:
        """Between two ratios that lie on both sides, by how many layers take the higher one."""
        names = [name for name, layer in self._case.module.named_modules() if _is_weighted(layer)]
        random.Random(0).shuffle(names)
        fewest, most = 0, len(names)
        while most - fewest > 1 and not self._is_near:
            count = (fewest + most) // 2
            is_above = self._try(low, dict.fromkeys(names[:count], high)) > self._share
            fewest, most = (count, most) if is_above else (fewest, count)

    @property
    def _is_near(self) -> bool:
        assert self._found is not None
        return abs(self._found[0] - self._share) <= CLOSE_MACS / 2

    def _try(self, ratio: float, ratios: Mapping[str, float]) -> float:
        """Prune a copy, remember it if it is nearer, and return its share of the MACs."""
        module = copy.deepcopy(self._case.module)
        for name, parameter in module.named_parameters():
            parameter.grad = self._gradients[name].clone() if name in self._gradients else None
        example = self._case.calibration[:1]
        found = _pruned(self._peer, module, example, ratio, ratios).eval()
        got = self._case.share_of_macs(found)
        if self._found is None or abs(got - self._share) < abs(self._found[0] - self._share):
            found.zero_grad()
            self._found = got, found
        return got


def _is_weighted(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.Linear)


def _gradients(case: Case) -> Gradients:
    """Of the loss over all calibration images, by parameter; the module stays as it is."""
    module = copy.deepcopy(case.module)
    labels = torch.split(case.images.calibration_labels, _BATCH)
    for part, wanted in zip(torch.split(case.calibration, _BATCH), labels, strict=True):
        functional.cross_entropy(module(part), wanted).backward()
    return {
        name: parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def _pruned(
    peer: str, module: nn.Module, example: Tensor, ratio: float, ratios: Mapping[str, float]
) -> nn.Module:
    import torch_pruning  # found through --peer-path

    importance = torch_pruning.importance
    importances: dict[str, Any] = {
        "tp-magnitude": importance.MagnitudeImportance(p=2),
        "tp-magnitude-local": importance.MagnitudeImportance(p=2),
        "tp-l1-local": importance.MagnitudeImportance(p=1),
        "tp-taylor": importance.TaylorImportance(),
        "tp-isomorphic": importance.MagnitudeImportance(p=2),
    }
    attentions: list[Any] = [
        layer for layer in module.modules() if isinstance(getattr(layer, "qkv", None), nn.Linear)
    ]
    linears = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    pruner = torch_pruning.pruner.BasePruner(
        module,
        example,
        importance=importances[peer],
        global_pruning=not peer.endswith("-local"),
        isomorphic=peer == "tp-isomorphic",
        pruning_ratio=ratio,
        pruning_ratio_dict={module.get_submodule(name): ratios[name] for name in ratios},
        max_pruning_ratio=_MAX_RATIO,
        ignored_layers=[*linears[-1:], *stream_layers(module)],
        num_heads={layer.qkv: layer.num_heads for layer in attentions},
        # its defaults are shared between pruners, and grow
        in_channel_groups={},
        out_channel_groups={},
    )
    pruner.step()
    for layer in attentions:
        layer.num_heads = pruner.num_heads[layer.qkv]
        layer.head_dim = layer.qkv.out_features // (3 * layer.num_heads)
        if hasattr(layer, "attn_dim"):
            layer.attn_dim = layer.qkv.out_features // 3
    return module
