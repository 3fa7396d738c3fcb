"""What follows from each failure that is known: model name to one sentence for the table."""

from __future__ import annotations

_DEAF = (
    "open: shrunk, proved and exported; these random weights hardly let the image through, so the "
    "comparison says little"
)

DECISIONS: dict[str, str] = {
    "timm:gemma4_vit_167m": (
        "open: shrunk and proved; torch.onnx writes a clamp out of order, which sorting the graph "
        "does not mend"
    ),
    "timm:gmlp_ti16_224": (
        "left as it is: its hidden width is gated by a layer norm over half of it, and everything "
        "else is the layer-normed residual; `--allow-norm-coupled` lets both go"
    ),
    "torchvision:efficientnet_b0": _DEAF,
    "torchvision:maxvit_t": _DEAF,
    "torchvision:ssdlite320_mobilenet_v3_large.backbone": _DEAF,
    "torchvision:raft_small": (
        "open: twelve recurrent refinements magnify float32 rounding; since this run, its float64 "
        "comparison is possible and exact; torch.onnx then has no form for it (`'NoneType' object "
        "has no attribute 'ndim'`)"
    ),
    "timm:halonet_h1": (
        "left as it is: exact in float64; with these random weights its attention saturates and "
        "turns float32 rounding into whole percents, in ONNX Runtime as in torch"
    ),
}
