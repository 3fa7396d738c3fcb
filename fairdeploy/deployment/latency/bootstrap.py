"""How well the speed-up is known from calls that were timed in turn.

The speed-up is the median of the pairs' ratios, not the ratio of two medians: on a machine with
other load calls are fast or slow in spells, and where about half are slow, each network's median
falls on either side by chance. In six races of one pair of networks on two shared cores the ratio
of medians spread by 4.6 % (standard deviation), the median of ratios by 0.7 %.

A session is some per cent faster or slower for as long as it lives, and so is a spell of other
work, which no resampling of calls within one finds out. So the interval is at least as wide as the
median moves when whole sessions are drawn, with Student's t for how few they are.

This file needs Python 3.8 and numpy, nothing else, so that a copy of it runs on any device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_NUM_RESAMPLES = 1000
_PERCENTILES = (2.5, 97.5, 0.5, 99.5)
"""Ends of what is reported, and of what decides: a decision is looked for again and again, and the
wider interval keeps 95 % over all these looks."""
_Z = np.array([1.96, 1.96, 2.576, 2.576])
_SIDES = np.array([-1, 1, -1, 1])
_MIN_BLOCKS = 5
_MIN_SESSIONS = 3
"""Two tell hardly anything about how far others may lie apart."""
_LEAST_MS = 1e-6


class CoarseClockError(ValueError):
    """A median is 0 ms, so the clock cannot see the network."""


@dataclass(frozen=True)
class Interval:
    """Median of first over second (of one network: in ms), with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    decides_low: float
    """Low end of the wider interval that decides; see ``excludes``."""
    decides_high: float

    @property
    def relative_width(self) -> float:
        """Width of the 95 % interval as a share of the value."""
        return (self.high - self.low) / self.value

    def excludes(self, value: float) -> bool:
        """Whether the deciding interval lies wholly on one side of ``value``."""
        return not self.decides_low <= value <= self.decides_high


def bootstrap_interval(
    times_ms: NDArray[np.float64],
    rng: np.random.Generator,
    num_resamples: int = _NUM_RESAMPLES,
    *,
    sessions: Sequence[int] = (),
) -> Interval:
    """Median ratio of the pairs (of one network: its median) with a 95 % bootstrap interval.

    Rounds are drawn together, in blocks of neighbours (Kuensch 1989): slow spells last for many
    calls, and drawing single rounds would take them for independent. Blocks are as long as the
    ratios stay alike, and the interval is widened as Student's t is for so few blocks.

    Args:
        times_ms: One or two rows of as many calls.
        rng: Draws the resamples.
        num_resamples: How many.
        sessions: Places of the first round of each session; the interval is wide enough for the
            spread between them, too.

    Raises:
        CoarseClockError: A median is 0 ms.
    """
    if np.median(times_ms, axis=1).min() <= 0:
        raise CoarseClockError(
            "the clock cannot resolve one call (median 0 ms); use a larger batch"
        )
    # a clock may miss single calls of a network whose median it sees
    logs = np.log(np.maximum(times_ms, _LEAST_MS))
    series = logs[0] - logs[1] if len(logs) == 2 else logs[0]
    middle = float(np.median(series))
    length = _block_length(series - middle)
    drawn = _drawn_blocks(len(series), length, num_resamples, rng)
    moved = np.median(series[drawn], axis=1) - middle
    num_blocks = len(series) / length
    ends = np.percentile(moved, _PERCENTILES) * _widening(num_blocks, _Z)
    between = _moved_by_sessions(series, sessions, num_resamples, rng) - middle
    if len(between):
        freedom = len(sessions) - 1
        too_narrow = math.sqrt(len(sessions) / freedom)  # as the spread of few resampled values is
        wider = np.percentile(between, _PERCENTILES) * _widening(len(sessions), _Z) * too_narrow
        ends = _SIDES * np.maximum(_SIDES * ends, _SIDES * wider)
    return Interval(*(math.exp(middle + end) for end in (0.0, *ends)))


def _moved_by_sessions(
    series: NDArray[np.float64],
    sessions: Sequence[int],
    num_resamples: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Medians over whole sessions drawn with replacement; empty where they are too few."""
    if len(sessions) < _MIN_SESSIONS:
        return np.empty(0)
    drawn = rng.multinomial(len(sessions), np.full(len(sessions), 1 / len(sessions)), num_resamples)
    owner = np.searchsorted(sessions, np.arange(len(series)), side="right") - 1
    order = np.argsort(series, kind="stable")
    reached = np.cumsum(drawn[:, owner[order]], axis=1)
    middles = np.argmax(2 * reached >= reached[:, -1:], axis=1)
    return np.asarray(series[order][middles])


def _block_length(centred: NDArray[np.float64]) -> int:
    """Rounds in a block: more, the longer slow and fast spells last.

    The length grows with the number of rounds and with their correlation as the best one does for
    the variance of a mean (Politis and White 2004). A median moves with the signs of its values.
    """
    count = len(centred)
    wanted = math.ceil(
        math.pow(count, 1 / 3) * math.pow(_correlation_length(np.sign(centred)), 2 / 3)
    )
    return min(wanted, count // _MIN_BLOCKS)


def _correlation_length(series: NDArray[np.float64]) -> float:
    """Neighbours that count as one: the integrated autocorrelation, at least 1.

    Correlations are added in pairs until a pair is not positive (Geyer 1992): what follows is
    noise.
    """
    centred = series - series.mean()
    power = float(centred @ centred)
    if power == 0:
        return 1.0
    spectrum = np.fft.rfft(centred, 2 * len(centred))
    correlations = np.fft.irfft(np.abs(spectrum) ** 2)[: len(centred) // 2] / power
    pairs = correlations[: len(correlations) // 2 * 2].reshape(-1, 2).sum(axis=1)
    ended = np.flatnonzero(pairs <= 0)
    return max(1.0, 2 * float(pairs[: ended[0] if len(ended) else None].sum()) - 1)


def _widening(num_blocks: float, z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Student's t over the normal quantiles ``z``, for ``num_blocks`` values.

    Expansion of Abramowitz and Stegun 26.7.5.
    """
    freedom = max(1.0, num_blocks - 1)
    first = (z**2 + 1) / (4 * freedom)
    second = (5 * z**4 + 16 * z**2 + 3) / (96 * freedom**2)
    third = (3 * z**6 + 19 * z**4 + 17 * z**2 - 15) / (384 * freedom**3)
    return 1 + first + second + third


def _drawn_blocks(
    count: int, length: int, num_resamples: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Indices of resampled rounds, [num_resamples, count]; blocks wrap around at the end."""
    starts = rng.integers(0, count, size=(num_resamples, math.ceil(count / length), 1))
    blocks = (starts + np.arange(length)) % count
    return blocks.reshape(num_resamples, -1)[:, :count]
