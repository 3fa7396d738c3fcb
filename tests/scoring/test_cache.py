"""Scores are computed once for the same inputs and again after damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from fairdeploy.records import UnitScores
from fairdeploy.scoring import cached_scores, scores_key

SCORES = UnitScores(np.array([1.0, 0.5, 1.5]), np.array([0.0, 2.0, 1e-9]), 10, 1)


class Counted:
    """Returns the scores and counts how often it was asked."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self) -> UnitScores:
        """The scores."""
        self.num_calls += 1
        return SCORES


def assert_same(scores: UnitScores) -> None:
    assert np.array_equal(scores.u, SCORES.u)
    assert np.array_equal(scores.r, SCORES.r)
    assert (scores.num_classes, scores.num_unmeasured) == (10, 1)


def test_cache_returns_the_stored_scores_without_computing(tmp_path: Path) -> None:
    compute = Counted()
    assert_same(cached_scores(tmp_path / "new", "key", 3, compute))
    assert_same(cached_scores(tmp_path / "new", "key", 3, compute))
    assert compute.num_calls == 1
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_cache_tells_whether_it_had_the_scores(tmp_path: Path) -> None:
    found: list[str] = []
    for _ in range(2):
        cached_scores(tmp_path, "key", 3, Counted(), tell_found=lambda: found.append("key"))
        cached_scores(tmp_path, "other", 3, Counted(), tell_found=lambda: found.append("other"))
    assert found == ["key", "other"]


def test_cache_computes_again_when_the_file_is_damaged(tmp_path: Path) -> None:
    compute = Counted()
    cached_scores(tmp_path, "key", 3, compute)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    stored = load(whole)
    no_number = save({**stored, "r": np.array([0.0, np.nan, 1e-9])})
    of_another_network = save({**stored, "u": np.ones(2), "r": np.ones(2)})
    for damaged in (b"", b"not scores", whole[:40], no_number, of_another_network):
        path.write_bytes(damaged)
        assert_same(cached_scores(tmp_path, "key", 3, compute))
    assert compute.num_calls == 6
    assert_same(cached_scores(tmp_path, "key", 3, compute))
    assert compute.num_calls == 6


def test_cache_that_cannot_be_written_costs_only_the_cache(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert_same(cached_scores(blocked / "folder", "key", 3, Counted()))


def test_key_changes_with_weights_data_and_each_setting() -> None:
    keys = {
        scores_key("w", "d", seed=0, num_projections=64),
        scores_key("v", "d", seed=0, num_projections=64),
        scores_key("w", "e", seed=0, num_projections=64),
        scores_key("w", "d", seed=1, num_projections=64),
        scores_key("w", "d", seed=0, num_projections=32),
    }
    assert len(keys) == 5
    assert scores_key("w", "d", seed=0) == scores_key("w", "d", seed=0)
