"""``python -m fairdeploy``."""

from __future__ import annotations

from fairdeploy.cli import main

if __name__ == "__main__":
    main()
