"""The proof, and what repair did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fairdeploy.records.accuracy import Verdict


@dataclass(frozen=True, slots=True)
class ProofResult:
    """Zeroed original against shrunk network."""

    max_relative_error: float
    limit: float
    num_inputs: int
    batch_sizes: tuple[int, ...]
    precision: str = "float32"
    """``float64`` where float32 was beyond the limit: the network magnifies rounding."""
    num_coupled_norms: int = 0
    """Norms that lost channels they take statistics over; the proof covers everything else."""
    norm_coupled_difference: float | None = None
    """What that makes of the outputs: the largest difference between the shrunk network and the
    original with plain zeros, relative to the latter; None if no norm lost channels."""
    image_sizes: tuple[str, ...] = ()
    """Where sizes vary: those that were tried, as ``H=192, W=224``."""

    @property
    def passed(self) -> bool:
        """Whether the error is a number and within the limit."""
        return self.max_relative_error <= self.limit


@dataclass(frozen=True, slots=True)
class LayerFit:
    """What recovery did to one layer; errors are shares of the target's variance, held out."""

    layer: str
    outcome: Literal["fitted", "kept", "exact", "skipped"]
    """``kept``: no change helped on held-out images; ``exact``: nothing was lost so far;
    ``skipped``: the layer has too many unknowns."""
    error_before: float | None
    error_after: float | None
    ridge: float | None
    """Penalty on the change of the weights, relative to the mean squared input."""


@dataclass(frozen=True, slots=True)
class RecoverySummary:
    """How the shrunk network was repaired."""

    method: Literal["least_squares", "batchnorm"]
    layers: tuple[LayerFit, ...]
    num_images: int
    seconds: float
    verdict: Verdict | None = None
    """Against the network without units as it was; None where noise took the images' place."""
