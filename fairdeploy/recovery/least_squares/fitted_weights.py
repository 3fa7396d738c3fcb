"""Between a layer's parameters and the affine map that least squares solves for."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from fairdeploy.recovery.least_squares.fittable_layers import BatchNorm, FittableLayer
from fairdeploy.recovery.least_squares.normal_equations import NormalEquations
from fairdeploy.recovery.least_squares.sweep import attribute

# Below this share of the largest factor a channel adds nothing to its sum that could be divided by.
MIN_FACTOR = 1e-6
# How much larger or smaller a channel may be made, so that it is as large as it was.
MAX_RESIZE = 1e6


def has_bias(layer: FittableLayer) -> bool:
    """Whether the layer, with its batch norm, can add a constant to each output."""
    return layer.bias is not None or layer.batchnorm is not None


def current_map(shrunk: fx.GraphModule, layer: FittableLayer) -> Tensor:
    """The layer's affine map, with the batch norm and the factors that follow it.

    Returns:
        float64, shape [G, n, o]; with ``has_bias`` the last of the n rows is the constant.
    """
    flat = _layer_rows(shrunk, layer)
    factors = _factors(shrunk, layer)
    if factors is not None:
        flat = flat * factors[:, None]
    groups = layer.window.groups
    return flat.reshape(groups, flat.shape[0] // groups, -1).mT.contiguous()


def _layer_rows(shrunk: fx.GraphModule, layer: FittableLayer) -> Tensor:
    if layer.is_norm:
        assert layer.batchnorm is not None
        return torch.stack(_folded(shrunk, layer.batchnorm), dim=1)
    weight: Tensor = attribute(shrunk, layer.weight).detach().double()
    flat = weight.reshape(weight.shape[0], -1)
    bias = torch.zeros(weight.shape[0], dtype=torch.float64)
    if layer.bias is not None:
        bias = attribute(shrunk, layer.bias).detach().double()
    if layer.batchnorm is not None:
        scale, shift = _folded(shrunk, layer.batchnorm)
        flat, bias = flat * scale[:, None], bias * scale + shift
    return torch.cat([flat, bias[:, None]], dim=1) if has_bias(layer) else flat


def write_map(
    shrunk: fx.GraphModule, layer: FittableLayer, solution: Tensor, sums: NormalEquations
) -> None:
    """Change the layer's parameters, and its batch norm, in place so that they give this map.

    The batch norm gets the mean and variance that the fitted convolution's output really has, as
    if it had been trained so: its statistics stay meaningful for whoever fine-tunes or quantises.
    Each channel's weights stay as large as they were, where the batch norm or the factor that
    follows can make up for it. Weights before a norm learn the faster the smaller they are, and
    divided by a factor near zero they would overflow in half precision.

    Args:
        shrunk: The network that is changed.
        layer: One of its layers.
        solution: As ``current_map`` gives it.
        sums: Over the rows that it was fitted on.
    """
    flat = solution.mT.reshape(solution.shape[0] * solution.shape[2], -1)
    flat = _before_factors(shrunk, layer, flat)
    if layer.is_norm:
        _write_norm(shrunk, layer, flat, sums)
        return
    bias = torch.zeros(len(flat), dtype=torch.float64)
    if has_bias(layer):
        flat, bias = flat[:, :-1], flat[:, -1]
    if layer.batchnorm is None:
        _set(shrunk, layer.weight, flat)
        if layer.bias is not None:
            _set(shrunk, layer.bias, bias)
        return
    resize = torch.ones_like(bias)
    if layer.batchnorm.weight is not None:
        weight: Tensor = attribute(shrunk, layer.weight).detach().double()
        resize = _resize(flat, weight.reshape(flat.shape))
        flat = flat * resize[:, None]
    _set(shrunk, layer.weight, flat)
    if layer.bias is not None:
        _set(shrunk, layer.bias, torch.zeros_like(bias))
    linear_map = torch.cat([flat, torch.zeros_like(bias)[:, None]], dim=1)
    linear_map = linear_map.reshape(solution.shape[0], solution.shape[2], -1).mT
    mean, variance = _output_moments(linear_map, sums)
    _write_batchnorm(shrunk, layer.batchnorm, mean, variance, 1 / resize, bias)


def own_tensors(shrunk: fx.GraphModule, original: fx.GraphModule) -> None:
    """Give ``shrunk`` copies, in place, of the tensors that it shares with ``original``."""
    shared = {t.untyped_storage().data_ptr() for t in _state(original)}
    for tensor in _state(shrunk):
        if tensor.untyped_storage().data_ptr() in shared:
            tensor.data = tensor.detach().clone()


def _state(module: fx.GraphModule) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _factors(shrunk: fx.GraphModule, layer: FittableLayer) -> Tensor | None:
    """What each output channel is multiplied with on its way to the sum, float64."""
    name = _scale_of(layer)
    return None if name is None else _as_written(shrunk, name)


def _scale_of(layer: FittableLayer) -> str | None:
    """Name of these factors."""
    return None if layer.sum_after is None else layer.sum_after.scale


def _as_written(shrunk: fx.GraphModule, name: str) -> Tensor:
    values: Tensor = attribute(shrunk, name).detach().double().flatten()
    return values


def _before_factors(shrunk: fx.GraphModule, layer: FittableLayer, flat: Tensor) -> Tensor:
    """The rows as the layer has to give them; its factors are changed in place if it has its own.

    Where the factors cannot change, a channel that its factor wipes out stays as it is.
    """
    name = _scale_of(layer)
    if name is None:
        return flat
    factors, old = _as_written(shrunk, name), _layer_rows(shrunk, layer)
    if len(factors) == len(flat) and not layer.is_norm:
        signs = torch.where(factors < 0, -1.0, 1.0)
        _set(shrunk, name, signs / _resize(flat, old))
        return flat / _as_written(shrunk, name)[:, None]
    is_usable = factors.abs() > MIN_FACTOR * factors.abs().max()
    safe = torch.where(is_usable, factors, torch.ones_like(factors))
    return torch.where(is_usable[:, None], flat / safe[:, None], old)


def _resize(rows: Tensor, like: Tensor) -> Tensor:
    """What to multiply each row with so that it is as long as that of ``like``; 1 for zeros."""
    length, wanted = rows.norm(dim=1), like.norm(dim=1)
    found = (wanted / length).clamp(1 / MAX_RESIZE, MAX_RESIZE)
    return torch.where((length > 0) & (wanted > 0), found, torch.ones_like(found))


def _folded(shrunk: fx.GraphModule, norm: BatchNorm) -> tuple[Tensor, Tensor]:
    mean = attribute(shrunk, norm.running_mean).double()
    scale = (attribute(shrunk, norm.running_var).double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * attribute(shrunk, norm.weight).detach().double()
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + attribute(shrunk, norm.bias).detach().double()
    return scale, shift


def _write_norm(
    shrunk: fx.GraphModule, layer: FittableLayer, flat: Tensor, sums: NormalEquations
) -> None:
    """Write ``scale * x + shift``, rows [C, 2], as a batch norm with the moments of ``x``."""
    assert layer.batchnorm is not None
    identity = torch.tensor([[1.0], [0.0]], dtype=torch.float64).expand(len(flat), 2, 1)
    mean, variance = _output_moments(identity, sums)
    _write_batchnorm(shrunk, layer.batchnorm, mean, variance, flat[:, 0], flat[:, 1])


def _write_batchnorm(
    shrunk: fx.GraphModule,
    norm: BatchNorm,
    mean: Tensor,
    variance: Tensor,
    factor: Tensor,
    constant: Tensor,
) -> None:
    """Make the norm ``factor * x + constant``, with these statistics where it has an affine."""
    if norm.weight is None:
        variance = torch.full_like(variance, 1 - norm.eps)
    else:
        _set(shrunk, norm.weight, factor * (variance + norm.eps).sqrt())
    if norm.bias is None:
        mean = -constant
    else:
        scale = (variance + norm.eps).rsqrt() if norm.weight is None else factor
        _set(shrunk, norm.bias, constant + mean * scale)
    _set(shrunk, norm.running_mean, mean)
    _set(shrunk, norm.running_var, variance)


def _output_moments(linear_map: Tensor, sums: NormalEquations) -> tuple[Tensor, Tensor]:
    mean = (sums.gram[:, -1:] @ linear_map).squeeze(1) / sums.num_rows
    square = (linear_map * (sums.gram @ linear_map)).sum(dim=1) / sums.num_rows
    return mean.reshape(-1), (square - mean.square()).clamp_min(0).reshape(-1)


def _set(module: fx.GraphModule, name: str, value: Tensor) -> None:
    tensor = attribute(module, name)
    with torch.no_grad():
        tensor.copy_(value.reshape(tensor.shape))
