"""How long every dimension of the network is when some units go, as one vector of numbers.

An exported file holds the same lengths in its weights and constants. Knowing which length each of
them is, an exporter can write files of other widths without exporting again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fairdeploy.graph.unit_graph import UnitGraph, UnitIds
from fairdeploy.records import NetworkDims
from fairdeploy.surgery.removal import StayingIndices

Lengths = NDArray[np.int64]


class DimensionLengths:
    """Numbers the different dimensions of a network's tensors; counts what stays of each."""

    def __init__(self, graph: UnitGraph) -> None:
        """Read the dimensions of ``graph``; equal ones get one number."""
        self._graph = graph
        self._dims: list[tuple[UnitIds, int]] = []
        self._numbers: dict[tuple[object, ...], int] = {}
        self._of_tensor = {name: self._all(dims) for name, dims in graph.tensor_units.items()}
        self._of_value = {name: self._all(dims) for name, dims in graph.value_units.items()}

    def lengths(self, removed: NDArray[np.bool_]) -> Lengths:
        """What stays of each dimension when the marked units go, shape [D].

        Args:
            removed: Boolean, shape [num_units].
        """
        stays = StayingIndices(self._graph, removed)
        return np.array([stays.count(units, dim) for units, dim in self._dims], dtype=np.int64)

    def network_dims(self) -> NetworkDims:
        """Which dimensions each stored tensor has, and which each node deals with."""
        calls = [node for node in self._graph.module.graph.nodes if node.op == "call_function"]
        return NetworkDims(
            tensors=self._of_tensor,
            nodes={node.name: self._around(node) for node in calls},
            padded={
                node.name: tuple(zip(before, after, strict=True))
                for node in calls
                if (after := self._of_value.get(node.name, ()))
                and len(before := self._of_first(node)) == len(after)
            },
        )

    def _of_first(self, node: fx.Node) -> tuple[int, ...]:
        """Dimensions of the value that the node reads first."""
        first = node.args[0] if node.args else None
        return self._of_value.get(first.name, ()) if isinstance(first, fx.Node) else ()

    def _around(self, node: fx.Node) -> tuple[int, ...]:
        """Dimensions of the node's result, then of what it reads; each once."""
        found = list(self._of_value.get(node.name, ()))
        for source in node.all_input_nodes:
            is_stored = source.op == "get_attr"
            known, name = (
                (self._of_tensor, str(source.target))
                if is_stored
                else (self._of_value, source.name)
            )
            found += known.get(name, ())
        return tuple(dict.fromkeys(found))

    def _all(self, dims: tuple[UnitIds, ...]) -> tuple[int, ...]:
        return tuple(self._number(units, dim) for dim, units in enumerate(dims))

    def _number(self, units: UnitIds, dim: int) -> int:
        axis = dim if units.ndim > 1 else 0
        key = (units.tobytes(), units.shape, axis)
        if key not in self._numbers:
            self._numbers[key] = len(self._dims)
            self._dims.append((units, axis))
        return self._numbers[key]
