"""What follows from each failure or exception that is known: model to a sentence for the table."""

from __future__ import annotations

DECISIONS: dict[str, str] = {
    "torchvision:maxvit_t": (
        "to be run again: with these random weights the image hardly comes through, and since then "
        "they are scaled layer by layer"
    ),
    "torchvision:raft_small": (
        "to be run again: float32 rounding that twelve refinements magnify is now compared in "
        "float64, and its split of a doubled batch, which torch.onnx cannot take, is rewritten"
    ),
    "timm:gmlp_ti16_224": (
        "run with `--allow-norm-coupled`: half of its hidden width is normed and multiplied with "
        "the other half, and all else is the layer-normed residual, so that nothing goes without "
        "changing what a norm sees; the proof compares with norms over the kept channels"
    ),
}
