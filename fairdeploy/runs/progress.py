"""How the pipeline tells the user where it is, without knowing who listens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Stage(Protocol):
    """One line of work that is under way."""

    def advance(self, count: int = 1) -> None:
        """``count`` more of the stage's total are done."""

    def note(self, text: str) -> None:
        """A short result to show beside the stage's name (``412 units in 19 groups``)."""


class Progress(Protocol):
    """Listens to the pipeline."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Stage]:
        """Open a stage; it counts as done when the block ends without an error.

        Args:
            name: What is being done (``score``), a word or two.
            total: Number of steps that ``advance`` will report, or None if it is not known.
        """

    def warn(self, text: str) -> None:
        """Tell the user, now and at the end, something that changes what the result means."""


class SilentStage:
    """Listens to nothing."""

    def advance(self, count: int = 1) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


class SilentProgress:
    """For ``--quiet``, ``--json``, and calls from Python."""

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """Open a stage that shows nothing."""
        yield SilentStage()

    def warn(self, text: str) -> None:
        """Do nothing; warnings are in the report."""


# ---- times the stages of a run while it shows them -----------------------------------------------


class Stopwatch:
    """Wraps a progress listener; ``seconds`` and ``warnings`` go into the report."""

    def __init__(self, progress: Progress | None = None) -> None:
        """Pass everything on to ``progress``; None: nobody listens."""
        self._progress = progress or SilentProgress()
        self.seconds: dict[str, float] = {}
        self.warnings: list[str] = []

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """Open a stage; its time is added under its name."""
        started = time.perf_counter()
        with self._progress.stage(name, total) as stage:
            yield stage
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def warn(self, text: str) -> None:
        """Pass a warning on and keep it."""
        self.warnings.append(text)
        self._progress.warn(text)

    def inside(self, stage: Stage, *, counts: bool = False) -> Stopwatch:
        """One whose stages are parts of ``stage``, which shows their names or counts them.

        A warning that was given before is not given again.
        """
        return Stopwatch(_Within(stage, self, counts))


class _Within:
    """A ``Progress`` inside of one stage."""

    def __init__(self, outer: Stage, watch: Stopwatch, counts: bool) -> None:
        self._outer, self._watch, self._counts = outer, watch, counts

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """One part."""
        if not self._counts:
            self._outer.note(name)
        yield SilentStage()
        if self._counts:
            self._outer.advance()

    def warn(self, text: str) -> None:
        """Pass a warning on once."""
        if text not in self._watch.warnings:
            self._watch.warn(text)
