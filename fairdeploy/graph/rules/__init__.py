"""Rules of the unit graph, one file per operator family. Importing the package registers all."""

from fairdeploy.graph.rules import (
    contraction,
    einsum,
    elementwise,
    indexing,
    normalization,
    recurrent,
    reduction,
    reshaping,
    spatial,
    transposed,
)
from fairdeploy.graph.rules.registry import rule_of

__all__ = [
    "contraction",
    "einsum",
    "elementwise",
    "indexing",
    "normalization",
    "recurrent",
    "reduction",
    "reshaping",
    "rule_of",
    "spatial",
    "transposed",
]
