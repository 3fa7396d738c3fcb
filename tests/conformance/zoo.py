"""The models of the conformance run: names, input shapes, and how to build each with no download.

One model for each of timm's model files, the smallest (``zoo_timm.json``, written by
``choose_timm``), and torchvision's classifiers, segmenters, detectors, video and flow networks
(``zoo_torchvision``). Of a detector only the backbone is taken, feature pyramid included: its
heads and box operators stay as they are.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairdeploy.inputs.torchvision_compat import ensure_torchvision
from tests.conformance.random_weights import randomise
from tests.conformance.zoo_sample import SAMPLE
from tests.conformance.zoo_torchvision import TORCHVISION

EXAMPLE_BATCH = 2
SETS = ("sample", "families", "all")
NORM_COUPLED = {"timm:gmlp_ti16_224"}
"""Models of which every unit lies under a layer norm; ``decisions`` says why."""


@dataclass(frozen=True, slots=True)
class ZooModel:
    """One network of the zoo."""

    name: str
    """``timm:NAME``, ``torchvision:NAME`` or ``torchvision:NAME.backbone``."""
    shapes: tuple[tuple[int, ...], ...]
    """Of each input, without the batch."""
    family: str = ""
    is_variant: bool = False
    """Left out of the set ``families``, since another model there has its architecture."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """For the model's own constructor."""
    allow_norm_coupled: bool = False
    """Whether channels may go that a layer norm takes its statistics over: else nothing could."""


def zoo() -> tuple[ZooModel, ...]:
    """All models, timm's first, by family."""
    rows = json.loads((Path(__file__).parent / "zoo_timm.json").read_text(encoding="utf-8"))
    timm_models = [
        ZooModel(
            f"timm:{row['name']}",
            (tuple(row["shape"]),),
            row["family"],
            row["is_variant"],
            row.get("options", {}),
            f"timm:{row['name']}" in NORM_COUPLED,
        )
        for row in rows
    ]
    torchvision_models = [
        ZooModel(f"torchvision:{name}", shapes, "torchvision", is_variant)
        for name, shapes, is_variant in TORCHVISION
    ]
    return (*timm_models, *torchvision_models)


def select(set_name: str, globs: tuple[str, ...] = ()) -> tuple[ZooModel, ...]:
    """Models of a set, or of the whole zoo those that match any of ``globs``."""
    models = zoo()
    if globs:
        return tuple(
            model for model in models if any(fnmatchcase(model.name, glob) for glob in globs)
        )
    if set_name == "sample":
        return tuple(model for model in models if model.name in SAMPLE)
    return tuple(model for model in models if set_name == "all" or not model.is_variant)


def find(name: str) -> ZooModel:
    """The model of that name."""
    return next(iter(select("all", (name,))))


def build(model: ZooModel, seed: int = 0) -> nn.Module:
    """The network in eval mode, with weights that make every comparison mean something."""
    ensure_torchvision()
    library, _, name = model.name.partition(":")
    torch.manual_seed(seed)
    if library == "timm":
        import timm

        network = timm.create_model(name, **model.options)
    else:
        network = _build_torchvision(name)
    network.eval()
    randomise(network, examples(model, seed), seed)
    return network


def examples(model: ZooModel, seed: int = 0, batch: int = EXAMPLE_BATCH) -> tuple[Tensor, ...]:
    """Random inputs."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, *shape, generator=generator) for shape in model.shapes)


def _build_torchvision(name: str) -> nn.Module:
    import torchvision

    name, _, part = name.partition(".")
    builder = torchvision.models.get_model_builder(name)
    options: dict[str, Any] = {"weights": None}
    if part or "segmentation" in builder.__module__:
        options["weights_backbone"] = None
    if name in {"googlenet", "inception_v3"}:
        # its own initialisation takes a minute
        options["init_weights"] = False
    network: nn.Module = torchvision.models.get_model(name, **options)
    if name in {"maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"}:
        _freeze_batch_norms(network)
    return network.get_submodule(part) if part else network


def _freeze_batch_norms(network: nn.Module) -> None:
    """Put the norm in that these detectors have with trained weights (changes ``network``)."""
    from torchvision.ops import FrozenBatchNorm2d

    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, FrozenBatchNorm2d(child.num_features))
