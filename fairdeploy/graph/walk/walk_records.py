"""What a walk through the graph writes down beside the labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from fairdeploy.graph.walk.labels import Labels


@dataclass(frozen=True, slots=True)
class FreezeEvent:
    """Why some indices were frozen, and where."""

    node: fx.Node
    reason: str
    is_unknown_op: bool


@dataclass(frozen=True, slots=True)
class Contraction:
    """A place where a value's dimension is summed away against another tensor."""

    node: fx.Node
    argument: fx.Node
    dim: int


@dataclass(frozen=True, slots=True)
class Balance:
    """Blocks of indices from which the same number must go, though not the same index."""

    node: str
    rows: Labels
    """Shape [blocks, length]."""
    is_required: bool
    """Without it the operation fails. Otherwise it only keeps equal pieces equal, which is what the
    user's own code (``chunk``) expects, and is dropped where it does not fit."""


@dataclass(frozen=True, slots=True)
class CoupledNorm:
    """A norm that takes its statistics over dimensions that may shrink."""

    node: fx.Node
    dims: tuple[int, ...]
