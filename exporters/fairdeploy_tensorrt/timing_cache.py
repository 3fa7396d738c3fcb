"""Keeps how long kernels took in earlier builds, so that the next build is faster."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import Any


class TimingCache:
    """A file for each GPU and version of the library; losing it costs time, nothing else."""

    def __init__(self, folder: Path, *parts: str) -> None:
        """Name the file after ``parts``: library, version and GPU."""
        name = re.sub(r"[^\w.-]+", "-", "-".join(("timing", *parts)))
        self.path = folder / f"{name}.cache"

    def hand_to(self, config: Any) -> None:
        """Let a build use what earlier ones have found (changes ``config``)."""
        for known in (self._read(), b""):
            with contextlib.suppress(RuntimeError, TypeError, ValueError):
                cache = config.create_timing_cache(known)
                # False where another GPU or version has written it.
                if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                    return

    def take_from(self, config: Any) -> None:
        """Store what a build has found; a folder that cannot be written is no error."""
        cache = config.get_timing_cache()
        if cache is None:
            return
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, suffix=".tmp")
            with os.fdopen(handle, "wb") as file:
                file.write(bytes(cache.serialize()))
            os.replace(name, self.path)

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError:
            return b""
