"""Torchvision's models: name, shape of each input without the batch, and whether it is a variant.

Inputs are as small as the network allows: the laws hold at any size, and small ones are quick.
"""

from __future__ import annotations

Entry = tuple[str, tuple[tuple[int, ...], ...], bool]

_IMAGE = ((3, 128, 128),)
_FIXED_IMAGE = ((3, 224, 224),)
_CLIP = ((3, 8, 64, 64),)
_FIXED_CLIP = ((3, 16, 224, 224),)
_FRAMES = ((3, 128, 128), (3, 128, 128))

_FAMILIES = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf",
    "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2",
    "shufflenet_v2_x0_5", "squeezenet1_0", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11",
    "vgg11_bn",
)  # fmt: skip
_FIXED_FAMILIES = ("maxvit_t", "vit_b_32")
_SEGMENTERS = (
    "fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)  # fmt: skip
_DETECTORS = (
    "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn",
    "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large",
)  # fmt: skip
_VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18")
_VARIANTS = (
    "convnext_small", "convnext_base", "convnext_large", "densenet161", "densenet169",
    "densenet201", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4",
    "efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_m",
    "efficientnet_v2_l", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3", "mobilenet_v3_large",
    "regnet_x_800mf", "regnet_x_1_6gf", "regnet_x_3_2gf", "regnet_x_8gf", "regnet_x_16gf",
    "regnet_x_32gf", "regnet_y_800mf", "regnet_y_1_6gf", "regnet_y_3_2gf", "regnet_y_8gf",
    "regnet_y_16gf", "regnet_y_32gf", "regnet_y_128gf", "resnet34", "resnet101", "resnet152",
    "resnext101_32x8d", "resnext101_64x4d", "wide_resnet101_2", "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "swin_s", "swin_b", "swin_v2_s", "swin_v2_b",
    "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
)  # fmt: skip
_FIXED_VARIANTS = ("vit_b_16", "vit_l_16", "vit_l_32", "vit_h_14")

TORCHVISION: tuple[Entry, ...] = (
    *((name, _IMAGE, False) for name in _FAMILIES),
    *((name, _FIXED_IMAGE, False) for name in _FIXED_FAMILIES),
    *((name, _IMAGE, False) for name in _SEGMENTERS),
    *((f"{name}.backbone", _IMAGE, False) for name in _DETECTORS),
    # its last feature map would be empty at less
    ("ssd300_vgg16.backbone", ((3, 300, 300),), False),
    *((name, _CLIP, False) for name in _VIDEO),
    ("s3d", _FIXED_CLIP, False),
    ("mvit_v1_b", _FIXED_CLIP, False),
    ("mvit_v2_s", _FIXED_CLIP, False),
    ("swin3d_t", _CLIP, False),
    ("raft_small", _FRAMES, False),
    ("raft_large", _FRAMES, True),
    *((name, _IMAGE, True) for name in _VARIANTS),
    *((name, _FIXED_IMAGE, True) for name in _FIXED_VARIANTS),
    ("fcn_resnet101", _IMAGE, True),
    ("deeplabv3_resnet101", _IMAGE, True),
)
