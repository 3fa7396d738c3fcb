"""Every error that a user can cause, and the exit code that the command line gives it.

Wording: what is wrong with which value; what would be right; what to do. Lower case, one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class FairdeployError(Exception):
    """Base of all errors that are the user's to mend; printed as one ``error:`` line."""

    exit_code = 1


class UsageError(FairdeployError):
    """An option has a value that can never be right (``--budget 150%``)."""

    exit_code = 2


class ModelError(FairdeployError):
    """The model cannot be read, is damaged, or cannot be captured."""


class UnsafePickleError(ModelError):
    """A checkpoint names classes or functions that are not on the safe list."""


class DataError(FairdeployError):
    """The images or labels cannot be used."""


class TaskError(DataError):
    """A task of the user's own fails, or gives what is no figure."""


class ProjectFileError(FairdeployError):
    """``fairdeploy.toml`` or a target profile is malformed or has unknown keys."""


class OutputError(FairdeployError):
    """The output folder exists already or cannot be written."""


class PlanError(FairdeployError):
    """A plan does not belong to this model."""


class OptimizerError(FairdeployError):
    """An optimizer's state cannot be carried over to the shrunk network."""


class ExportError(FairdeployError):
    """An exporter could not write, or a runtime could not open, an artifact."""


class MeasurementError(FairdeployError):
    """A measurement was asked for that would mean nothing, or the runtime failed in it."""


class DeviceLostError(MeasurementError):
    """A device that measures for us does not answer, or stopped answering."""


class BudgetError(FairdeployError):
    """The budget cannot be met; the message shows the reachable range."""

    exit_code = 3


class ParityError(FairdeployError):
    """Two things that must agree do not: surgery proof, or torch against an artifact."""

    exit_code = 4


class AccuracyError(FairdeployError):
    """The accuracy gate was not met."""

    exit_code = 5


@contextmanager
def noted(note: str, of: type[BaseException] = BaseException) -> Iterator[None]:
    """Note on what ends the block, also on an interrupt, what was kept; it is shown with it."""
    try:
        yield
    except of as error:
        error.add_note(note)
        raise
