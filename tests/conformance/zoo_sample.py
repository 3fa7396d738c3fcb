"""The models that run with every test run: the hard ones among the cheap ones."""

from __future__ import annotations

SAMPLE = (
    "timm:resnet18", "timm:deit_tiny_patch16_224", "timm:levit_128s",
    "torchvision:shufflenet_v2_x0_5",
)  # fmt: skip
