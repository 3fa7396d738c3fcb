"""What follows from each failure or exception that is known: model to a sentence for the table."""

from __future__ import annotations

DECISIONS: dict[str, str] = {
    "timm:gmlp_ti16_224": (
        "run with `--allow-norm-coupled`: half of its hidden width is normed and multiplied with "
        "the other half, and all else is the layer-normed residual, so that nothing goes without "
        "changing what a norm sees; the proof compares with norms over the kept channels"
    ),
}
