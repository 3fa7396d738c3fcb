"""What a network with given kept counts costs, for thousands of candidates a second.

A cost is a sum of terms, each a coefficient times a product of dimension lengths (see
``graph.cost_terms``). Equal dimensions of different terms are computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fairdeploy.graph.unit_graph import CostDim, CostTerm

Counts = NDArray[np.int64]

# Index of a made-up dimension of length 1, which fills up terms that have fewer dimensions.
_UNIT_LENGTH = 0
_ROUNDING = 1e-12


class CostModel:
    """Parameters, MACs and bytes as a function of the units that each group keeps."""

    def __init__(self, terms: Mapping[str, tuple[CostTerm, ...]], num_groups: int) -> None:
        """Flatten ``terms`` of a unit graph with ``num_groups`` groups into arrays."""
        index_of_dim: dict[CostDim, int] = {(1, ()): _UNIT_LENGTH}
        self._terms = {
            metric: _FlatTerms(metric_terms, index_of_dim) for metric, metric_terms in terms.items()
        }
        self._fixed, self._multiplicity = _dim_arrays(list(index_of_dim), num_groups)

    def costs(self, kept_counts: Counts) -> dict[str, NDArray[np.float64]]:
        """Cost of each candidate.

        Args:
            kept_counts: Units that each group keeps, shape [B, G], or [G] for one candidate.

        Returns:
            By metric, shape [B]; for one candidate a 0-d array (``cost`` gives plain numbers).
        """
        lengths = kept_counts @ self._multiplicity + self._fixed
        return {metric: terms.total(lengths) for metric, terms in self._terms.items()}

    def cost(self, kept_counts: Counts) -> dict[str, float]:
        """Cost of one candidate, ``kept_counts`` of shape [G], as plain numbers."""
        return {metric: float(value) for metric, value in self.costs(kept_counts).items()}


class _FlatTerms:
    """The terms of one metric: coefficients, and which dimensions each multiplies."""

    def __init__(self, terms: Sequence[CostTerm], index_of_dim: dict[CostDim, int]) -> None:
        coefficient_of: dict[tuple[int, ...], float] = {}
        for term in terms:
            dims = tuple(
                sorted(index_of_dim.setdefault(dim, len(index_of_dim)) for dim in term.dims)
            )
            coefficient_of[dims] = coefficient_of.get(dims, 0.0) + term.coefficient
        self._coefficients = np.array(list(coefficient_of.values()), dtype=np.float64)
        width = max(map(len, coefficient_of), default=0)
        padded = [(*dims, *[_UNIT_LENGTH] * (width - len(dims))) for dims in coefficient_of]
        # One row per factor: each is a single fancy index over all terms and candidates.
        self._factors = np.array(padded, dtype=np.int64).reshape(len(padded), width).T

    def total(self, lengths: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of the terms for dimension lengths of shape [..., D]."""
        products: NDArray[np.float64] = np.ones((*lengths.shape[:-1], len(self._coefficients)))
        for factor in self._factors:
            products *= lengths[..., factor]
        total: NDArray[np.float64] = np.asarray(products @ self._coefficients)
        whole = np.rint(total)  # counts are whole, but for the rounding of a share of the batch
        return np.where(np.abs(total - whole) <= _ROUNDING * total, whole, total)


def _dim_arrays(
    dims: Sequence[CostDim], num_groups: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fixed lengths [D], and how much each group's unit adds to each dimension [G, D]."""
    fixed = np.array([length for length, _ in dims], dtype=np.float64)
    multiplicity = np.zeros((num_groups, len(dims)))
    for column, (_, pairs) in enumerate(dims):
        for group, count in pairs:
            multiplicity[group, column] += count
    return fixed, multiplicity
