"""The frontier between cost and accuracy from one scoring run: behind ``fairdeploy sweep``."""

from fairdeploy.runs.sweep.run import SweepResult, sweep

__all__ = ["SweepResult", "sweep"]
