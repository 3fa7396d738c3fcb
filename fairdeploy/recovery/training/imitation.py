"""How far a network is from another: in its inner values, and in what it answers."""

from __future__ import annotations

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


def are_scores(output: Tensor) -> bool:
    """Whether an output has one score for each of several classes and nothing else."""
    return output.dim() == _MATRIX and output.shape[1] > 1
