"""``fairdeploy export`` and ``verify`` on a tiny shrunk network, as a user runs them."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from fairdeploy.cli import app as cli
from fairdeploy.deployment import exporter_api
from fairdeploy.errors import ExportError, ModelError, OutputError, UsageError
from fairdeploy.inputs.image_folder import open_image_folder
from fairdeploy.records import Artifact, Preprocessing
from fairdeploy.runs.export.run import ExportResult, export
from fairdeploy.runs.folder.reload import load
from fairdeploy.runs.shrink import shrink
from fairdeploy.runs.verify import verify
from fairdeploy.settings.options import ExportOptions, ShrinkOptions
from tests.deployment.fakes import FunctionRunner, WorkingExporter
from tests.tiny_project import write_project

PREPROCESSING = Preprocessing(3, 8, 8, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def shrunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("project")
    write_project(project)
    output = project / "out"
    options = ShrinkOptions(
        model=str(project / "model.pt"), output=output, budgets=("80%",), with_latency=False,
        command=("fairdeploy", "shrink", "model.pt"),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRDEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        shrink(options)
    return output


@pytest.fixture
def folder(shrunk: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shrunk, tmp_path / "out"))


@pytest.fixture(scope="module")
def exported(shrunk: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    folder = Path(shutil.copytree(shrunk, tmp_path_factory.mktemp("exported") / "out"))
    return run(folder, precisions=("fp16", "int8"), max_drop=0.2)


def run(folder: Path, **changes: Any) -> ExportResult:
    return export(ExportOptions(folder=folder, **({"max_test": 40} | changes)))


def snapshot(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_shrink_leaves_a_folder_that_verifies(shrunk: Path) -> None:
    assert {path.name for path in shrunk.iterdir()} == {
        "MODEL_CARD.md", "manifest.json", "model.onnx", "model.pt2", "plan.json", "report.html",
        "report.json", "run.py", "weights.safetensors",
    }  # fmt: skip
    found = verify(shrunk)
    assert found.passed
    assert found.num_files == 8
    assert [row.batch for row in found.parity] == [1, 3]


def test_export_adds_files_that_follow_the_network(exported: ExportResult) -> None:
    assert [check.artifact.path for check in exported.checks] == [
        "model-fp16.onnx", "model-int8.onnx",
    ]  # fmt: skip
    half, quantised = exported.checks
    assert half.passed
    assert half.max_relative_error is not None
    assert 0 < half.max_relative_error < 1e-2
    assert half.accuracy is not None
    assert half.accuracy.num_images == quantised.num_images == half.num_images
    assert verify(exported.folder).passed
    names = {path.name for path in exported.folder.iterdir()}
    assert {"model-fp16.onnx", "model-int8.onnx"} < names
    assert not any(name.startswith(".") for name in names)


def test_accuracy_of_a_file_is_what_onnx_runtime_gives_by_hand(
    exported: ExportResult, shrunk: Path
) -> None:
    pool = np.load(shrunk.parent / "images.npz")
    session = onnxruntime.InferenceSession(exported.folder / "model-int8.onnx")
    images = (pool["images"].transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.5
    (scores,) = session.run(None, {"input": images})
    expected = load(exported.folder)(torch.from_numpy(images)).detach().numpy()
    by_hand = (scores.argmax(1) == expected.argmax(1)).mean()
    told = exported.checks[1].top1_agreement
    assert told is not None
    assert told == pytest.approx(by_hand, abs=0.15)  # on 40 of the same 120 images


def test_the_chain_is_one_table_in_report_page_card_and_json(exported: ExportResult) -> None:
    chain = exported.document["chain"]
    assert [(row["step"], row["file"]) for row in chain["rows"]] == [
        ("zeroed → shrunk", "the network in torch"),
        ("shrunk → ONNX", "model.onnx"),
        ("shrunk → file", "model-fp16.onnx"),
        ("shrunk → file", "model-int8.onnx"),
    ]
    assert chain["passed"] == all(row["passed"] for row in chain["rows"])
    document = json.loads((exported.folder / "report.json").read_text())
    assert document == exported.document
    for name in ("report.html", "MODEL_CARD.md"):
        text = (exported.folder / name).read_text()
        assert "model-int8.onnx" in text
    files = {row["path"] for row in document["artifacts"]}
    assert {"model.onnx", "model-fp16.onnx", "model-int8.onnx"} <= files


def test_exporting_again_replaces_the_row(exported: ExportResult, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported.folder, tmp_path / "out"))
    again = run(folder, precisions=("fp16",))
    files = [row["file"] for row in again.document["chain"]["rows"]]
    assert sorted(files) == sorted(set(files))
    assert (folder / "report.html").read_text().count("<!--chain-->") == 1


def test_files_carry_plan_preprocessing_classes_and_versions(exported: ExportResult) -> None:
    plan = hashlib.sha256((exported.folder / "plan.json").read_bytes()).hexdigest()
    for name in ("model.onnx", "model-fp16.onnx", "model-int8.onnx"):
        model = onnx.load(exported.folder / name)
        told = {item.key: item.value for item in model.metadata_props}
        assert told["fairdeploy.plan_sha256"] == plan
        preprocessing = json.loads(told["fairdeploy.preprocessing"])
        assert (preprocessing["height"], preprocessing["mean"]) == (8, [0.5, 0.5, 0.5])
        assert json.loads(told["fairdeploy.versions"])["torch"] == torch.__version__
        assert "fairdeploy.classes" in told


def test_a_fixed_batch_and_embedded_preprocessing_are_checked_too(folder: Path) -> None:
    result = run(folder, batch=4, embed_preprocess=True, probabilities=True)
    (check,) = result.checks
    assert check.artifact.path == "model-batch4-images-probabilities.onnx"
    assert check.passed
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    session = onnxruntime.InferenceSession(folder / check.artifact.path)
    (shares,) = session.run(None, {"images": pixels})
    scaled = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    expected = load(folder)(scaled).softmax(1).detach().numpy()
    np.testing.assert_allclose(shares, expected, atol=1e-5)


def test_a_failing_check_names_the_first_node_and_gives_exit_code_4(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(folder / "model.onnx")
    conv = next(node for node in model.graph.node if node.op_type == "Conv")

    from fairdeploy_onnx import conversion

    def broken(given: onnx.ModelProto, calibration: object) -> onnx.ModelProto:
        weight = next(w for w in given.graph.initializer if w.name == conv.input[1])
        array = onnx.numpy_helper.to_array(weight)
        weight.CopyFrom(onnx.numpy_helper.from_array(3 * array, weight.name))
        return given

    monkeypatch.setattr(conversion, "fp16_model", broken)
    assert (
        cli.run(["export", str(folder), "--precision", "fp16", "--max-test", "20", "--json"]) == 4
    )
    document = json.loads(capsys.readouterr().out)
    row = document["chain"]["rows"][-1]
    assert row["passed"] is False
    assert not document["chain"]["passed"]
    assert "first at Conv '" in row["note"]
    assert document["variants"][0]["divergence"]["node"] == conv.name
    assert "failed" in (folder / "report.html").read_text()


def test_int8_without_images_is_one_line_and_changes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((folder / "report.json").read_text())
    document["data"]["source"] = "/nowhere/images"
    (folder / "report.json").write_text(json.dumps(document))
    before = snapshot(folder)
    assert cli.run(["export", str(folder), "--precision", "int8"]) == 1
    error = capsys.readouterr().err
    assert "error: int8 needs images to measure the ranges of values on" in error
    assert error.strip().endswith("give --data IMAGES")
    assert snapshot(folder) == before


def test_a_full_disk_leaves_the_folder_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(folder)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(onnx, "save", full)
        with pytest.raises(ExportError, match="No space left on device"):
            run(folder, precisions=("fp16",))
    with monkeypatch.context() as patch:
        patch.setattr("fairdeploy.runs.folder.artifact_folder.write_whole", full)
        with pytest.raises(OutputError, match=r"No space left .*; the folder is as it was"):
            run(folder, precisions=("fp16",))
    assert snapshot(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_unknown_formats_precisions_and_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no format 'tflite'; use one of .*onnx.*pt2"):
        run(folder, formats=("tflite",))
    with pytest.raises(UsageError, match=r"no format has precision 'int2': onnx has fp32, fp16"):
        run(folder, precisions=("int2",))
    with pytest.raises(UsageError, match="all that is asked for is there already"):
        run(folder)
    with pytest.raises(UsageError, match="--embed-preprocess is for --format onnx alone"):
        run(folder, formats=("onnx", "pt2"), embed_preprocess=True)
    document = json.loads((folder / "report.json").read_text())
    document["artifacts"][0]["precision"] = "fp16"
    (folder / "report.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match=r"model.onnx' is fp16, and other files are made of fp32"):
        run(folder, precisions=("int8",))
    (folder / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"holds no model.onnx, which other files are made of"):
        run(folder, precisions=("int8",))
    with pytest.raises(ModelError, match=r"holds no report.json and plan.json; give a folder"):
        run(tmp_path)


class UpperCaseExporter(WorkingExporter):
    """Somebody else's: its file is the ONNX file's bytes; it runs them with ONNX Runtime."""

    name = "upper"
    file_suffix = ".up"
    precisions = ("fp32", "fp16")

    def convert(self, onnx_path: Path, path: Path, precision: str, calibration: object) -> Artifact:
        path.write_bytes(onnx_path.read_bytes())
        return Artifact(path.name, "upper", precision, "", path.stat().st_size)

    def onnx_precision(self, precision: str) -> str:
        return precision

    def open(self, path: Path, profile: object) -> FunctionRunner:
        session = onnxruntime.InferenceSession(path.read_bytes())
        return FunctionRunner(lambda x: session.run(None, {"input": x})[0])


def test_another_exporter_is_found_by_its_entry_point_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import EntryPoint

    group = exporter_api.ENTRY_POINT_GROUP
    found = dict(exporter_api._entries())
    found["upper"] = EntryPoint("upper", "tests.runs.test_exporting:UpperCaseExporter", group)
    monkeypatch.setattr(exporter_api, "_entries", lambda: found)
    result = run(folder, formats=("upper", "onnx"), precisions=("fp32", "fp16"))
    assert {check.artifact.path: check.passed for check in result.checks} == {
        "model.up": True, "model-fp16.up": True, "model-fp16.onnx": True,
    }  # fmt: skip
    assert (folder / "model-fp16.up").read_bytes() == (folder / "model-fp16.onnx").read_bytes()
    assert verify(folder).passed


def test_verify_finds_a_flipped_byte_in_any_artifact(
    exported: ExportResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(exported.folder, tmp_path / "out"))
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        changed = bytearray(content)
        changed[len(content) // 2] ^= 1
        path.write_bytes(changed)
        if path.name == "manifest.json":
            with pytest.raises(OutputError, match="manifest"):
                verify(folder, with_run=False)
        else:
            found = verify(folder, with_run=False)
            assert [problem.path for problem in found.problems] == [path.name]
        assert cli.run(["verify", str(folder), "--hashes-only"]) == 1
        path.write_bytes(content)
    assert path.name in capsys.readouterr().out
    assert cli.run(["verify", str(folder), "--hashes-only"]) == 0


def test_verify_runs_what_the_hashes_cannot_tell(folder: Path) -> None:
    """A file of another network, with a manifest that was written for it."""
    from fairdeploy.runs.folder.manifest import write_manifest

    model = onnx.load(folder / "model.onnx")
    weight = next(w for w in model.graph.initializer if len(w.dims) == 4)
    array = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(array * 1.5, weight.name))
    onnx.save(model, folder / "model.onnx")
    write_manifest(folder)
    assert verify(folder, with_run=False).passed
    found = verify(folder)
    assert not found.passed
    assert "differs from model.pt2 by" in found.problems[0].problem


def test_run_py_gives_the_network_s_classes_without_fairdeploy(
    exported: ExportResult, tmp_path: Path
) -> None:
    script = exported.folder / "run.py"
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(script.read_text()))
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "PIL"}
    coarse = np.random.default_rng(3).integers(0, 256, (5, 5, 3)).astype(np.uint8)
    (tmp_path / "images").mkdir()
    picture = tmp_path / "images" / "a.png"
    Image.fromarray(coarse).resize((30, 20), Image.Resampling.BICUBIC).save(picture)
    command = [sys.executable, str(script), str(picture), "--json", "--top", "2"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    classes = json.loads(answer.stdout)["classes"]
    images = open_image_folder(tmp_path / "images", PREPROCESSING, None).train
    shares = load(exported.folder)(images.fetch(np.array([0])).images).softmax(1)[0]
    best = shares.argsort(descending=True)[:2].tolist()
    assert [int(name) for name, _ in classes] == best
    assert [share for _, share in classes] == pytest.approx(shares[best].tolist(), abs=1e-4)
    command = [sys.executable, str(script), str(tmp_path / "missing.png")]
    wrong = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr[:7], wrong.stderr.count("\n")) == (1, "error: ", 1)


def test_the_model_card_tells_budget_accuracy_files_and_provenance(
    exported: ExportResult,
) -> None:
    card = (exported.folder / "MODEL_CARD.md").read_text()
    document = exported.document
    assert card.startswith("# model, shrunk to ")
    assert document["model"]["sha256"] in card
    assert document["data"]["sha256"] in card
    assert f"`{document['budget'][0]['asked']}`: " in card
    assert "fairdeploy shrink model.pt" in card
    assert "95 % interval" in card
    assert "| `model-int8.onnx` | int8 |" in card


def test_lists_are_read_and_wrong_ones_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["export", str(folder), "--precision", "fp16,"]) == 2
    assert capsys.readouterr().err.strip() == (
        "error: --precision 'fp16,' is not a list of names; use --precision a,b"
    )
    assert cli.run(["export", str(folder), "--format", "onnx,tflite", "--precision", "fp16"]) == 2
    assert "no format 'tflite'; use one of " in capsys.readouterr().err
    assert cli.run(["verify", str(folder / "nowhere")]) == 1
    assert "error: no folder '" in capsys.readouterr().err


def test_export_says_on_the_terminal_what_holds(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--precision", "fp16", "--max-test", "20"]
    assert cli.run(["export", str(folder), *options]) == 0
    printed = capsys.readouterr().out
    assert "model-fp16.onnx" in printed
    assert "passed: every step of 3 holds" in printed
    assert cli.run(["verify", str(folder)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "model.onnx at batch 3: relative error" in printed
    assert "all 9 files hold" in printed
