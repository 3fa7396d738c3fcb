"""Listens to the pipeline and keeps what it was told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class RecordedStage:
    """One stage: its name, how far it came, and its last note."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name = name
        self.total = total
        self.done = 0
        self.text = ""

    def advance(self, count: int = 1) -> None:
        self.done += count

    def note(self, text: str) -> None:
        self.text = text


class RecordedProgress:
    """A ``Progress`` that remembers stages in the order in which they began, and warnings."""

    def __init__(self) -> None:
        self.stages: list[RecordedStage] = []
        self.warnings: list[str] = []

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[RecordedStage]:
        stage = RecordedStage(name, total)
        self.stages.append(stage)
        yield stage

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def notes(self) -> dict[str, str]:
        """The last note of each stage by its name."""
        return {stage.name: stage.text for stage in self.stages}
