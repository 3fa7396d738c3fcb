"""Networks of packages other than timm and torchvision, by their own factories, with no download.

Each function imports its package when it is called; its name is ``PACKAGE__NETWORK``. What a
network takes is written beside it, as the command line's options.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

OPTIONS: dict[str, tuple[str, ...]] = {}
"""Command-line options that say what each network takes, by the factory's name."""

Factory = Callable[[], nn.Module]


def image(size: int, channels: int = 3) -> tuple[str, ...]:
    """One square image."""
    return ("--input-size", f"{channels},{size},{size}")


def tensors(*inputs: str) -> tuple[str, ...]:
    """Named inputs of any shape."""
    return tuple(word for text in inputs for word in ("--input", text))


def add(name: str, options: tuple[str, ...], make: Factory) -> None:
    """List a network under its name."""
    OPTIONS[name] = options
    globals()[name] = make


def called(module: str, name: str, /, *args: Any, **options: Any) -> Factory:
    """A factory that calls ``module.name`` once its package is asked for."""
    return lambda: getattr(import_module(module), name)(*args, **options)


# ---- segmentation-models-pytorch -----------------------------------------------------------------

for _name, _encoder, _size in (
    ("Unet", "resnet18", 64), ("UnetPlusPlus", "mobilenet_v2", 64), ("FPN", "resnet18", 64),
    ("PSPNet", "resnet18", 64), ("DeepLabV3", "resnet18", 64),
    ("DeepLabV3Plus", "mobilenet_v2", 64), ("Linknet", "resnet18", 64), ("MAnet", "resnet18", 64),
    ("PAN", "resnet18", 128), ("UPerNet", "resnet18", 64), ("Segformer", "mit_b0", 64),
    ("Unet", "timm-efficientnet-b0", 64), ("FPN", "tu-convnext_atto", 64),
):  # fmt: skip
    add(
        f"smp__{_name}_{_encoder}".replace("-", "_"),
        image(_size),
        called("segmentation_models_pytorch", _name, _encoder, encoder_weights=None, classes=4),
    )


# ---- transformers --------------------------------------------------------------------------------


def transformer(model: str, config: str, **options: Any) -> Factory:
    """A network of a configuration of its own."""

    def make() -> nn.Module:
        package = import_module("transformers")
        made = getattr(package, model)(getattr(package, config)(**options))
        assert isinstance(made, nn.Module)
        return made

    return make


