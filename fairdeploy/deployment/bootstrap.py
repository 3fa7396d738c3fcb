"""How well a ratio of medians is known from calls that were timed in turn.

This file needs Python 3.8 and numpy, nothing else, so that a copy of it runs on any device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUM_RESAMPLES = 1000
_REPORTED = (2.5, 97.5)
_REPORTED_Z = 1.96
_DECIDING = (0.5, 99.5)
"""A decision is looked for again and again; the wider interval keeps 95 % over all these looks."""
_DECIDING_Z = 2.576
_MIN_BLOCKS = 5


class CoarseClockError(ValueError):
    """A median is 0 ms, so the clock cannot see the network."""


@dataclass(frozen=True)
class Interval:
    """First median over second (or the only median, in ms), with its 95 % bootstrap interval."""

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
    times_ms: NDArray[np.float64], rng: np.random.Generator, num_resamples: int = _NUM_RESAMPLES
) -> Interval:
    """Ratio of medians (of one network: its median) with a 95 % bootstrap interval.

    Rounds are drawn together, in blocks of neighbours (Kuensch 1989): slow spells last for many
    calls, and drawing single rounds would take them for independent. Blocks are as long as the
    times stay alike, and the interval is widened as Student's t is for so few blocks.

    Args:
        times_ms: One or two rows of as many calls.

    Raises:
        CoarseClockError: A median is 0 ms.
    """
    medians = np.median(times_ms, axis=1)
    if medians.min() <= 0:
        raise CoarseClockError(
            "the clock cannot resolve one call (median 0 ms); use a larger batch"
        )
    length = _block_length(times_ms, medians)
    drawn = _drawn_blocks(times_ms.shape[1], length, num_resamples, rng)
    value = float(_value(medians))
    logs = np.log(_value(np.median(times_ms[:, drawn], axis=2)) / value)
    num_blocks = times_ms.shape[1] / length
    reported = np.percentile(logs, _REPORTED) * _widening(num_blocks, _REPORTED_Z)
    deciding = np.percentile(logs, _DECIDING) * _widening(num_blocks, _DECIDING_Z)
    return Interval(value, *(value * math.exp(end) for end in (*reported, *deciding)))


def _value(medians: NDArray[np.float64]) -> NDArray[np.float64]:
    """First over second; of one network, itself."""
    ratio: NDArray[np.float64] = medians[0] / medians[1] if len(medians) == 2 else medians[0]
    return ratio


def _block_length(times_ms: NDArray[np.float64], medians: NDArray[np.float64]) -> int:
    """Rounds in a block: more, the longer slow and fast spells last.

    The length grows with the number of rounds and with their correlation as the best one does for
    the variance of a mean (Politis and White 2004).
    """
    count = int(times_ms.shape[1])
    low, high = np.percentile(times_ms, (25, 75), axis=1)
    # How a call moves the logarithm of its median: up or down, by as much as times differ.
    moves = np.sign(times_ms - medians[:, None]) * ((high - low) / medians)[:, None]
    correlated = _correlation_length(moves[0] - moves[1] if len(moves) == 2 else moves[0])
    wanted = math.ceil(math.pow(count, 1 / 3) * math.pow(correlated, 2 / 3))
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


def _widening(num_blocks: float, z: float) -> float:
    """Student's t over the normal quantile ``z``, for ``num_blocks`` values.

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
