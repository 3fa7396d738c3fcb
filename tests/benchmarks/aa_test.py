"""Does the interval hold the truth? The same file against itself, and against 3 % more work.

``python tests/benchmarks/aa_test.py`` races a chain of 33 equal convolutions against itself (the
95 % interval of the ratio should hold 1.0) and against a chain of 34 (the interval should lie
wholly below 1.0), 20 times each. On a busy machine the first must be right too, or make no claim;
the second cannot be told apart there. It prints a table and saves every timed call with the
device's facts.

The convolutions are all that the files hold, so the second has 1/33 = 3.03 % more work.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from fairdeploy.deployment.exporter_api import get_exporter
from fairdeploy.deployment.latency.measure import compare_latency
from fairdeploy.records import LatencyComparison, TargetProfile
from fairdeploy.settings.target_profiles import load_profile

NUM_LAYERS = 33
RESULT = Path(__file__).parent / "results" / "aa_test.json"
_US_PER_MS = 1e3


def write_chain(path: Path, num_layers: int, channels: int, size: int) -> Path:
    """``num_layers`` 3×3 convolutions, each of all channels."""
    rng = np.random.default_rng(0)
    scale = 1 / np.sqrt(9 * channels)
    weight = (scale * rng.standard_normal((channels, channels, 3, 3))).astype(np.float32)
    names = [f"x{index}" for index in range(num_layers + 1)]
    nodes = [
        helper.make_node("Conv", [names[index], "weight"], [names[index + 1]], pads=[1, 1, 1, 1])
        for index in range(num_layers)
    ]
    shape = [1, channels, size, size]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "chain",
        [value(names[0], onnx.TensorProto.FLOAT, shape)],
        [value(names[-1], onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


def trial(
    first: Path, second: Path, profile: TargetProfile, shape: Sequence[int], seed: int
) -> LatencyComparison:
    """One race with newly opened files."""
    exporter = get_exporter(profile.runtime)
    image = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return compare_latency(
        lambda: exporter.open(first, profile),
        lambda: exporter.open(second, profile),
        (image,),
        profile,
        seed=seed,
    )


def as_row(
    kind: str, result: LatencyComparison, seconds: float, *, is_right: bool
) -> dict[str, Any]:
    """One race for the JSON file; raw times are whole microseconds."""
    return {
        "kind": kind,
        "ratio": result.speedup,
        "low": result.speedup_low,
        "high": result.speedup_high,
        "is_right": is_right,
        "num_pairs": len(result.original.raw_ms),
        "seconds": round(seconds, 2),
        "stopped_because": result.stopped_because,
        "is_noisy": result.is_noisy,
        "is_too_busy": result.is_too_busy,
        "device": asdict(result.device) if result.device else None,
        "first_us": [round(time * _US_PER_MS) for time in result.original.raw_ms],
        "second_us": [round(time * _US_PER_MS) for time in result.shrunk.raw_ms],
    }


def main() -> None:
    """Run all races and save them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="races of each kind")
    parser.add_argument("--target", default="cpu-1thread")
    parser.add_argument("--ratio-interval", type=float, default=0.02)
    parser.add_argument("--max-seconds", type=float, default=20.0)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    profile = replace(
        load_profile(options.target),
        ratio_interval=options.ratio_interval,
        max_seconds=options.max_seconds,
    )
    shape = (1, options.channels, options.size, options.size)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        sizes = {"same": NUM_LAYERS, "3 % more": NUM_LAYERS + 1}
        files = {
            kind: write_chain(Path(scratch) / f"{number}.onnx", number, *shape[1:3])
            for kind, number in sizes.items()
        }
        print(f"{'kind':<10}{'ratio':>8}{'low':>8}{'high':>8}{'pairs':>7}{'s':>7}  right")
        for run in range(options.runs):
            for kind, second in files.items():
                started = time.perf_counter()
                result = trial(files["same"], second, profile, shape, run)
                holds_one = result.speedup_low <= 1.0 <= result.speedup_high
                is_right = holds_one if kind == "same" else result.speedup_high < 1.0
                row = as_row(kind, result, time.perf_counter() - started, is_right=is_right)
                rows.append(row)
                print(
                    f"{kind:<10}{row['ratio']:>8.4f}{row['low']:>8.4f}{row['high']:>8.4f}"
                    f"{row['num_pairs']:>7}{row['seconds']:>7.1f}  {'yes' if is_right else 'NO'}"
                    f"{', no claim' if result.is_too_busy else ''}",
                    flush=True,
                )
    for kind in files:
        right = [row["is_right"] for row in rows if row["kind"] == kind]
        silent = sum(row["is_too_busy"] for row in rows if row["kind"] == kind)
        print(f"{kind}: right in {sum(right)} of {len(right)}, no claim in {silent}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    document = {"profile": asdict(profile), "shape": shape, "layers": sizes, "rows": rows}
    options.output.write_text(json.dumps(document) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
