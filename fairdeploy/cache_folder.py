"""Where results are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$FAIRDEPLOY_CACHE`` or the user's cache folder; it need not exist."""
    given = os.environ.get("FAIRDEPLOY_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(given) if given else Path(base) / "fairdeploy"
