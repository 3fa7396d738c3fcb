"""One peer on one model, in this process.

Runs in the peers' environment. Half of the channels of every layer go, as each peer's own examples
do it; the layers that make the outputs are left alone. It works if the pruned network computes and
its outputs have the shapes they had.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# as Torch-Pruning's timm example does: the fused kernel hides the heads from it
os.environ["TIMM_FUSED_ATTN"] = "0"

import torch
from torch import Tensor, nn

from tests.conformance.output_layers import output_layers, tensors_in
from tests.conformance.rows import PeerRow, write_row
from tests.conformance.zoo import build, examples, find

RATIO = 0.5
Inputs = tuple[Tensor, ...]
Checkpoint = Callable[[str], None]


def prune_with_torch_pruning(
    network: nn.Module, inputs: Inputs, checkpoint: Checkpoint
) -> nn.Module:
    """The high-level pruner with L1 importance and uniform ratio, as in its examples."""
    import torch_pruning

    for parameter in network.parameters():
        parameter.requires_grad_(True)
    # its attributes are whole numbers and layers, which type checkers cannot know
    attentions: list[Any] = [
        layer
        for layer in network.modules()
        if isinstance(getattr(layer, "num_heads", None), int)
        and isinstance(getattr(layer, "qkv", None), nn.Linear)
    ]
    num_heads = {layer.qkv: layer.num_heads for layer in attentions}
    encoder: Any = getattr(network, "encoder", None)
    is_torchvision_vit = hasattr(network, "hidden_dim") and hasattr(encoder, "layers")
    checkpoint("dependency graph")
    pruner = torch_pruning.pruner.BasePruner(
        network,
        inputs[0] if len(inputs) == 1 else inputs,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=RATIO,
        ignored_layers=output_layers(network, inputs),
        num_heads=num_heads,
        round_to=encoder.layers[0].num_heads if is_torchvision_vit else None,
    )
    checkpoint("surgery")
    pruner.step()
    if is_torchvision_vit:
        encoder_input: Any = network.conv_proj
        network.hidden_dim = encoder_input.out_channels
    for layer in attentions:
        layer.num_heads = pruner.num_heads[layer.qkv]
        layer.head_dim = layer.qkv.out_features // (3 * layer.num_heads)
        if hasattr(layer, "attn_dim"):
            # newer than the example, and every user would patch it too
            layer.attn_dim = layer.qkv.out_features // 3
    return network


def prune_with_network_pruner(
    network: nn.Module, inputs: Inputs, checkpoint: Checkpoint
) -> nn.Module:
    """Skeleton and copied weights, with random ranks: only the surgery is of interest."""
    from Network_Pruner import get_skeleton, prune

    last = {id(layer) for layer in output_layers(network, inputs)}
    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.LSTM)
    layers = {
        index: layer
        for index, layer in enumerate(network.modules())
        if isinstance(layer, kinds) and id(layer) not in last
    }
    widths = [_width(layer) for layer in layers.values()]
    ratios = [int(width * RATIO) for width in widths]
    ranks = {f"D_{j}_s2b_idx": torch.randperm(width).tolist() for j, width in enumerate(widths)}
    checkpoint("skeleton")
    skeleton = get_skeleton(network, ratios, inputs, layers2prune=list(layers))
    checkpoint("surgery")
    with tempfile.TemporaryDirectory() as folder:
        pruned, _ = prune(
            skeleton,
            network,
            ranks,
            ratios,
            layers2prune=list(layers),
            pruned_model_save_path=str(Path(folder) / "pruned.pth"),
            example_inputs=inputs,
        )
    assert isinstance(pruned, nn.Module)
    return pruned


PRUNERS = {
    "torch-pruning": prune_with_torch_pruning,
    "network-pruner": prune_with_network_pruner,
}


def check(peer: str, name: str, path: Path) -> PeerRow:
    """Prune and call; failures are part of the row."""
    row, started = PeerRow(name, peer), time.process_time()

    def checkpoint(stage: str) -> None:
        row.stage = stage
        row.cpu_s = round(time.process_time() - started, 1)
        write_row(row, path)

    try:
        checkpoint("build")
        model = find(name)
        network, inputs = build(model), examples(model)
        shapes, num_params = _output_shapes(network, inputs), _num_params(network)
        with contextlib.redirect_stdout(io.StringIO()):
            pruned = PRUNERS[peer](network, inputs, checkpoint)
        checkpoint("forward")
        row.kept = _num_params(pruned) / num_params
        found = _output_shapes(pruned.eval(), inputs)
        if found != shapes:
            row.failure = f"outputs were {shapes}, are {found}"[:300]
        elif row.kept >= 1.0:
            row.failure = "nothing was pruned"
        row.works = not row.failure
    except Exception as error:  # whatever the peer raises is the result
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        row.failure = f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
        traceback.print_exc()
    row.failed_stage = row.stage if row.failure else ""
    row.cpu_s = round(time.process_time() - started, 1)
    return row


def _width(layer: nn.Module) -> int:
    width = getattr(layer, "out_channels", None) or getattr(layer, "out_features", None)
    return int(width or layer.hidden_size)  # type: ignore[arg-type]


def _output_shapes(network: nn.Module, inputs: Inputs) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(tensor.shape) for tensor in tensors_in(network(*inputs))]


def _num_params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def check_into(peer: str, name: str, row_file: str) -> None:
    """Run one peer on the model ``name`` and leave its row in ``row_file``."""
    warnings.simplefilter("ignore")
    path = Path(row_file)
    write_row(check(peer, name, path), path)
