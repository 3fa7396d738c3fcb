"""Times the stages of a run while it shows them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from fairdeploy.runs.progress import Progress, Stage


class Stopwatch:
    """Wraps a progress listener; ``seconds`` and ``warnings`` go into the report."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
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
