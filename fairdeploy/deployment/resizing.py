"""What an exporter may offer besides: files of other widths without exporting again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fairdeploy.deployment.exporter_api import Exporter, GuardedExporter, get_exporter, guarded
from fairdeploy.records import BranchCut, NetworkDims

Lengths = NDArray[np.int64]


class WidthTemplate(Protocol):
    """A file that can be written at other widths."""

    def write(self, path: Path, lengths: Lengths, cuts: Sequence[BranchCut] = ()) -> None:
        """Write the file with these lengths, shape [D]; it is for timing, its results are not.

        Args:
            path: The file.
            lengths: From ``DimensionLengths``.
            cuts: Residual branches that the file shall lack.

        Raises:
            ExportError: It cannot be written without them.
        """


@runtime_checkable
class Resizer(Protocol):
    """An exporter that can make templates."""

    def width_template(
        self,
        original: Path,
        probe: Path,
        dims: NetworkDims,
        lengths: tuple[Lengths, Lengths],
    ) -> WidthTemplate | None:
        """A template from files of one network at two widths, None if they do not make one.

        Args:
            original: The whole network.
            probe: The same at another width.
            dims: The dimensions of the network's tensors.
            lengths: Length of each dimension in either file, each [D].
        """


@runtime_checkable
class TimesOtherFiles(Protocol):
    """An exporter whose runner opens files of another exporter as well, and runs them as fast."""

    @property
    def trial_format(self) -> str:
        """Name of the exporter that writes files which are only for timing."""


def trial_exporter(exporter: Exporter) -> Exporter:
    """What writes files that ``exporter`` shall time: itself, or another that can cut them.

    Raises:
        ExportError: That one is not installed.
    """
    inner = _inner(exporter)
    return get_exporter(inner.trial_format) if isinstance(inner, TimesOtherFiles) else exporter


def can_resize(exporter: Exporter) -> bool:
    """Whether the exporter makes templates at all."""
    return isinstance(_inner(exporter), Resizer)


def width_template(
    exporter: Exporter,
    original: Path,
    probe: Path,
    dims: NetworkDims,
    lengths: tuple[Lengths, Lengths],
) -> WidthTemplate | None:
    """The exporter's template, or None where it makes none.

    Raises:
        ExportError: The exporter failed.
    """
    resizer = _inner(exporter)
    if not isinstance(resizer, Resizer):
        return None
    with guarded(f"exporter '{exporter.name}' could not make a template"):
        return resizer.width_template(original, probe, dims, lengths)


def _inner(exporter: Exporter) -> object:
    return exporter.exporter if isinstance(exporter, GuardedExporter) else exporter
