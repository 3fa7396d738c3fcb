"""How far a file may be from the torch network, by precision.

Largest differences are relative to the largest output; every column's root mean square besides to
its own spread (``output_columns``), where a column of constants is off by 1. fp16 carries 11 bits,
bf16 8: some layers deep, the last digits add up to these limits. INT8 values are one of 256: the
largest of 50,000 differences was 0.62 where ResNet-56 lost 0.2 points, so there that limit only
catches what is broken, and the columns are what judges; of scores of classes, more the share of
images with the same class.
"""

from __future__ import annotations

from dataclasses import replace

from fairdeploy.records import Tolerance

DEFAULT_MAX_DROP = 0.01
"""Share of right answers that a quantised file may lose."""

_TOLERANCES = {
    "fp32": Tolerance(1e-3, 0.995, 0.02),
    "fp16": Tolerance(2e-2, 0.99, 0.1),
    "bf16": Tolerance(1e-1, 0.97, 0.3),
    "int8": Tolerance(9e-1, 0.94, 0.3),
}
_CLASSES_COLUMN_ERROR = 0.5
"""In INT8, of scores whose order is what counts and is judged too."""
_LOOSEST = "int8"


def tolerance_of(precision: str, fp32_limit: float, *, has_classes: bool = False) -> Tolerance:
    """Of ``fp16``, or of ``int8-symmetric`` by its first word; the loosest for unknown ones.

    Args:
        precision: As the exporter calls it.
        fp32_limit: Of the target profile, for files in full precision.
        has_classes: Whether the main output's largest value is the answer.
    """
    kind = precision.partition("-")[0]
    found = _TOLERANCES.get(kind, _TOLERANCES[_LOOSEST])
    if kind == "fp32":
        return replace(found, max_relative_error=fp32_limit)
    if has_classes and found is _TOLERANCES[_LOOSEST]:
        return replace(found, max_column_error=_CLASSES_COLUMN_ERROR)
    return found
