"""Chooses the zoo's timm models: of each model file the one with the fewest parameters.

``python -m tests.conformance.choose_timm`` writes ``zoo_timm.json``, which is kept so that runs
stay the same when timm gets new models. Besides those it takes ``VARIANTS``: architectures that
live in the same file as another one and are known to be hard. Everything is built without
downloads, with the smallest input that the network takes (not below 128 pixels).
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from fairdeploy.inputs.torchvision_compat import ensure_torchvision

ZOO_FILE = Path(__file__).parent / "zoo_timm.json"
SIZES = (128, 160, 192, 224, 256, 288, 320)
FAMILIES_SKIPPED = {"_registry"}
"""Deprecated names of models that live elsewhere."""
VARIANTS = (
    "caformer_s18", "cspdarknet53", "cs3darknet_s", "deit3_small_patch16_224", "dm_nfnet_f0",
    "eca_halonext26ts", "ecaresnet50t", "efficientnet_lite0", "eva02_tiny_patch14_224",
    "fbnetv3_b", "gcresnext26ts", "gernet_s", "lambda_resnet26t", "maxvit_rmlp_pico_rw_256",
    "coatnet_nano_rw_224", "maxvit_tiny_rw_224", "mixer_s32_224", "mixnet_s", "mobileone_s0",
    "mobilenetv2_100", "mobilenetv4_conv_small", "mobilenetv4_hybrid_medium", "poolformer_s12",
    "repvgg_a0", "resmlp_12_224", "resnetblur50", "resnetrs50", "resnext50_32x4d", "seresnet50",
    "skresnet50", "gmlp_s16_224", "tf_efficientnetv2_b0", "vit_tiny_patch16_224",
    "vit_base_patch16_rope_reg1_gap_256", "convnextv2_atto", "bat_resnext26ts",
    "mobilevitv2_050", "sequencer2d_s", "vit_small_patch16_18x2_224", "davit_tiny",
    "convformer_s18", "eva02_small_patch14_224", "samvit_base_patch16_224", "vgg11_bn",
)  # fmt: skip


def main() -> int:
    """Command line."""
    warnings.simplefilter("ignore")
    ensure_torchvision()
    rows = []
    for family, names in sorted(entrypoints().items()):
        by_size = sorted((num_parameters(name), name) for name in names)
        chosen = next(row for _, name in by_size if (row := entry(name, family, False)))
        rows.append(chosen)
        print(chosen, flush=True)
        rows += [
            row
            for name in VARIANTS
            if name in names and name != chosen["name"] and (row := entry(name, family, True))
        ]
    ZOO_FILE.write_text(as_text(rows), encoding="utf-8")
    return 0


def as_text(rows: list[dict[str, Any]]) -> str:
    """JSON with a line per model."""
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n]\n"


def entrypoints() -> dict[str, list[str]]:
    """Model names by the file they are defined in, without timm's own tiny test models."""
    from timm.models import _registry

    found = defaultdict(list)
    for name, function in _registry._model_entrypoints.items():
        family = function.__module__.rpartition(".")[2]
        if family not in FAMILIES_SKIPPED and not name.startswith("test_"):
            found[family].append(name)
    return found


def num_parameters(name: str) -> int:
    """Without allocating any; as good as infinite if that does not work."""
    import timm

    try:
        with torch.device("meta"):
            network = timm.create_model(name)
    except Exception:  # some compute with their weights while they are built
        return sys.maxsize
    return sum(parameter.numel() for parameter in network.parameters())


def entry(name: str, family: str, is_variant: bool) -> dict[str, Any] | None:
    """The zoo's line for this model, or None if no input was accepted."""
    import timm

    network: Any = timm.create_model(name).eval()
    usual = network.pretrained_cfg.get("input_size", (3, 224, 224))
    is_fixed = bool(network.pretrained_cfg.get("fixed_input_size"))
    sizes = [size for size in SIZES if size < usual[-1]] if not is_fixed else []
    if usual[-1] <= SIZES[-1]:
        sizes.append(usual[-1])
    row = {"name": name, "family": family, "is_variant": is_variant}
    for size in sizes:
        if accepts(network, size):
            return {**row, "shape": [usual[0], size, size]}
    for size in SIZES:
        options: dict[str, Any] = {"img_size": size}
        try:
            network = timm.create_model(name, **options).eval()
        except (TypeError, ValueError, AssertionError, RuntimeError):
            continue
        if accepts(network, size):
            return {**row, "shape": [usual[0], size, size], "options": options}
    return None


def accepts(network: torch.nn.Module, size: int) -> bool:
    """Whether it computes something finite from two images of this size."""
    try:
        with torch.no_grad():
            output: object = network(torch.randn(2, 3, size, size))
    except Exception:  # user code may refuse in any way
        return False
    return isinstance(output, torch.Tensor) and bool(output.isfinite().all())


if __name__ == "__main__":
    sys.exit(main())
