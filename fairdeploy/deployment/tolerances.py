"""How far a file may be from the torch network, by precision.

Errors are relative to the largest output. fp16 carries 11 bits, bf16 8: some layers deep, the last
digits add up to these limits. INT8 values are one of 256; there the share of images with the same
class says more than the error, so the limit on the error only catches what is broken. Zeros have
an error of 1; the largest of 50,000 differences was 0.62 where ResNet-56 lost 0.2 points.
"""

from __future__ import annotations

from fairdeploy.records import Tolerance

DEFAULT_MAX_DROP = 0.01
"""Share of right answers that a quantised file may lose."""

_TOLERANCES = {
    "fp32": Tolerance(1e-3, 0.995),
    "fp16": Tolerance(2e-2, 0.99),
    "bf16": Tolerance(1e-1, 0.97),
    "int8": Tolerance(9e-1, 0.94),
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
    return Tolerance(fp32_limit, found.min_top1_agreement) if kind == "fp32" else found
