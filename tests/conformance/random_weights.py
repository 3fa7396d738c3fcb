"""Random weights under which every output depends on every layer.

As initialised, residual branches give 0, layer scales are 1e-6 and some heads are 0: every
comparison of outputs would be vacuous. Norm statistics are measured on random inputs, so that
activations neither die nor explode in a hundred layers. If the image does not get through even so,
all layers are scaled too, see ``unit_scale``; if noise would drown it, norms give less.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.conformance.image_response import MIN_RESPONSE, noise_gain, response
from tests.conformance.output_layers import tensors_in
from tests.conformance.unit_scale import scaling_hooks

_FEW = 2
_NUM_IMAGES = 16
_CALM_GAIN, _MAX_HALVINGS = 300.0, 3
"""With float32, a gain of 300 is an error of a few 1e-5."""
_MIN_VARIANCE = 0.1
"""A norm that scales small differences up in every layer would turn rounding into chaos."""
_ATTENTION = {"q", "k", "kv", "qk", "qkv"}


def randomise(network: nn.Module, inputs: tuple[Tensor, ...], seed: int) -> None:
    """Draw constant parameters and all norm statistics (changes ``network``, in eval mode).

    Args:
        inputs: What the network is called with to measure its norm statistics.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in network.modules():
            _randomise_norm(layer, generator)
        norms = {
            id(parameter)
            for layer in network.modules()
            if _is_norm(layer)
            for parameter in layer.parameters(recurse=False)
        }
        for parameter in network.parameters():
            if id(parameter) not in norms and _is_constant(parameter):
                _randomise_constant(parameter, generator)
        for name, layer in network.named_modules():
            if name.rpartition(".")[2] in _ATTENTION:
                _rescale(layer)
        _measure_statistics(network, inputs)
        if response(tensors_in(network(*inputs))) < MIN_RESPONSE:
            more = tuple(_more_images(part, generator) for part in inputs)
            _measure_statistics(network, more, scales_layers=True)
        _calm(network, inputs)


def _calm(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Let norms give less until noise stays small (changes ``network``).

    A network that magnifies it does so all the more when half of its channels are gone and its
    statistics are no longer those of its layers: then rounding becomes whole percents.
    """
    weights = [norm.weight for norm in _measured_norms(network) if norm.weight is not None]
    for _ in range(_MAX_HALVINGS if weights else 0):
        if noise_gain(network, inputs) <= _CALM_GAIN:
            break
        for weight in weights:
            weight.mul_(0.5)
        _measure_statistics(network, inputs)


def _more_images(images: Tensor, generator: torch.Generator) -> Tensor:
    """A batch large enough for statistics of maps of a single place."""
    return torch.randn(_NUM_IMAGES, *images.shape[1:], generator=generator)


def _rescale(layer: nn.Module) -> None:
    """Bring queries and keys to unit scale: saturated attention turns rounding into chaos."""
    weight = getattr(layer, "weight", None)
    if isinstance(weight, Tensor) and weight.dim() >= _FEW and not _is_norm(layer):
        weight.mul_(weight[0].numel() ** -0.5 / weight.std().clamp_min(1e-12))


def _is_norm(layer: nn.Module) -> bool:
    return "Norm" in type(layer).__name__ and isinstance(getattr(layer, "weight", None), Tensor)


def _randomise_norm(layer: nn.Module, generator: torch.Generator) -> None:
    if not _is_norm(layer):
        return
    for name, tensor in (
        *layer.named_parameters(recurse=False),
        *layer.named_buffers(recurse=False),
    ):
        if name == "weight":
            tensor.uniform_(0.5, 1.0, generator=generator)
        elif name in {"bias", "running_mean"}:
            tensor.normal_(0.0, 0.1, generator=generator)
        elif name == "running_var":
            tensor.uniform_(0.5, 1.5, generator=generator)


def _is_constant(parameter: Tensor) -> bool:
    return parameter.is_floating_point() and bool((parameter == parameter.flatten()[0]).all())


def _randomise_constant(parameter: Tensor, generator: torch.Generator) -> None:
    """Matrices get their usual scale, offsets small values, scales some between 0.1 and 1."""
    value = float(parameter.flatten()[0])
    shape = parameter.squeeze().shape
    if len(shape) >= _FEW:
        parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
    elif value == 0.0 and parameter.numel() > 1:
        parameter.normal_(0.0, 0.1, generator=generator)
    elif value == 1.0:
        parameter.uniform_(0.5, 1.0, generator=generator)
    elif abs(value) > 1.0:
        # a logit scale or a temperature: leave it near what it was
        parameter.mul_(torch.empty_like(parameter).uniform_(0.8, 1.2, generator=generator))
    else:
        # layer scales start at 1e-6 to 0.1, gains of whole branches at 0
        parameter.uniform_(0.1, 0.5, generator=generator)


def _measure_statistics(
    network: nn.Module, inputs: tuple[Tensor, ...], *, scales_layers: bool = False
) -> None:
    """Give each batch norm the statistics of its own input (changes ``network``).

    One after the other, so that each sees what the norms before it will really give.
    """
    handles = [
        norm.register_forward_pre_hook(_take_statistics) for norm in _measured_norms(network)
    ]
    handles += scaling_hooks(network) if scales_layers else []
    try:
        network(*inputs)
    finally:
        for handle in handles:
            handle.remove()


def _measured_norms(network: nn.Module) -> list[Any]:
    """Norms that keep statistics, torch's own and others."""
    layers = network.modules()
    return [layer for layer in layers if isinstance(getattr(layer, "running_var", None), Tensor)]


def _take_statistics(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    """Store mean and variance of what ``norm`` is about to normalise (changes ``norm``)."""
    values = arguments[0].detach()
    channel_last = values.transpose(0, 1).flatten(1).T
    mean, variance = norm.running_mean, norm.running_var
    assert isinstance(mean, Tensor)
    assert isinstance(variance, Tensor)
    mean.copy_(channel_last.mean(0))
    variance.copy_(channel_last.var(0).clamp_min(_MIN_VARIANCE))
