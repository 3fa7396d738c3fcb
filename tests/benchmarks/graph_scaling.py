"""Seconds of unit graph and surgery against the length of the graph, without the capture.

``python tests/benchmarks/graph_scaling.py`` builds one family of networks at growing depth (each
block holds a grouped convolution, a split, a concatenation, an addition and attention), halves
every group at random, and prints seconds, milliseconds per node, and the exponent of the curve:
the slope of log seconds over log nodes. ``--json FILE`` keeps the raw times.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fairdeploy.graph.capture.capture import capture
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import unit_graph_from_capture
from fairdeploy.surgery.removal import remove_units

WIDTH, HEADS = 32, 4


class Block(nn.Module):
    """About 45 nodes with every kind of tie."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Conv2d(WIDTH, 2 * WIDTH, 1)
        self.grouped = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=4)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.join = nn.Conv2d(2 * WIDTH, WIDTH, 1)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to [N, C, H, W]."""
        left, right = self.widen(x).chunk(2, 1)
        right = torch.relu(self.norm(self.grouped(right)))
        x = x + self.join(torch.cat([left, right], 1))
        n, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        qkv = self.qkv(tokens).reshape(n, h * w, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        mixed = self.proj(mixed.transpose(1, 2).flatten(2))
        return x + mixed.transpose(1, 2).reshape(n, c, h, w)


def network(num_blocks: int) -> nn.Module:
    """Stem, blocks, head."""
    stem, head = nn.Conv2d(3, WIDTH, 1), nn.Linear(WIDTH, 10)
    blocks = [Block() for _ in range(num_blocks)]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


def half_of_each_group(graph: UnitGraph, seed: int) -> np.ndarray:
    """A mask that removes half of each block."""
    rng = np.random.default_rng(seed)
    removed = np.zeros(graph.num_units, dtype=bool)
    for group in graph.groups:
        for block in group.blocks:
            removed[rng.choice(block, group.size // 2, replace=False)] = True
    return removed


def measure(num_blocks: int, repeats: int) -> dict[str, Any]:
    """Times for one depth, all repeats."""
    captured = capture(network(num_blocks), (torch.randn(2, 3, 8, 8),))
    label_seconds, surgery_seconds = [], []
    for repeat in range(repeats):
        started = time.perf_counter()
        graph = unit_graph_from_capture(captured)
        label_seconds.append(time.perf_counter() - started)
        removed = half_of_each_group(graph, repeat)
        started = time.perf_counter()
        remove_units(graph, removed)
        surgery_seconds.append(time.perf_counter() - started)
    return {
        "blocks": num_blocks,
        "nodes": len(captured.module.graph.nodes),
        "units": graph.num_units,
        "graph_s": label_seconds,
        "surgery_s": surgery_seconds,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 7, 22, 66, 110])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    print("| nodes | units | unit graph s | surgery s | both, ms per node |")
    print("|--:|--:|--:|--:|--:|")
    for num_blocks in arguments.blocks:
        row = measure(num_blocks, arguments.repeats)
        graph_s, surgery_s = (statistics.median(row[key]) for key in ("graph_s", "surgery_s"))
        per_node = 1000 * (graph_s + surgery_s) / row["nodes"]
        print(f"| {row['nodes']} | {row['units']} | {graph_s:.2f} | {surgery_s:.2f} "
              f"| {per_node:.2f} |", flush=True)  # fmt: skip
        rows.append({**row, "both_s": graph_s + surgery_s})
    nodes, seconds = (np.log([row[key] for row in rows]) for key in ("nodes", "both_s"))
    slope = np.polyfit(nodes, seconds, 1)[0] if len(rows) > 1 else float("nan")
    print(f"\nseconds grow as nodes to the power {slope:.2f}; torch {torch.__version__}, "
          f"{os.cpu_count()} cores, {platform.machine()}")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