_SMALL = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96,
}  # fmt: skip
_VIT = _SMALL | {"image_size": 32, "patch_size": 8, "num_labels": 10}
for _name, _size, _options in (
    ("ResNet", 64, {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2], "layer_type": "basic"}),
    ("ConvNext", 64, {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 2, 1]}),
    ("ConvNextV2", 64, {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 2, 1]}),
    ("ViT", 32, _VIT), ("DeiT", 32, _VIT), ("Beit", 32, _VIT), ("Data2VecVision", 32, _VIT),
    ("Dinov2", 32, _VIT), ("Dinov2WithRegisters", 32, _VIT), ("ViTMSN", 32, _VIT),
    ("IJepa", 32, _VIT),
    ("Swin", 64, {"image_size": 64, "patch_size": 2, "embed_dim": 24, "depths": [1, 1, 2], "num_heads": [2, 4, 8], "window_size": 4}),
    ("Swinv2", 64, {"image_size": 64, "patch_size": 2, "embed_dim": 24, "depths": [1, 1, 2], "num_heads": [2, 4, 8], "window_size": 4}),
    ("MobileNetV1", 64, {"depth_multiplier": 0.5}), ("MobileNetV2", 64, {"depth_multiplier": 0.5}),
    ("MobileViT", 64, {"image_size": 64, "hidden_sizes": [48, 64, 80], "neck_hidden_sizes": [16, 32, 48, 64, 80, 96, 160]}),
    ("MobileViTV2", 64, {"image_size": 64, "width_multiplier": 0.5}),
    ("Segformer", 64, {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1]}),
    ("PoolFormer", 64, {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 2, 1]}),
    ("RegNet", 64, {"embedding_size": 16, "hidden_sizes": [24, 56, 152, 368], "depths": [1, 1, 2, 1], "groups_width": 8}),
    ("EfficientNet", 64, {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640}),
    ("Levit", 224, {"hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1], "key_dim": [8, 8, 8]}),
    ("Pvt", 64, {"image_size": 64, "hidden_sizes": [16, 32, 60, 96], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 5, 8]}),
    ("PvtV2", 64, {"image_size": 64, "hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 4]}),
    ("FocalNet", 64, {"image_size": 64, "embed_dim": 24, "depths": [1, 1, 2, 1]}),
    ("Bit", 64, {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1], "num_groups": 8}),
    ("SwiftFormer", 64, {"embed_dims": [24, 32, 48, 64], "depths": [1, 1, 1, 1]}),
    ("HGNetV2", 64, {}), ("PPLCNet", 64, {}), ("TextNet", 64, {}),
    ("Hiera", 64, {"image_size": [64, 64], "embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]}),
):  # fmt: skip
    add(
        f"transformers__{_name}",
        tensors(f"pixel_values:3,{_size},{_size}"),
        transformer(f"{_name}ForImageClassification", f"{_name}Config", **_options),
    )
add(
    "transformers__Segformer_maps",
    tensors("pixel_values:3,64,64"),
    transformer(
        "SegformerForSemanticSegmentation", "SegformerConfig", hidden_sizes=[16, 32, 64, 96],
        depths=[1, 1, 1, 1], decoder_hidden_size=64,
    ),
)  # fmt: skip
add(
    "transformers__Swin2SR",
    tensors("pixel_values:3,32,32"),
    transformer(
        "Swin2SRForImageSuperResolution", "Swin2SRConfig", embed_dim=24, depths=[2, 2],
        num_heads=[2, 2], window_size=8, image_size=32,
    ),
)  # fmt: skip
add(
    "transformers__Yolos",
    tensors("pixel_values:3,64,64"),
    transformer(
        "YolosForObjectDetection", "YolosConfig", **_SMALL, image_size=[64, 64], patch_size=8,
        num_detection_tokens=10,
    ),
)  # fmt: skip
add(
    "transformers__AST",
    tensors("input_values:64,32"),
    transformer(
        "ASTForAudioClassification", "ASTConfig", **_SMALL, patch_size=8, max_length=64,
        num_mel_bins=32, frequency_stride=8, time_stride=8,
    ),
)  # fmt: skip
for _name, _options in (
    ("Bert", {}), ("DistilBert", {"dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 96}),
    ("Roberta", {"pad_token_id": 1}), ("Electra", {"embedding_size": 48}),
):  # fmt: skip
    add(
        f"transformers__{_name}_text",
        tensors("input_ids:16:int64"),
        transformer(
            f"{_name}ForSequenceClassification",
            f"{_name}Config",
            **(_options if "dim" in _options else _SMALL | _options),
            vocab_size=200,
        ),
    )


# ---- monai ---------------------------------------------------------------------------------------

_UNET = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
_UNET3 = _UNET | {"spatial_dims": 3}
_STEPS = {"channels": (8, 16, 32, 64), "strides": (2, 2, 2)}
_GREY, _VOLUME = image(64, 1), tensors("x:1,32,32,32")
_NETS: tuple[tuple[str, str, tuple[str, ...], dict[str, Any]], ...] = (
    ("UNet", "UNet", _GREY, _UNET | _STEPS | {"num_res_units": 2}),
    ("UNet", "UNet_3d", _VOLUME, _UNET3 | _STEPS),
    ("BasicUNet", "BasicUNet", _GREY, _UNET | {"features": (16, 16, 32, 64, 64, 16)}),
    ("BasicUNetPlusPlus", "BasicUNetPlusPlus", _GREY, _UNET | {"features": (16, 16, 32, 64, 64, 16)}),
    ("AttentionUnet", "AttentionUnet", _GREY, _UNET | _STEPS),
    ("SegResNet", "SegResNet", _GREY, _UNET | {"init_filters": 16}),
    ("SegResNet", "SegResNet_3d", _VOLUME, _UNET3 | {"init_filters": 8}),
    ("DenseNet121", "DenseNet121", _GREY, _UNET | {"init_features": 16, "growth_rate": 8}),
    ("EfficientNetBN", "EfficientNetBN", _GREY, {"model_name": "efficientnet-b0", "pretrained": False, "spatial_dims": 2, "in_channels": 1, "num_classes": 4}),
    ("DynUNet", "DynUNet", _GREY, _UNET | {"kernel_size": (3, 3, 3), "strides": (1, 2, 2), "upsample_kernel_size": (2, 2), "filters": (16, 32, 64)}),
    ("VNet", "VNet_3d", _VOLUME, {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}),
    ("HighResNet", "HighResNet", _GREY, {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}),
    ("UNETR", "UNETR", _GREY, _UNET | {"img_size": 64, "feature_size": 8, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}),
    ("SwinUNETR", "SwinUNETR", _GREY, _UNET | {"feature_size": 12, "depths": (1, 1, 1, 1)}),
    ("AutoEncoder", "AutoEncoder", _GREY, _UNET | {"channels": (8, 16, 32), "strides": (2, 2, 2)}),
    ("MedNeXtS", "MedNeXtS", _GREY, _UNET),
)  # fmt: skip
for _name, _title, _takes, _net in _NETS:
    add(f"monai__{_title}", _takes, called("monai.networks.nets", _name, **_net))
add(
    "monai__ResNet10_3d",
    _VOLUME,
    called(
        "monai.networks.nets", "resnet10", spatial_dims=3, n_input_channels=1, num_classes=3,
        feed_forward=True,
    ),
)  # fmt: skip


# ---- spandrel (image restoration) ----------------------------------------------------------------


def restoring(folder: str, file: str, name: str, **options: Any) -> Factory:
    """A class of one of the architectures."""
    return called(f"spandrel.architectures.{folder}.__arch.{file}", name, **options)


for _title, _make in (
    ("RRDBNet", restoring("ESRGAN", "RRDB", "RRDBNet", num_filters=16, num_blocks=2)),
    ("Compact", restoring("Compact", "SRVGG", "SRVGGNetCompact", num_feat=16, num_conv=4)),
    ("SwinIR", restoring("SwinIR", "SwinIR", "SwinIR", img_size=32, window_size=8, embed_dim=24, depths=[2, 2], num_heads=[2, 2], upscale=2, upsampler="pixelshuffle")),
    ("SPAN", restoring("SPAN", "span", "SPAN", num_in_ch=3, num_out_ch=3, feature_channels=16)),
    ("PLKSR", restoring("PLKSR", "PLKSR", "PLKSR", dim=16, n_blocks=3)),
    ("RealPLKSR", restoring("PLKSR", "RealPLKSR", "RealPLKSR", dim=16, n_blocks=3)),
    ("NAFNet", restoring("NAFNet", "NAFNet_arch", "NAFNet", width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1])),
    ("OmniSR", restoring("OmniSR", "OmniSR", "OmniSR", num_feat=16, res_num=1, block_num=1, window_size=8)),
    ("SAFMN", restoring("SAFMN", "safmn", "SAFMN", dim=16, n_blocks=2)),
    ("MoSR", restoring("MoSR", "mosr_arch", "MoSR", dim=16, n_block=2)),
    ("DnCNN", restoring("DnCNN", "network_dncnn", "DnCNN", in_nc=3, out_nc=3, nc=16, nb=5)),
    ("RCAN", restoring("RCAN", "rcan_arch", "RCAN", n_resgroups=1, n_resblocks=2, n_feats=16)),
):  # fmt: skip
    add(f"spandrel__{_title}", image(32), _make)


# ---- pytorchcv -----------------------------------------------------------------------------------

for _name in (
    "resnet10", "preresnet10", "resnext14_16x4d", "seresnet10", "senet16", "shufflenet_g1_wd4",
    "shufflenetv2_wd2", "menet108_8x1_g3", "squeezenet_v1_1", "squeezeresnet_v1_1",
    "mobilenet_wd4", "fdmobilenet_wd4", "mobilenetv2_wd4", "mobilenetv3_small_w7d20",
    "igcv3_wd4", "mnasnet_b1", "darknet_tiny", "dla34", "peleenet", "vovnet27s", "selecsls42",
    "hrnet_w18_small_v1", "ibn_resnet50", "airnet50_1x64d_r16", "bam_resnet18", "cbam_resnet18",
    "resattnet56", "diracnet18v2", "condensenet74_c4_g4", "scnet50",
    "ror3_56_cifar10", "pyramidnet110_a48_cifar10", "shakeshakeresnet20_2x16d_cifar10",
    "ghostnet", "proxylessnas_cpu", "fishnet99", "regnetx002",
):  # fmt: skip
    add(
        f"pytorchcv__{_name}",
        image(32 if "cifar" in _name else 128),
        called("pytorchcv.model_provider", "get_model", _name, pretrained=False),
    )


# ---- vit-pytorch ---------------------------------------------------------------------------------

_V = {"num_classes": 10, "dim": 48, "depth": 2, "heads": 4, "mlp_dim": 96}
_V32 = _V | {"image_size": 32, "patch_size": 8}
for _file, _name, _size, _options in (
    ("vit", "ViT", 32, _V32), ("simple_vit", "SimpleViT", 32, _V32),
    ("deepvit", "DeepViT", 32, _V32), ("cait", "CaiT", 32, _V32 | {"cls_depth": 1}),
    ("vit_for_small_dataset", "ViT", 32, _V32), ("parallel_vit", "ViT", 32, _V32),
    ("pit", "PiT", 64, _V | {"image_size": 64, "patch_size": 8, "depth": (1, 1)}),
    ("cct", "CCT", 32, {"img_size": 32, "embedding_dim": 48, "n_conv_layers": 1, "num_layers": 2, "num_heads": 4, "mlp_ratio": 2.0, "num_classes": 10, "positional_embedding": "learnable"}),
    ("nest", "NesT", 32, {"image_size": 32, "patch_size": 4, "dim": 24, "heads": 2, "num_hierarchies": 2, "block_repeats": (1, 1), "num_classes": 10}),
    ("twins_svt", "TwinsSVT", 64, {"num_classes": 10, "s1_emb_dim": 16, "s1_patch_size": 4, "s1_local_patch_size": 4, "s1_global_k": 4, "s1_depth": 1, "s2_emb_dim": 32, "s2_patch_size": 2, "s2_local_patch_size": 4, "s2_global_k": 4, "s2_depth": 1, "s3_emb_dim": 48, "s3_patch_size": 2, "s3_local_patch_size": 2, "s3_global_k": 2, "s3_depth": 1, "s4_emb_dim": 64, "s4_patch_size": 2, "s4_local_patch_size": 1, "s4_global_k": 1, "s4_depth": 1}),
    ("xcit", "XCiT", 32, _V32 | {"cls_depth": 1}),
    ("mobile_vit", "MobileViT", 64, {"image_size": (64, 64), "dims": [48, 64, 80], "channels": [16, 16, 24, 24, 32, 32, 48, 48, 64, 64, 96], "num_classes": 10}),
    ("simple_vit_with_register_tokens", "SimpleViT", 32, _V32),
    ("simple_vit_with_qk_norm", "SimpleViT", 32, _V32),
    ("vit_with_patch_merger", "ViT", 32, _V32 | {"patch_merge_layer": 1, "patch_merge_num_tokens": 4}),
):  # fmt: skip
    add(f"vit_pytorch__{_file}", image(_size), called(f"vit_pytorch.{_file}", _name, **_options))
add(
    "vit_pytorch__simple_vit_3d",
    tensors("video:3,4,32,32"),
    called(
        "vit_pytorch.simple_vit_3d", "SimpleViT", **_V, image_size=32, image_patch_size=8, frames=4,
        frame_patch_size=2,
    ),
)  # fmt: skip


# ---- detectors -----------------------------------------------------------------------------------


def yolo(name: str) -> Factory:
    """A detector of one of the configurations that the package carries."""
    return lambda: import_module("ultralytics").YOLO(f"{name}.yaml", verbose=False).model


for _name in ("yolov8n", "yolo11n", "yolov8n-seg", "yolov8n-pose", "yolov8n-cls", "yolov5n"):
    add(
        f"ultralytics__{_name}".replace("-", "_"),
        image(96),
        yolo(_name),
    )
for _name in ("PNet", "RNet", "ONet"):
    add(
        f"facenet__{_name}",
        image({"PNet": 48, "RNet": 24, "ONet": 48}[_name]),
        called("facenet_pytorch.models.mtcnn", _name, pretrained=False),
    )
add(
    "facenet__InceptionResnetV1",
    image(160),
    called("facenet_pytorch", "InceptionResnetV1", classify=True, num_classes=8),
)
add("easyocr__CRAFT", image(64), called("easyocr.craft", "CRAFT", pretrained=False))
add(
    "easyocr__CRNN",
    tensors("input:1,32,96"),
    lambda: _without_text(import_module("easyocr.model.vgg_model").Model(1, 32, 64, 40)),
)


def _without_text(network: nn.Module) -> nn.Module:
    """The recogniser's forward takes a second argument that it never reads."""

    class Recogniser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input: Any) -> Any:
            return self.network(input, None)

    return Recogniser()


# ---- others --------------------------------------------------------------------------------------

add(
    "efficientnet_pytorch__b0",
    image(64),
    lambda: import_module("efficientnet_pytorch").EfficientNet.from_name("efficientnet-b0"),
)
add(
    "torchxrayvision__DenseNet",
    image(64, 1),
    lambda: import_module("torchxrayvision").models.DenseNet(
        weights=None, num_classes=8, growth_rate=8, block_config=(2, 2, 2, 2)
    ),
)


def enlarging(name: str, **options: Any) -> Factory:
    """A network that doubles the size of images."""

    def make() -> nn.Module:
        package = import_module("super_image")
        made = getattr(package, f"{name}Model")(
            getattr(package, f"{name}Config")(scale=2, **options)
        )
        assert isinstance(made, nn.Module)
        return made

    return make


for _name, _options in (
    ("Edsr", {"n_resblocks": 2, "n_feats": 16}), ("Carn", {}), ("A2n", {}), ("Pan", {}),
    ("Msrn", {}),
):  # fmt: skip
    add(
        f"super_image__{_name}",
        image(32),
        enlarging(_name, **_options),
    )
add("kornia__HardNet", image(32, 1), called("kornia.feature", "HardNet", pretrained=False))
add("kornia__SOSNet", image(32, 1), called("kornia.feature", "SOSNet", pretrained=False))
add("kornia__KeyNet", image(32, 1), called("kornia.feature", "KeyNet", pretrained=False))
for _title, _name, _extra in (
    ("PlainConvUNet", "PlainConvUNet", {"n_conv_per_stage": 1}),
    ("ResidualEncoderUNet", "ResidualEncoderUNet", {"n_blocks_per_stage": 1}),
):
    add(
        f"nnunet__{_title}",
        image(64, 1),
        called(
            "dynamic_network_architectures.architectures.unet", _name, input_channels=1,
            n_stages=4, features_per_stage=(8, 16, 32, 64), conv_op=nn.Conv2d, kernel_sizes=3,
            strides=(1, 2, 2, 2), num_classes=3, n_conv_per_stage_decoder=1, conv_bias=True,
            norm_op=nn.InstanceNorm2d, norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, **_extra,
        ),
    )  # fmt: skip
