"""Where results are kept between runs, and what is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PATTERNS = {
    "scores": ("scores-*.safetensors",),
    "channel sweeps": ("multiples-*.json",),
    "interrupted training": ("training/*.pt", "training/*.part"),
    "GPU timings": ("timing-*.cache",),
    "details of failures": ("logs/failure-*.log",),
    "unfinished files": ("*.tmp",),
}


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """All files of a kind."""

    kind: str
    num_files: int
    size_bytes: int


def cache_folder() -> Path:
    """``$FAIRDEPLOY_CACHE`` or the user's cache folder; it need not exist."""
    given = os.environ.get("FAIRDEPLOY_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(given) if given else Path(base) / "fairdeploy"


def cache_entries(folder: Path) -> tuple[CacheEntry, ...]:
    """What lies in ``folder``, by kind; files of other names are nobody's business here."""
    found = {kind: list(_files(folder, kind)) for kind in _PATTERNS}
    return tuple(
        CacheEntry(kind, len(files), sum(file.lstat().st_size for file in files))
        for kind, files in found.items()
    )


def clear_cache(folder: Path) -> tuple[CacheEntry, ...]:
    """Remove what ``cache_entries`` lists, nothing else; returns what was there."""
    entries = cache_entries(folder)
    for kind in _PATTERNS:
        for file in _files(folder, kind):
            file.unlink(missing_ok=True)
    return entries


def _files(folder: Path, kind: str) -> Iterator[Path]:
    for pattern in _PATTERNS[kind]:
        yield from (file for file in sorted(folder.glob(pattern)) if not file.is_dir())
