"""The models that run with every test run: the hard ones among the cheap ones."""

from __future__ import annotations

SAMPLE = (
    "timm:cs3darknet_focus_s", "timm:deit_tiny_patch16_224", "timm:edgenext_xx_small",
    "timm:efficientvit_m0", "timm:levit_128s", "timm:mobilevit_xxs", "timm:pvt_v2_b0",
    "timm:res2next50", "timm:resnet10t", "timm:shvit_s1", "timm:skresnet18",
    "timm:swin_tiny_patch4_window7_224", "timm:xcit_nano_12_p8_224",
    "torchvision:shufflenet_v2_x0_5", "torchvision:maskrcnn_resnet50_fpn.backbone",
)  # fmt: skip

EXPORTED = (
    "timm:cs3darknet_focus_s", "timm:deit_tiny_patch16_224", "timm:edgenext_xx_small",
    "timm:resnet10t", "timm:skresnet18", "torchvision:shufflenet_v2_x0_5",
)  # fmt: skip
"""Those of the sample whose ONNX file every test run writes too: it takes three quarters of the
time. ``-m slow`` writes those of the others."""
