"""Files in other precisions and formats, and whether each gives what the network gives."""

from __future__ import annotations

from dataclasses import dataclass

from fairdeploy.records.accuracy import AccuracyEstimate
from fairdeploy.records.deployment import Artifact
from fairdeploy.records.inputs import Preprocessing


@dataclass(frozen=True, slots=True)
class OnnxChanges:
    """What shall be otherwise in a finished ONNX file; None leaves it as it is."""

    batch: int | None = None
    """The only number of images that it shall take."""
    opset: int | None = None
    preprocessing: Preprocessing | None = None
    """Put into the graph: it then takes uint8 images [N, H, W, C] of any size."""
    probabilities: bool = False
    """Softmax after the main output."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first node whose result differs from the fp32 file's by more than the limit."""

    node: str
    operator: str
    source: str
    """Name in the torch graph that it came from; empty where it is not known."""
    error: float
    """Largest difference, relative to the largest value of the result."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a file may differ by."""

    max_relative_error: float
    """Relative to the largest output of the network."""
    min_top1_agreement: float
    """Share of images with the same class."""
    max_column_error: float = 0.2
    """Of any column of any output, as a share of its own spread; see ``output_columns``."""


@dataclass(frozen=True, slots=True)
class VariantCheck:
    """One file against the shrunk torch network, on images that were used for nothing else."""

    artifact: Artifact
    tolerance: Tolerance
    max_relative_error: float | None
    """None: it was not run here."""
    top1_agreement: float | None
    """None too where the output holds no classes."""
    accuracy: AccuracyEstimate | None
    """None without labelled test images."""
    accuracy_drop: float | None
    """Of the torch network to this file, on the same images; negative: it rose."""
    max_drop: float
    num_images: int
    column_error: float | None = None
    """Of the column that is furthest off, over all outputs, as a share of its own spread."""
    worst_column: str = ""
    column_problems: tuple[str, ...] = ()
    """Columns that became constant, or whose range shrank."""
    divergence: Divergence | None = None
    """Where it parts from the fp32 file, if it failed and the format can tell."""
    not_run_because: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether all limits hold; None if it was not run here."""
        if self.not_run_because:
            return None
        return not self.failures()

    def failures(self) -> tuple[str, ...]:
        """Which limits are broken, in words."""
        error, agreement = self.max_relative_error, self.top1_agreement
        limit, least = self.tolerance.max_relative_error, self.tolerance.min_top1_agreement
        found = []
        if error is None or not error <= limit:
            shown = "not a number" if error is None else f"{error:.1e}"
            found.append(f"relative error {shown}, limit {limit:.0e}")
        column, most_off = self.column_error, self.tolerance.max_column_error
        if column is not None and not column <= most_off:
            found.append(
                f"{self.worst_column} is off by {column:.2g} of its own spread, limit {most_off:g}"
            )
        found += self.column_problems
        if agreement is not None and agreement < least:
            found.append(f"same answers for {agreement:.1%}, limit {least:.0%}")
        if self.accuracy_drop is not None and self.accuracy_drop > self.max_drop:
            drop, most = 100 * self.accuracy_drop, 100 * self.max_drop
            found.append(f"{drop:.2f} points of accuracy lost, limit {most:g}")
        return tuple(found)
