"""Convolution and batch norm as one convolution, for the scoring pass alone.

In eval mode ``z = gamma * (y - mean) / std + beta`` with ``y = W x`` is one convolution, which
saves the norm's forward and backward pass. What the gradients of all four tensors would have said
per channel follows from two sums over images and positions, ``A = sum of z * dz`` and
``S = sum of dz``: ``beta * dbeta = beta S``, ``gamma * dgamma = A - beta S`` and, because
``dy = dz * gamma / std``, ``W * dW = A - beta S + mean * gamma / std * S``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fairdeploy.graph.operators import op_name, operator_of

_NORM_TENSORS = slice(1, 5)
_TRAINING, _EPS = 5, 7
"""Places in the arguments of ``aten.batch_norm``."""


@dataclass(frozen=True, slots=True)
class FoldedLayer:
    """A convolution that computes its batch norm too."""

    norm: str
    """Node of the batch norm, which passes its input on."""
    weight: Tensor
    bias: Tensor
    weight_name: str
    gamma_name: str
    beta_name: str
    beta: Tensor
    """float64 [C], like the next."""
    mean_times_gain: Tensor

    def products(self, value_times_gradient: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        """Value times gradient per channel for each tensor, from the sums A and S."""
        from_beta = self.beta * gradient
        from_gamma = value_times_gradient - from_beta
        return {
            self.weight_name: from_gamma + self.mean_times_gain * gradient,
            self.gamma_name: from_gamma,
            self.beta_name: from_beta,
        }


def folded_layers(
    layers: Mapping[str, tuple[str, ...]],
    module: fx.GraphModule,
    tensor: Callable[[str], Tensor],
    is_foldable: Callable[[str], bool],
) -> dict[str, FoldedLayer]:
    """By node name, the layers that one batch norm alone reads.

    Args:
        layers: Node name to operator, weight name and bias name, if any.
        tensor: Gives a parameter or buffer by name.
        is_foldable: Whether a norm's gamma or beta is fetched once and produced channel by channel.
    """
    folded = {}
    for node in module.graph.nodes:
        if node.name not in layers or not operator_of(node).num_spatial:
            continue
        norm = next(iter(node.users), None)
        if norm is None or len(node.users) > 1 or not _is_fixed_norm(norm, node):
            continue
        gamma, beta, mean, variance = (str(arg.target) for arg in norm.args[_NORM_TENSORS])
        if is_foldable(gamma) and is_foldable(beta):
            statistics = (tensor(mean), tensor(variance), float(norm.args[_EPS]))
            names = (*layers[node.name][1:], gamma, beta)
            folded[node.name] = _fold(norm.name, names, [tensor(n) for n in names], statistics)
    return folded


def _is_fixed_norm(norm: fx.Node, layer: fx.Node) -> bool:
    """Whether ``norm`` is a batch norm of ``layer`` in eval mode with all four tensors stored."""
    if op_name(norm) != "batch_norm" or norm.args[0] is not layer or norm.kwargs:
        return False
    tensors = norm.args[_NORM_TENSORS]
    is_stored = all(isinstance(arg, fx.Node) and arg.op == "get_attr" for arg in tensors)
    return is_stored and norm.args[_TRAINING] is False


def _fold(
    norm: str,
    names: tuple[str, ...],
    tensors: list[Tensor],
    statistics: tuple[Tensor, Tensor, float],
) -> FoldedLayer:
    weight, *convolution_bias, gamma, beta = (tensor.detach().double() for tensor in tensors)
    mean, variance, eps = statistics
    gain = gamma / torch.sqrt(variance.double() + eps)
    shift = convolution_bias[0] - mean if convolution_bias else -mean.double()
    shape = [-1] + [1] * (weight.dim() - 1)
    dtype = tensors[0].dtype
    return FoldedLayer(
        norm=norm,
        weight=(weight * gain.reshape(shape)).to(dtype),
        bias=(beta + gain * shift).to(dtype),
        weight_name=names[0],
        gamma_name=names[-2],
        beta_name=names[-1],
        beta=beta,
        mean_times_gain=mean.double() * gain,
    )
