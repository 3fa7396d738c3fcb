"""Scores of all units: one signal says what may go, another what must stay."""

from fairdeploy.scoring.cache import cached_scores, scores_key
from fairdeploy.scoring.signals import DEFAULT_PROJECTIONS, as_unit_scores, measure_signals
from fairdeploy.scoring.unit_scores import score_units

__all__ = [
    "DEFAULT_PROJECTIONS",
    "as_unit_scores",
    "cached_scores",
    "measure_signals",
    "score_units",
    "scores_key",
]
