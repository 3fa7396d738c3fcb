"""What each artifact of a network is worth: size, parity, accuracy and latency, in one table.

``python tests/benchmarks/artifacts.py --images cifar10.zip --work FOLDER --output artifacts.json
--network resnet56=resnet56.pt@tests/benchmarks/cifar_resnet.py:resnet56@32 timm:resnet18`` shrinks
each network to ``--budget`` of its parameters, exports fp32, fp16 and INT8 for ONNX Runtime, the
same and bf16 for OpenVINO, and engines for TensorRT, and compares each file with the shrunk network
in torch. Networks with a file of weights are judged by the labels of ``--num-test`` images; those
of timm have random weights and are judged by what the torch network says.

All files that run on this machine are raced in one process, call by call in turn, against the ONNX
file of the original. ``--no-race`` only makes and checks them; a later call with the same
``--work`` and ``--output`` races them. A network that ``--output`` holds whole is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from fairdeploy.deployment.devices.device_facts import device_facts
from fairdeploy.runs.environment import describe_environment

sys.path.insert(0, str(Path(__file__).parent))

from artifact_files import PROFILES, Job, Row, examples_of, made, open_artifact
from artifact_race import race_all
from latency_budgets import Network

_MORE_PACKAGES = ("openvino", "nncf", "tensorrt-rtx", "tensorrt", "torch-tensorrt")
_HEADS = (
    "network", "file", "format", "precision", "MB", "error", "same top-1", "accuracy",
    "time / original fp32 ONNX", "holds",
)  # fmt: skip


def main() -> None:
    """Make, check and race; print the table."""
    options = _parsed_options()
    job = Job(
        work=options.work, images=options.images, budget=options.budget,
        num_test=options.num_test, num_unlabelled=options.num_unlabelled, threads=options.threads,
    )  # fmt: skip
    document = _earlier(options.output)
    for network in map(Network.parsed, options.network):
        found = document["networks"].setdefault(network.name, {})
        if "rows" not in found:
            print(f"{network.name}: making the files", file=sys.stderr, flush=True)
            found["rows"] = made(network, job)
            _save(options, document)
        if options.race and "race" not in found:
            print(f"{network.name}: racing them", file=sys.stderr, flush=True)
            found["race"] = _raced(network, job, found["rows"], options.seconds)
            found["environment"] = _environment()
            _save(options, document)
    print("\n".join(_table(document["networks"])))


def _parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", nargs="+", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--budget", default="50%")
    parser.add_argument("--num-test", type=int, default=5_000)
    parser.add_argument("--num-unlabelled", type=int, default=200)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each race")
    parser.add_argument("--no-race", dest="race", action="store_false")
    return parser.parse_args()


def _earlier(output: Path) -> dict[str, Any]:
    if not output.is_file():
        return {"networks": {}}
    found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return found


def _save(options: argparse.Namespace, document: dict[str, Any]) -> None:
    document["options"] = {
        name: value for name, value in vars(options).items()
        if name not in ("work", "images", "output", "network", "race")
    }  # fmt: skip
    options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _environment() -> dict[str, Any]:
    versions = {}
    for name in _MORE_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return describe_environment() | {"device": device_facts(), "runtimes": versions}


def _raced(network: Network, job: Job, rows: list[Row], seconds: float) -> dict[str, Any]:
    """The race; each row that took part gets its times (changes ``rows``)."""
    racing = [row for row in rows if row["format"] in PROFILES and not row["not_run"]]
    opens = [partial(open_artifact, row, job) for row in racing]
    image = tuple(tensor[:1].numpy() for tensor in examples_of(network, job).inputs)
    found = race_all(opens, image, seconds=seconds)
    for row, latency in zip(racing, found.pop("rows"), strict=True):
        row["latency"] = latency
    return found


def _table(networks: Mapping[str, Any]) -> Iterator[str]:
    yield f"| {' | '.join(_HEADS)} |"
    yield "|---|---|---|---|--:|--:|--:|--:|--:|---|"
    for name, found in networks.items():
        for row in found.get("rows", ()):
            yield f"| {' | '.join((name, *_cells(row)))} |"


def _cells(row: Row) -> Iterator[str]:
    yield row["file"] or "–"
    yield row["format"]
    yield row["precision"]
    if row["file"] is None:
        yield from ("–", "–", "–", "–", "–", row["not_run"])
        return
    yield f"{row['size_bytes'] / 1e6:.2f}"
    yield _shown(row["relative_error"], ".1e")
    yield _shown(row["top1_agreement"], ".1%")
    yield _shown(row["accuracy"], ".2%")
    latency = row.get("latency")
    yield (
        "–"
        if latency is None
        else (f"{latency['ratio']:.3f} ({latency['ratio_low']:.3f} to {latency['ratio_high']:.3f})")
    )
    yield row["not_run"] or _verdict(row)


def _verdict(row: Row) -> str:
    if row["relative_error"] is None:
        return "–"
    return "; ".join(row["failures"]) or "yes"


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


if __name__ == "__main__":
    main()
