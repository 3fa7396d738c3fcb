"""How far a network is from another: in its inner values, and in what it answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_MATRIX = 2
_TINY = 1e-12


def value_error(value: Tensor, wanted: Tensor, batch_dim: int = 0) -> Tensor:
    """Mean squared error as a share of the wanted value's variance over images and positions."""
    assert value.shape == wanted.shape, f"{tuple(value.shape)} against {tuple(wanted.shape)}"
    variance = (wanted - wanted.mean(dim=batch_dim, keepdim=True)).square().mean()
    return (value - wanted).square().mean() / variance.clamp_min(_TINY)


def answer_error(answer: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of class scores [N, classes]; else the squared error's share.

    Args:
        answer: The main output.
        wanted: The original's.
        temperature: Softens both; the result is scaled with its square (Hinton et al. 2015).
    """
    if not are_scores(wanted):
        return value_error(answer, wanted)
    ours, theirs = (
        functional.log_softmax(scores / temperature, dim=1) for scores in (answer, wanted)
    )
    divergence = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def answer_distance(answer: Tensor, wanted: Tensor) -> Tensor:
    """How far apart the class probabilities are, 0 to 1; else the squared error's share.

    Half the sum of the differences, the mean over images: the smooth form of the share of images
    whose class differs. The divergence is no measure to choose a moment of a training by, since the
    few images that are wrong and sure of it decide it.
    """
    if not are_scores(wanted):
        return value_error(answer, wanted)
    difference = answer.softmax(dim=1) - wanted.softmax(dim=1)
    return difference.abs().sum(dim=1).mean() / 2


def are_scores(output: Tensor) -> bool:
    """Whether an output has one score for each of several classes and nothing else."""
    return output.dim() == _MATRIX and output.shape[1] > 1


@dataclass(frozen=True, slots=True)
class Imitation:
    """How well a network answers like the original, on images it was not trained on."""

    error: float
    """See ``answer_distance``."""
    agreement: float | None
    """Share of images with the same class; None where the output is no class scores."""


def compared(answer: Tensor, wanted: Tensor) -> Imitation:
    """Both measures for one set of images."""
    with torch.no_grad():
        error = float(answer_distance(answer, wanted))
        if not are_scores(wanted):
            return Imitation(error, None)
        same = answer.argmax(dim=1) == wanted.argmax(dim=1)
        return Imitation(error, float(same.float().mean()))
