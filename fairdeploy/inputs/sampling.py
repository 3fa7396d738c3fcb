"""Seeded choice of calibration, selection, test and training images that never overlap."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fairdeploy.inputs.image_pool import ImagePool, Indices, is_class_number

# A small labelled pool keeps at least this share for measuring accuracy.
_MIN_TEST_SHARE = 0.2

# What selection, or the test where something is selected, gets of a pool that is too small for all.
_SHARE_WITH_TRAINING = 0.25
_SHARE_WITHOUT = 0.5


def _none() -> Indices:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Wishes:
    """How many images of each kind are wanted at most."""

    num_calibration: int
    max_test: int
    num_selection: int = 0
    with_training: bool = False
    with_rest: bool = False
    """What nothing else wants is kept for training, and nothing is made smaller for it."""

    @property
    def keeps_rest(self) -> bool:
        """Whether images that nothing else wants are chosen for training."""
        return self.with_training or self.with_rest

    @property
    def most_tested(self) -> float:
        """Largest share of held-out images that the test may take."""
        if self.with_training:
            return _SHARE_WITH_TRAINING
        return _SHARE_WITHOUT if self.num_selection else 1.0


@dataclass(frozen=True, slots=True)
class Choice:
    """Ascending indices into the pools they were chosen from; all but ``calibration`` may be empty.

    Calibration and training images are of the training pool. Test and selection images are of the
    test pool where there is one, else of the only pool.
    """

    calibration: Indices
    test: Indices
    selection: Indices = field(default_factory=_none)
    training: Indices = field(default_factory=_none)

    def require_disjoint(self, *, is_one_pool: bool) -> None:
        """Check that no image serves two purposes.

        Raises:
            AssertionError: One does: a bug in the choice.
        """
        parts = [self.calibration, self.training]
        held_out = [self.test, self.selection]
        for kinds in [[*parts, *held_out]] if is_one_pool else [parts, held_out]:
            everything = np.concatenate(kinds)
            assert len(np.unique(everything)) == len(everything), "an image was chosen twice"


def choose(train: ImagePool, test: ImagePool | None, wishes: Wishes, seed: int) -> Choice:
    """Choose images for every purpose; an image serves one purpose only."""
    if test is None:
        choice = split_one_pool(train, wishes, seed)
    else:
        calibration = choose_balanced(train, wishes.num_calibration, seed)
        everything = np.arange(test.size, dtype=np.int64)
        share = _SHARE_WITHOUT if wishes.num_selection else 1.0
        most = 0 if not test.is_labelled else min(wishes.max_test, int(share * test.size))
        tested = choose_uniform(everything, most, seed)
        selection = _selected(np.setdiff1d(everything, tested), wishes.num_selection, seed)
        left = np.setdiff1d(np.arange(train.size, dtype=np.int64), calibration)
        choice = Choice(calibration, tested, selection, left if wishes.keeps_rest else _none())
    choice.require_disjoint(is_one_pool=test is None)
    return choice


def choose_balanced(pool: ImagePool, count: int, seed: int) -> Indices:
    """``count`` indices with the classes as equal as the pool allows; all if there are fewer."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(pool.size)
    if pool.labels is None or not is_class_number(pool.labels):
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


def split_one_pool(pool: ImagePool, wishes: Wishes, seed: int) -> Choice:
    """Calibration first, then test, selection and training; unlabelled images need no test."""
    everything = np.arange(pool.size, dtype=np.int64)
    if not pool.is_labelled:
        calibration = choose_balanced(pool, wishes.num_calibration, seed)
        rest = np.setdiff1d(everything, calibration)
        tested = _none()
    else:
        # In a tiny pool the reserve must not cost calibration a class.
        classes = pool.labels if pool.labels is not None and is_class_number(pool.labels) else [0]
        two_each = 2 * len(np.unique(classes))
        most = max(two_each, int(pool.size * (1 - _MIN_TEST_SHARE)))
        calibration = choose_balanced(pool, min(wishes.num_calibration, most), seed)
        rest = np.setdiff1d(everything, calibration)
        num_test = min(wishes.max_test, int(wishes.most_tested * len(rest)))
        tested = choose_uniform(rest, num_test, seed)
    left = np.setdiff1d(rest, tested)
    num_selection = wishes.num_selection
    if wishes.keeps_rest:
        num_selection = min(num_selection, int(_SHARE_WITH_TRAINING * len(rest)))
    selection = _selected(left, num_selection, seed)
    training = np.setdiff1d(left, selection) if wishes.keeps_rest else _none()
    return Choice(calibration, tested, selection, training)


def _selected(candidates: Indices, count: int, seed: int) -> Indices:
    return choose_uniform(candidates, count, seed + 1)
