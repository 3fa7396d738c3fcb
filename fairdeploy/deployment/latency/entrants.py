"""The networks of a race, which are opened anew again and again while it lasts.

Where a session's buffers come to lie makes it some per cent faster or slower for as long as it
lives, and no longer race finds that out: four races of 17 s of one pair of ResNet-56 files had
ratios of 0.910 to 0.928 with one session each, four others 0.922 to 0.931 with a new one every
0.7 s, in turn on the same cores (ONNX Runtime 1.32).

This file needs Python 3.8 and nothing else, so that a copy of it runs on any device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Clock = Callable[[], int]
    """Nanoseconds, monotonic."""
    Call = Callable[[], object]
    """Runs a network once on its inputs."""

_MIN_LIFETIME_SECONDS = 0.7
"""That sessions live at least."""
_LIFETIME_FOR_OPENING = 9.0
"""That they live for each second of their opening."""
_WANTED_OPENINGS = 6
"""Openings before an interval may end a race; even, so that each order comes as often."""
NS_PER_MS = 1e6
NS_PER_S = 1e9


@dataclass(frozen=True)
class Opened:
    """A network that is ready to run."""

    call: Call
    close: Callable[[], object]


class Entrants:
    """One or two networks, open from ``open`` to ``close``.

    The last is opened once more and that copy stays idle, for whatever is opened last is faster: of
    four sessions of one file on two cores the last took 2 % less than the others, which were within
    0.3 % of each other. What is left of that goes by opening in the other order every other time.
    """

    def __init__(self, opens: Sequence[Callable[[], Opened]], clock: Clock) -> None:
        """Nothing is opened yet.

        Args:
            opens: Open each network, again at each call.
            clock: Decides when the sessions are old.
        """
        self._opens = opens
        self._clock = clock
        self._opened: list[Opened] = []
        self._order: list[int] = []
        self._opened_at = 0
        self._lifetime_ns = 0.0
        self.num_openings = 0
        self.cold_start_ms: tuple[float, ...] = ()
        """Opening and first call, of the first opening."""

    @property
    def calls(self) -> list[Call]:
        """Of the open networks, the idle copy left out."""
        calls = {index: self._opened[place].call for place, index in enumerate(self._order)}
        return [calls[index] for index in sorted(calls)]

    def open(self) -> None:
        """Open all and call each once."""
        start = self._clock()
        self._order = list(range(len(self._opens)))
        if self.num_openings % 2:
            self._order.reverse()
        times = tuple(self._cold_start_ms(self._opens[index]) for index in self._order)
        if len(self._opens) > 1:
            self._cold_start_ms(self._opens[self._order[-1]])
        self._opened_at = self._clock()
        took = self._opened_at - start
        self._lifetime_ns = max(_MIN_LIFETIME_SECONDS * NS_PER_S, _LIFETIME_FOR_OPENING * took)
        self.cold_start_ms = self.cold_start_ms or times
        self.num_openings += 1

    @property
    def is_due(self) -> bool:
        """Whether the open networks are old enough to be opened anew."""
        return self._clock() - self._opened_at >= self._lifetime_ns

    def renew(self) -> None:
        """Close all and open them again, if they have been open for long enough."""
        if self.is_due:
            self.close()
            self.open()

    def close(self) -> None:
        """Close what is open, the last first."""
        while self._opened:
            self._opened.pop().close()

    def are_enough(self, max_seconds: float) -> bool:
        """Whether the interval may speak; fewer openings do if half of the time has no room."""
        room = 1 + int(max_seconds * NS_PER_S / 2 / self._lifetime_ns)
        return self.num_openings >= min(_WANTED_OPENINGS, room)

    def _cold_start_ms(self, open_one: Callable[[], Opened]) -> float:
        start = self._clock()
        self._opened.append(open_one())
        self._opened[-1].call()
        return (self._clock() - start) / NS_PER_MS
