"""How far a file may be from the torch network, by precision.

Largest differences are relative to the largest output; every column's root mean square besides to
its own spread (``output_columns``), where a column of constants is off by 1. fp16 carries 11 bits,
bf16 8: some layers deep, the last digits add up to these limits. INT8 values are one of 256: the
largest of 50,000 differences was 0.62 where ResNet-56 lost 0.2 points, so there that limit only
catches what is broken, and the columns are what judges. Those of trained classifiers (ResNet-20,
ConvNeXt, DeiT on CIFAR-10) are off by 0.03 to 0.06 in INT8, those of ResNet-20 at half of its
parameters by 0.15, where it lost 0.25 points.
"""

from __future__ import annotations

from dataclasses import replace

from fairdeploy.records import Tolerance

DEFAULT_MAX_DROP = 0.01
"""Share of right answers that a quantised file may lose."""

_TOLERANCES = {
    "fp32": Tolerance(1e-3, 0.995, 0.02),
    "fp16": Tolerance(2e-2, 0.99, 0.05),
    "bf16": Tolerance(1e-1, 0.97, 0.2),
    "int8": Tolerance(9e-1, 0.94, 0.3),
}
_LOOSEST = "int8"


def tolerance_of(precision: str, fp32_limit: float) -> Tolerance:
    """Of ``fp16``, or of ``int8-symmetric`` by its first word; the loosest for unknown ones.

    Args:
        precision: As the exporter calls it.
        fp32_limit: Of the target profile, for files in full precision.
    """
    kind = precision.partition("-")[0]
    found = _TOLERANCES.get(kind, _TOLERANCES[_LOOSEST])
    return replace(found, max_relative_error=fp32_limit) if kind == "fp32" else found
