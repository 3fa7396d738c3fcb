"""Rules of the unit graph, one file per operator family. Importing the package registers all."""

from fairdeploy.graph.walk.rules import (
    contraction,
    einsum,
    elementwise,
    indexing,
    normalization,
    recurrent,
    reduction,
    repetition,
    reshaping,
    shuffling,
    spatial,
    transposed,
)
from fairdeploy.graph.walk.rules.registry import rule_of

__all__ = [
    "contraction",
    "einsum",
    "elementwise",
    "indexing",
    "normalization",
    "recurrent",
    "reduction",
    "repetition",
    "reshaping",
    "rule_of",
    "shuffling",
    "spatial",
    "transposed",
]
