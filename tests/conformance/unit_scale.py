"""Weights scaled layer by layer until each layer's products have a mean square of 1.

Some initialisations suppose training mode, or weights of a certain size behind every norm: in eval
mode their signal dies within a few layers. This is layer-sequential unit variance (Mishkin and
Matas, "All you need is a good init", 2016) without its orthogonal start: one pass in which each
convolution and linear layer is scaled by what it really gives. Biases stay as they are.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
_MIN_SCALE = 1e-12


def scaling_hooks(network: nn.Module) -> list[RemovableHandle]:
    """Hooks that scale each layer when ``network`` comes to it; remove them after one call."""
    seen: set[int] = set()

    def scale(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor)
        if id(weight) in seen:
            return None
        seen.add(id(weight))
        offset = output.new_zeros(()) if bias is None else _along_channels(layer, bias, output)
        products = output - offset
        factor = 1.0 / max(float(products.square().mean().sqrt()), _MIN_SCALE)
        weight.mul_(factor)
        return products * factor + offset

    layers = (layer for layer in network.modules() if isinstance(layer, _LAYERS))
    return [layer.register_forward_hook(scale) for layer in layers]


def _along_channels(layer: nn.Module, bias: Tensor | nn.Module, output: Tensor) -> Tensor:
    """The bias in the form in which it is added to the output."""
    assert isinstance(bias, Tensor)
    return bias if isinstance(layer, nn.Linear) else bias.view(-1, *(1,) * (output.dim() - 2))
