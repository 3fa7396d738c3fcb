"""Seeded choice of calibration and test images that never overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fairdeploy.inputs.image_pool import ImagePool, Indices

# A small labelled pool keeps at least this share for measuring accuracy.
_MIN_TEST_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Choice:
    """Ascending indices into the pools they were chosen from; ``test`` may be empty."""

    calibration: Indices
    test: Indices


def choose_balanced(pool: ImagePool, count: int, seed: int) -> Indices:
    """``count`` indices with the classes as equal as the pool allows; all if there are fewer."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(pool.size)
    if pool.labels is None:
        return np.sort(order[:count])
    # Rank of each image within its class: taking the lowest ranks first goes round the classes.
    ranks = np.empty(pool.size, dtype=np.int64)
    shuffled_labels = pool.labels[order]
    for label in np.unique(shuffled_labels):
        members = order[shuffled_labels == label]
        ranks[members] = np.arange(len(members))
    by_round = order[np.argsort(ranks[order], kind="stable")]
    return np.sort(by_round[:count])


def choose_uniform(candidates: Indices, count: int, seed: int) -> Indices:
    """``count`` of the candidates, each equally likely, so that accuracy is not biased."""
    if len(candidates) <= count:
        return candidates
    generator = np.random.default_rng([seed, 1])
    return np.sort(generator.choice(candidates, size=count, replace=False))


def split_one_pool(pool: ImagePool, num_calibration: int, max_test: int, seed: int) -> Choice:
    """Calibration first, the rest for the test; unlabelled images need no test."""
    if pool.labels is None:
        return Choice(choose_balanced(pool, num_calibration, seed), np.empty(0, dtype=np.int64))
    # In a tiny pool the reserve must not cost calibration a class.
    two_each = 2 * len(np.unique(pool.labels))
    most = max(two_each, int(pool.size * (1 - _MIN_TEST_SHARE)))
    calibration = choose_balanced(pool, min(num_calibration, most), seed)
    rest = np.setdiff1d(np.arange(pool.size, dtype=np.int64), calibration)
    return Choice(calibration, choose_uniform(rest, max_test, seed))
