"""Rules of the unit graph, one file per operator family. Importing the package registers all."""

from fairdeploy.graph.rules import (
    contraction,
    elementwise,
    indexing,
    normalization,
    reduction,
    reshaping,
    spatial,
)
from fairdeploy.graph.rules.registry import rule_of

__all__ = [
    "contraction",
    "elementwise",
    "indexing",
    "normalization",
    "reduction",
    "reshaping",
    "rule_of",
    "spatial",
]
