"""Shrinks a network and writes every artifact of it, each checked on the same test images."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairdeploy.deployment.exporter_api import Runner, get_exporter
from fairdeploy.deployment.variant_checks import (
    DEFAULT_MAX_DROP,
    Examples,
    check_variant,
    tolerance_of,
)
from fairdeploy.errors import FairdeployError
from fairdeploy.graph.capture.model_inputs import model_inputs
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.inputs.model_loading import load_model
from fairdeploy.records import Artifact, LoadedModel, TargetProfile, VariantCheck
from fairdeploy.reporting.chain import variant_document
from fairdeploy.runs.export.images import load_export_images
from fairdeploy.runs.export.run import export
from fairdeploy.runs.folder.artifact_folder import ONNX_FILE, open_folder
from fairdeploy.runs.folder.reload import load
from fairdeploy.runs.problem import tensor_names
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.runs.shrink import shrink
from fairdeploy.settings.options import ExportOptions, ShrinkOptions
from fairdeploy.settings.target_profiles import load_profile

sys.path.insert(0, str(Path(__file__).parent))

from cifar_images import MEAN, STD, image_files
from latency_budgets import Network

FORMATS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("fp16", "int8"),
    "openvino": ("fp32", "fp16", "bf16", "int8"),
    "tensorrt-rtx": ("fp32", "fp16", "int8"),
    "tensorrt": ("fp32", "fp16", "int8"),
    "torch-tensorrt": ("fp32",),
}
"""By exporter: what is made besides ``model.onnx``."""
PROFILES = {"onnx": "cpu", "openvino": "openvino-cpu"}
"""What opens the files of an exporter on this machine; others are built and not run."""
ORIGINAL_FILE = "original.onnx"
SHRUNK_FOLDER = "shrunk"
NUM_TRAIN = 5_000
NUM_SCORING = 64
"""Images that score a network with random weights: which units go does not matter there."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """What is made of every network, and of which images."""

    work: Path
    """One folder for each network lies there, and the images."""
    images: Path
    budget: str
    num_test: int
    num_unlabelled: int
    """For networks without trained weights: three quarters calibrate, the others judge."""
    threads: int

    def folder(self, network: Network) -> Path:
        """Where everything of one network lies."""
        return self.work / re.sub(r"[^\w.-]+", "-", network.name)


def is_trained(network: Network) -> bool:
    """Whether it has weights of its own, so that the labels of the images mean something."""
    return network.arch is not None


def made(network: Network, job: Job) -> list[Row]:
    """Rows of all artifacts, the original first; what is there already is not made again."""
    folder = job.folder(network)
    data = _image_folder(network, job)
    _shrink(network, job, data)
    _export_original(network, folder / ORIGINAL_FILE)
    for name, precisions in FORMATS.items():
        _export(_options(network, job, data, name), precisions)
    return list(_rows(network, job, data))


def open_artifact(row: Row, job: Job) -> Runner:
    """Open the file of a row with its own runtime."""
    profile = _profile(row["format"], row["precision"], job.threads)
    return get_exporter(row["format"]).open(job.work / row["place"], profile)


def _profile(file_format: str, precision: str, threads: int) -> TargetProfile:
    return replace(load_profile(PROFILES[file_format]), precision=precision, threads=threads)


def examples_of(network: Network, job: Job) -> Examples:
    """The images that judge, and what the shrunk network says of them in torch."""
    data = _image_folder(network, job)
    shrunk = job.folder(network) / SHRUNK_FOLDER
    return load_export_images(
        _options(network, job, data, "onnx"), open_folder(shrunk), load(shrunk),
        must_be_real=True, watch=Stopwatch(),
    ).examples  # fmt: skip


def _image_folder(network: Network, job: Job) -> Path:
    """``train/CLASS`` and ``test/CLASS``, or a flat folder; written at the first call."""
    folder = job.work / ("images" if is_trained(network) else "unlabelled")
    if folder.is_dir():
        return folder
    if not is_trained(network):
        _write_images(folder, image_files(job.images, job.num_unlabelled, "test"), by_class=False)
        return folder
    for split, count in (("train", NUM_TRAIN), ("test", job.num_test)):
        _write_images(folder / split, image_files(job.images, count, split), by_class=True)
    return folder


def _write_images(folder: Path, files: list[tuple[str, bytes]], *, by_class: bool) -> None:
    for index, (name, content) in enumerate(files):
        path = folder / (name if by_class else "") / f"{index:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _shrink(network: Network, job: Job, data: Path) -> None:
    output = job.folder(network) / SHRUNK_FOLDER
    if output.is_dir():
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    options = ShrinkOptions(
        model=network.model, arch=network.arch, input_shape=network.size, data=str(data),
        budgets=(job.budget,), output=output, with_latency=False, seed=0,
    )  # fmt: skip
    if is_trained(network):
        options = replace(options, mean=MEAN, std=STD)
    else:
        options = replace(options, recover="none", num_calibration=NUM_SCORING)
    shrink(options)


def original_network(network: Network) -> LoadedModel:
    """As ``shrink`` loads it."""
    return load_model(network.model, arch=network.arch, input_shape=network.size, seed=0)


def _export_original(network: Network, path: Path) -> None:
    if path.is_file():
        return
    model = original_network(network)
    graph = build_unit_graph(
        model.module, model_inputs(model.module, model.inputs, model.preprocessing.shape, None)
    )
    get_exporter("onnx").export(
        graph.module, graph.example_inputs, path,
        dynamic_batch=True, metadata={}, names=tensor_names(graph, is_input_named=False),
    )  # fmt: skip


def _options(network: Network, job: Job, data: Path, name: str) -> ExportOptions:
    return ExportOptions(
        folder=job.folder(network) / SHRUNK_FOLDER, formats=(name,), data=str(data),
        num_calibration=None if is_trained(network) else job.num_unlabelled,
        max_test=job.num_test,
    )  # fmt: skip


def _export(options: ExportOptions, precisions: tuple[str, ...]) -> None:
    """Write what is missing; what fails leaves a line in a file beside the folder."""
    (name,) = options.formats
    rows = _variants(options.folder)
    missing = tuple(own for own in precisions if (name, own) not in rows)
    if not missing:
        return
    try:
        export(replace(options, precisions=missing))
    except FairdeployError as error:
        if len(missing) > 1:
            for precision in missing:
                _export(options, (precision,))
            return
        _failure_file(options.folder, name, missing[0]).write_text(f"{error}\n", encoding="utf-8")


def _failure_file(folder: Path, name: str, precision: str) -> Path:
    return folder.parent / f"{name}-{precision}.error"


def _variants(folder: Path) -> dict[tuple[str, str], Row]:
    """Checks that the report of the folder holds, by format and precision."""
    rows = open_folder(folder).document.get("variants") or []
    return {(row["artifact"]["format"], row["artifact"]["precision"]): row for row in rows}


def _rows(network: Network, job: Job, data: Path) -> Iterator[Row]:
    folder = job.folder(network)
    shrunk = folder / SHRUNK_FOLDER
    examples = examples_of(network, job)
    for path in (folder / ORIGINAL_FILE, shrunk / ONNX_FILE):
        row = _row(variant_document(_checked(path, examples, job)))
        if path.name == ORIGINAL_FILE:
            row |= {"file": ORIGINAL_FILE, "relative_error": None, "top1_agreement": None}
        yield row | {"place": str(path.relative_to(job.work))}
    found = _variants(shrunk)
    for name, precisions in FORMATS.items():
        for precision in precisions:
            if (name, precision) in found:
                row = _row(found[name, precision])
                yield row | {"place": str((shrunk / row["file"]).relative_to(job.work))}
            else:
                why = _failure_file(shrunk, name, precision).read_text(encoding="utf-8").strip()
                yield {"format": name, "precision": precision, "file": None, "not_run": why}


def _checked(path: Path, examples: Examples, job: Job) -> VariantCheck:
    runner = get_exporter("onnx").open(path, _profile("onnx", "fp32", job.threads))
    artifact = Artifact(path.name, "onnx", "fp32", "", path.stat().st_size)
    try:
        return check_variant(
            runner, artifact, examples, tolerance_of("fp32", 1e-4), DEFAULT_MAX_DROP
        )
    finally:
        runner.close()


def _row(check: Mapping[str, Any]) -> Row:
    artifact, accuracy = check["artifact"], check["accuracy"]
    return {
        "format": artifact["format"],
        "precision": artifact["precision"],
        "file": artifact["path"],
        "size_bytes": artifact["size_bytes"],
        "relative_error": check["max_relative_error"],
        "top1_agreement": check["top1_agreement"],
        "accuracy": None if accuracy is None else accuracy["value"],
        "num_images": check["num_images"],
        "passed": check["passed"],
        "failures": list(check["failures"]),
        "not_run": check["not_run_because"],
    }
