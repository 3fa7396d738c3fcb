"""Scores of all units: U says what may go, R what must stay."""

from fairdeploy.scoring.cache import cached_scores, scores_key
from fairdeploy.scoring.unit_scores import DEFAULT_PROJECTIONS, score_units

__all__ = ["DEFAULT_PROJECTIONS", "cached_scores", "score_units", "scores_key"]
