"""Networks trained on CIFAR-10's JPEG copy, by name, from a folder of state dicts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairdeploy.inputs.torchvision_compat import ensure_torchvision

sys.path.insert(0, str(Path(__file__).parent))

from cifar_resnet import CifarResNet

TIMM_NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "convnext": (
        "convnext_atto",
        {"patch_size": 2, "depths": (2, 2, 4, 2), "dims": (32, 64, 128, 192)},
    ),
    "deit": (
        "deit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 4, "embed_dim": 128, "depth": 6, "num_heads": 8},
    ),
    "densenet": ("densenet121", {"growth_rate": 16, "block_config": (4, 6, 8, 6)}),
}
NAMES = ("resnet20", "resnet56", "vgg", *TIMM_NETWORKS)
VGG_WIDTHS = (32, 32, 0, 64, 64, 0, 128, 128, 0, 256, 256, 0, 256, 256, 0)
"""0: halve the map."""


def trained_network(name: str, folder: Path) -> nn.Module:
    """In eval mode, from ``<name>_cifar10jpeg.pt``.

    Args:
        name: One of ``NAMES``.
        folder: Of the state dicts.
    """
    module = _network(name)
    module.load_state_dict(torch.load(folder / f"{name}_cifar10jpeg.pt", weights_only=True))
    return module.eval()


def as_it_takes_them(images: Tensor, name: str) -> Tensor:
    """Normalised images, [N, 3, 32, 32], in the size that the network was trained with."""
    if name != "densenet":
        return images
    return functional.interpolate(images, size=64, mode="bilinear", align_corners=False)


def _network(name: str) -> nn.Module:
    if name.startswith("resnet"):
        return CifarResNet(int(name.removeprefix("resnet")))
    if name == "vgg":
        return vgg()
    ensure_torchvision()
    import timm
    from timm.layers.config import set_fused_attn

    # the fused kernel hides the heads from Torch-Pruning, and its products from who counts MACs
    set_fused_attn(False)
    architecture, settings = TIMM_NETWORKS[name]
    return timm.create_model(architecture, num_classes=10, **settings)


def vgg() -> nn.Module:
    """For ``--arch tests/benchmarks/cifar_networks.py:vgg``."""
    layers: list[nn.Module] = []
    channels = 3
    for width in VGG_WIDTHS:
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    classifier = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return nn.Sequential(nn.Sequential(*layers), nn.Flatten(), classifier)
