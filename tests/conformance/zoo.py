"""Real architectures with random weights that make every comparison mean something."""

from __future__ import annotations

import torch
from torch import nn

from fairdeploy.torchvision_compat import ensure_torchvision

MODELS = (
    "timm:resnet18", "timm:vgg11_bn", "timm:densenet121", "timm:mobilenetv2_100",
    "timm:efficientnet_b0", "timm:convnext_atto", "timm:deit_tiny_patch16_224",
    "timm:resnext50_32x4d", "timm:regnety_002", "timm:ghostnet_100", "timm:res2net50_26w_4s",
    "timm:cspresnet50", "timm:mobilevit_s", "timm:swin_tiny_patch4_window7_224", "timm:levit_128s",
    "timm:hrnet_w18_small", "torchvision:shufflenet_v2_x0_5", "torchvision:googlenet",
    "torchvision:mobilenet_v3_small",
)  # fmt: skip

SAMPLE = (
    "timm:resnet18", "timm:deit_tiny_patch16_224", "timm:levit_128s",
    "torchvision:shufflenet_v2_x0_5",
)  # fmt: skip
"""A small fixed sample for continuous integration: the cheap ones among the hard."""

_IMAGE_SIZE = {"timm:mobilevit_s": 256}


def build(name: str, seed: int = 0) -> nn.Module:
    """A network in eval mode with randomised weights, norm statistics and layer scales.

    As initialised, timm's residual branches give 0 and layer scales are 1e-6: every comparison of
    outputs would be vacuous.
    """
    ensure_torchvision()
    import timm
    import torchvision

    library, _, model = name.partition(":")
    torch.manual_seed(seed)
    if library == "timm":
        network = timm.create_model(model)
    else:
        options = {"init_weights": False} if model == "googlenet" else {}
        network = torchvision.models.get_model(model, weights=None, **options)
    randomise(network, seed)
    return network.eval()


def example(name: str) -> torch.Tensor:
    """Two images of the size that the network is used with."""
    size = _IMAGE_SIZE.get(name, 224)
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def randomise(network: nn.Module, seed: int) -> None:
    """Draw norm statistics, norm weights and layer scales (changes ``network``)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.weight.uniform_(0.5, 1.0, generator=generator)
                layer.bias.normal_(0.0, 0.1, generator=generator)
                layer.running_mean.normal_(0.0, 0.1, generator=generator)
                layer.running_var.uniform_(0.5, 1.5, generator=generator)
        for name, parameter in network.named_parameters():
            if name.rpartition(".")[2] in {"gamma", "gamma1", "gamma2", "layer_scale"}:
                parameter.uniform_(0.1, 0.5, generator=generator)
