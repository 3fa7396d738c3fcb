"""Shrinks a trained vision network to a budget, proves the surgery, and deploys it.

The commands as calls, on a network and images in memory or on disk::

    result = fairdeploy.shrink(network, loader, "macs=50%")
    result.network, result.report, result.save("folder")

``inspect``, ``sweep``, ``measure`` and ``export`` likewise. ``load(folder)`` brings back what
``shrink`` wrote; ``apply(model, plan)`` removes a plan's units from the original network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairdeploy.runs.folder.reload import apply, load
    from fairdeploy.runs.python_calls import (
        Result,
        SweepResult,
        export,
        inspect,
        measure,
        shrink,
        sweep,
    )

__version__ = "0.1.0"

__all__ = [
    "Result", "SweepResult", "__version__", "apply", "export", "inspect", "load", "measure",
    "shrink", "sweep",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import torch only when a function that needs it is asked for: ``--help`` has to be quick."""
    if name not in __all__:
        raise AttributeError(f"module 'fairdeploy' has no attribute '{name}'")
    if name in ("apply", "load"):
        from fairdeploy.runs.folder import reload

        return getattr(reload, name)
    from fairdeploy.runs import python_calls

    return getattr(python_calls, name)


def __dir__() -> list[str]:
    """All that can be asked for."""
    return sorted({*globals(), *__all__})
