"""Parity and latency on an NVIDIA GPU: ONNX Runtime, TensorRT and torch, fp32 and fp16.

``python tests/benchmarks/gpu.py --images cifar10.zip --work FOLDER --output FOLDER/gpu --network
resnet56=resnet56.pt@tests/benchmarks/cifar_resnet.py:resnet56@32 timm:resnet18`` takes the
networks that ``artifacts.py`` has left in ``--work``, or makes them, and runs the original and the
shrunk one in every way at each batch size. Each is compared with torch on the CPU in float32 and
raced against ONNX Runtime's fp32 file of the original, all ways in turn in one process.
``gpu.json`` and the page ``gpu.md`` name device, driver and versions. ``--device cpu`` tries the
script where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fairdeploy.deployment.devices.gpu_facts import survey_gpus
from fairdeploy.deployment.parity import check_parity
from fairdeploy.deployment.variant_checks import tolerance_of
from fairdeploy.errors import ExportError, FairdeployError
from fairdeploy.runs.environment import describe_environment
from fairdeploy.settings.target_profiles import load_profile

sys.path.insert(0, str(Path(__file__).parent))

from artifact_files import SHRUNK_FOLDER, Job, examples_of, made
from artifact_race import race_all
from gpu_networks import PROFILES, Way, image_source, versions_of, ways_of
from latency_budgets import Network

RUNTIMES = ("onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx", "torch", "torch-tensorrt")
HEADS = (
    "network", "version", "batch", "runtime", "precision", "error", "same top-1", "ms a call",
    "time / original in ONNX Runtime fp32",
)  # fmt: skip

Row = dict[str, Any]


def main() -> None:
    """Measure every network at every batch size; write the figures and the page."""
    options = _parsed_options()
    try:
        _require_device(options.device)
    except ExportError as error:
        raise SystemExit(f"error: {error}") from error
    job = Job(options.work, options.images, options.budget, options.num_test, 200, threads=0)
    document: dict[str, Any] = {"environment": _environment(options.device), "rows": []}
    for network in map(Network.parsed, options.network):
        if not (job.folder(network) / SHRUNK_FOLDER).is_dir():
            print(f"{network.name}: making the files", file=sys.stderr, flush=True)
            made(network, job)
        for row in _rows(network, job, options):
            document["rows"].append(row)
            _save(options.output, document)
    print(_page(document))


def _parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", nargs="+", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="without an ending")
    parser.add_argument("--budget", default="50%")
    parser.add_argument("--num-test", type=int, default=5_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--seconds", type=float, default=30.0, help="of each race")
    parser.add_argument("--device", choices=list(PROFILES), default="cuda")
    return parser.parse_args()


def _require_device(device: str) -> None:
    """Refuse a machine that cannot run what is to be measured.

    Raises:
        ExportError: Torch sees no GPU.
    """
    if device == "cpu":
        return
    if not torch.cuda.is_available():
        why = survey_gpus().problem or f"torch {torch.__version__} is built without CUDA"
        raise ExportError(f"no CUDA device: {why}; try the script with --device cpu")


def _environment(device: str) -> dict[str, Any]:
    versions = {}
    for name in RUNTIMES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return describe_environment() | {
        "device": device,
        "gpus": [asdict(gpu) for gpu in survey_gpus().gpus],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device == "cuda" else None,
        "tf32": {
            "matmul": torch.backends.cuda.matmul.allow_tf32,
            "cudnn": torch.backends.cudnn.allow_tf32,
        },
        "runtimes": versions,
    }


def _rows(network: Network, job: Job, options: argparse.Namespace) -> Iterator[Row]:
    examples = examples_of(network, job)
    files = job.folder(network) / f"gpu-{options.device}"
    versions = versions_of(network, job)
    ways = [way for version in versions for way in ways_of(version, options.device, files)]
    for batch in options.batches:
        print(f"{network.name}: batch {batch}", file=sys.stderr, flush=True)
        rows = [_parity_row(way, examples.inputs, batch, options.device) for way in ways]
        racing = [index for index, row in enumerate(rows) if not row["not_run"]]
        inputs = tuple(tensor[:batch].numpy() for tensor in examples.inputs)
        opens = [opened for index in racing if (opened := ways[index].open) is not None]
        found = race_all(opens, inputs, seconds=options.seconds) if racing else {"rows": []}
        for index, latency in zip(racing, found.pop("rows"), strict=True):
            rows[index] |= {"latency": latency, "race": found}
        for row in rows:
            yield {"network": network.name, "images": image_source(network), "batch": batch, **row}


def _parity_row(way: Way, images: tuple[torch.Tensor, ...], batch: int, device: str) -> Row:
    row: Row = {
        "version": way.version.name, "runtime": way.runtime, "precision": way.precision,
        "not_run": way.problem,
    }  # fmt: skip
    if way.open is None:
        return row
    limit = tolerance_of(way.precision, load_profile(PROFILES[device]).parity_limit)
    try:
        runner = way.open()
        try:
            (result,) = check_parity(
                runner, way.version.module, way.runtime, images,
                batches=(batch,), limit=limit.max_relative_error,
            )  # fmt: skip
        finally:
            runner.close()
    except (FairdeployError, RuntimeError) as error:  # torch raises RuntimeError
        return row | {"not_run": str(error).splitlines()[0]}
    return row | {
        "relative_error": result.max_relative_error,
        "limit": result.limit,
        "top1_agreement": result.top1_agreement,
        "passed": result.passed,
    }


def _save(output: Path, document: dict[str, Any]) -> None:
    output.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    output.with_suffix(".md").write_text(_page(document) + "\n", encoding="utf-8")


def _page(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    told = document["environment"]
    gpus = ", ".join(
        f"{gpu['name']} ({gpu['compute_capability']}), driver {gpu['driver']}"
        for gpu in told["gpus"]
    )
    versions = ", ".join(f"{name} {version}" for name, version in told["runtimes"].items())
    title = "# On a GPU" if told["device"] == "cuda" else "# Trial on the CPU: no figure of a GPU"
    lines = [
        title,
        "",
        f"{gpus or told['cpu']}. CUDA {told['cuda']}, cuDNN {told['cudnn']}; {versions}; TF32 in "
        f"torch: products {told['tf32']['matmul']}, convolutions {told['tf32']['cudnn']}. "
        "Calls include the way of images to the device and of scores back.",
        "",
        f"| {' | '.join(HEADS)} |",
        "|---|---|--:|---|---|--:|--:|--:|--:|",
        *(f"| {' | '.join(_cells(row))} |" for row in document["rows"] if not row["not_run"]),
        "",
        *(f"- not run: {text}" for text in dict.fromkeys(map(_why_not, document["rows"])) if text),
    ]
    return "\n".join(lines)


def _why_not(row: Row) -> str:
    return f"{row['runtime']}, {row['precision']}: {row['not_run']}" if row["not_run"] else ""


def _cells(row: Row) -> Iterator[str]:
    yield from (row["network"], row["version"], str(row["batch"]), row["runtime"], row["precision"])
    latency = row["latency"]
    failed = "" if row["passed"] else f" FAILED, limit {row['limit']:.0e}"
    yield f"{row['relative_error']:.1e}{failed}"
    yield f"{row['top1_agreement']:.1%}"
    yield f"{latency['median_ms']:.3f}"
    yield f"{latency['ratio']:.3f} ({latency['ratio_low']:.3f} to {latency['ratio_high']:.3f})"


if __name__ == "__main__":
    main()
