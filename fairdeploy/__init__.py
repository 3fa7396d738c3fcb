"""Shrinks a trained vision network to a budget, proves the surgery, and deploys it.

``load(folder)`` brings back what ``fairdeploy shrink`` wrote; ``apply(model, plan)`` removes a
plan's units from the original network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairdeploy.runs.folder.reload import apply, load

__version__ = "0.1.0"

__all__ = ["__version__", "apply", "load"]


def __getattr__(name: str) -> object:
    """Import torch only when a function that needs it is asked for: ``--help`` has to be quick."""
    if name in ("apply", "load"):
        from fairdeploy.runs.folder import reload

        return getattr(reload, name)
    raise AttributeError(f"module 'fairdeploy' has no attribute '{name}'")
