"""``python -m fairdeploy``."""

from __future__ import annotations

from fairdeploy.cli.app import main

if __name__ == "__main__":
    main()
