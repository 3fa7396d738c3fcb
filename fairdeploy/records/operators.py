"""Single operators before and after, and why the network is not faster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cause = Literal[
    "frozen", "kept", "depthwise", "memory-bound", "misaligned", "launch-bound", "reformatting",
    "unexplained",
]  # fmt: skip
"""Why an operator takes more time than the network's MACs promised; see
``deployment.obstacles``."""


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """What one operator takes per call of the network, in the order in which operators run."""

    name: str
    """In the runtime's own graph."""
    op_type: str
    node: str
    """Name of the node in the torch graph that was exported; "" if unknown."""
    median_ms: float
    output_shape: tuple[int, ...]
    """Of the first output."""


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """One node of the network before and after: all that the runtime runs for it."""

    node: str
    """In the torch graph; "" for what belongs to no node."""
    module: str
    """Path of the user's module that issued it; "" for the whole network."""
    op: str
    """The torch operator, or ``reformatting`` for what the runtime added around it."""
    original_ms: float
    shrunk_ms: float
    num_runs: int = 1
    """How many operators the runtime runs for it in the shrunk network."""
    lost_ms: float = 0.0
    """Time above what the network's MACs promised; below 0 where it is faster than that."""
    cause: Cause | None = None
    """Where ``lost_ms`` matters."""
    detail: str = ""
    """The numbers behind the cause."""


@dataclass(frozen=True, slots=True)
class ModuleTime:
    """One module before and after, with all that lies inside it."""

    module: str
    original_ms: float
    shrunk_ms: float


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Operators of one kind that keep the network from being as fast as its MACs promise."""

    cause: Cause
    op: str
    modules: tuple[str, ...]
    """Where the operators are, the one that loses most first."""
    original_ms: float
    shrunk_ms: float
    lost_ms: float
    text: str
    """A sentence for the user."""


@dataclass(frozen=True, slots=True)
class OperatorComparison:
    """Original and shrunk by operator and module, and what stands in the way of more speed."""

    operators: tuple[OperatorRow, ...]
    """In the order of the torch graph."""
    modules: tuple[ModuleTime, ...]
    obstacles: tuple[Obstacle, ...]
    """The one that loses most first."""
    promised_speedup: float
    """MACs of the original over those of the shrunk network."""
    original_ms: float
    """Sum over operators; the profiler makes it larger than the latency."""
    shrunk_ms: float
    num_runs: int
