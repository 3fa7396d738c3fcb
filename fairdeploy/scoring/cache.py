"""Scores on disk, so that a new budget for the same network and data costs no second pass."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fairdeploy.records import UnitScores

_FORMAT = 2
"""Raise when scores of the same inputs change."""
_COUNTS = ("num_classes", "num_unmeasured")


def scores_key(weights_sha256: str, data_sha256: str, **settings: str | float) -> str:
    """Name for the scores of these weights and data under these settings: a sha256 in hex."""
    parts = {
        "data": data_sha256,
        "format": _FORMAT,
        "settings": settings,
        "version": _package_version(),
        "weights": weights_sha256,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cached_scores(
    folder: Path,
    key: str,
    num_units: int,
    compute: Callable[[], UnitScores],
    tell_found: Callable[[], None] = lambda: None,
) -> UnitScores:
    """The stored scores of ``key``, or computed ones, which are stored then.

    A damaged file counts as none. A folder that cannot be written costs the cache, not the run.

    Args:
        folder: Where scores are kept.
        key: See ``scores_key``.
        num_units: Units that are scored; a file with another number, or with what is no number, is
            damaged.
        compute: Called where there is no such file.
        tell_found: Called where there is.
    """
    path = folder / f"scores-{key}.safetensors"
    stored = _read(path, num_units)
    if stored is not None:
        tell_found()
        return stored
    scores = compute()
    _write(path, scores)
    return scores


def _read(path: Path, num_units: int) -> UnitScores | None:
    try:
        arrays = load_file(path)
        u, r = arrays["u"], arrays["r"]
        num_classes, num_unmeasured = (int(count) for count in arrays["counts"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    is_whole = u.shape == r.shape == (num_units,) and u.dtype == r.dtype == np.float64
    is_whole = is_whole and bool(np.isfinite(u).all() and np.isfinite(r).all())
    return UnitScores(u, r, num_classes, num_unmeasured) if is_whole else None


def _write(path: Path, scores: UnitScores) -> None:
    counts = np.array([getattr(scores, name) for name in _COUNTS], dtype=np.int64)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    except OSError:
        return
    os.close(handle)
    try:
        save_file({"u": scores.u, "r": scores.r, "counts": counts}, name)
        os.replace(name, path)
    except (OSError, SafetensorError):
        Path(name).unlink(missing_ok=True)


def _package_version() -> str:
    try:
        return version("fairdeploy")
    except PackageNotFoundError:
        return "checkout"
