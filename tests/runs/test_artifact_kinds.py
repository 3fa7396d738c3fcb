"""A folder with every kind of file that can be written here: verified, and on a full disk."""

from __future__ import annotations

import hashlib
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest
from onnx import helper

from fairdeploy.cli import app as cli
from fairdeploy.deployment.exporter_api import load_exporters
from fairdeploy.errors import OutputError
from fairdeploy.runs.export.run import export
from fairdeploy.runs.folder.manifest import MANIFEST_FILE
from fairdeploy.runs.shrink import shrink
from fairdeploy.runs.verify import verify
from fairdeploy.settings.options import ExportOptions, ShrinkOptions
from tests.tiny_project import write_project

KINDS = {"onnx": "fp16,int8", "openvino": "fp32,fp16,int8", "tensorrt-rtx": "fp32,fp16,int8"}
FILES = {
    "onnx": {"model-fp16.onnx", "model-int8.onnx"},
    "openvino": {
        "model.xml", "model.bin", "model-fp16.xml", "model-fp16.bin", "model-int8.xml",
        "model-int8.bin",
    },
    "tensorrt-rtx": {
        "model.rtxengine", "model.rtxengine.json", "model-fp16.rtxengine",
        "model-fp16.rtxengine.json", "model-int8.rtxengine", "model-int8.rtxengine.json",
    },
}  # fmt: skip
ALWAYS = {
    "MODEL_CARD.md", "manifest.json", "model.onnx", "model.pt2", "plan.json", "report.html",
    "report.json", "run.py", "weights.safetensors",
}  # fmt: skip


def installed() -> list[str]:
    exporters = load_exporters()
    return [name for name in KINDS if exporters[name].is_available() is None]


@pytest.fixture(scope="module")
def shrunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("project")
    write_project(project)
    options = ShrinkOptions(
        model=str(project / "model.pt"), output=project / "out", budgets=("80%",),
        with_latency=False, recover="none",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRDEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        shrink(options)
    return project / "out"


@pytest.fixture(scope="module")
def all_kinds(shrunk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(shrunk, tmp_path_factory.mktemp("kinds") / "out"))
    for name in installed():
        precisions = tuple(KINDS[name].split(","))
        export(
            ExportOptions(
                folder=folder, formats=(name,), precisions=precisions, max_test=20, max_drop=1.0
            )
        )
    return folder


@pytest.fixture
def folder(all_kinds: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(all_kinds, tmp_path / "out"))


def problems(folder: Path) -> dict[str, str]:
    return {problem.path: problem.problem for problem in verify(folder, with_run=False).problems}


def test_every_kind_lies_in_the_folder_and_it_verifies(all_kinds: Path) -> None:
    expected = ALWAYS.union(*(FILES[name] for name in installed()))
    assert {path.name for path in all_kinds.iterdir()} == expected
    found = verify(all_kinds)
    assert found.passed
    assert found.num_files == len(expected) - 1


def test_one_flipped_bit_at_the_start_within_or_at_the_end_of_any_file_is_found(
    folder: Path,
) -> None:
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for place in (0, len(content) // 3, len(content) - 1):
            changed = bytearray(content)
            changed[place] ^= 4
            path.write_bytes(changed)
            if path.name == MANIFEST_FILE:
                with pytest.raises(OutputError, match=r"manifest.json' (is damaged|has version)"):
                    problems(folder)
            else:
                assert list(problems(folder)) == [path.name]
        path.write_bytes(content)
    assert problems(folder) == {}


def test_any_two_files_that_change_places_are_named_by_where_they_belong(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST_FILE)
    for first, second in zip(names, [*names[1:], names[0]], strict=True):
        _swap(folder / first, folder / second)
        assert problems(folder) == {
            first: f"holds what belongs into '{second}'",
            second: f"holds what belongs into '{first}'",
        }
        _swap(folder / first, folder / second)
    assert problems(folder) == {}


def test_any_missing_file_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        path.unlink()
        if path.name == MANIFEST_FILE:
            assert cli.run(["verify", str(folder)]) == 1
            assert "has no manifest.json, so nothing can be verified" in capsys.readouterr().err
        else:
            assert problems(folder) == {path.name: "is missing"}
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "precision"), [(name, own) for name in KINDS for own in KINDS[name].split(",")]
)
def test_a_full_disk_is_one_line_and_leaves_the_folder_as_it_was(
    name: str, precision: str, shrunk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No file may grow beyond a few kilobytes, whoever writes it: Python, C++ or protobuf."""
    if name not in installed():
        pytest.skip(f"{name} is not installed")
    folder = Path(shutil.copytree(shrunk, tmp_path / "out"))
    before = _snapshot(folder)
    arguments = ["export", str(folder), "--format", name, "--precision", precision, "--quiet"]
    with _files_limited_to(4_000):
        code = cli.run([*arguments, "--max-test", "20"])
    printed = capfd.readouterr()
    assert code == 1
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert str(folder.parent / ".out.") not in printed.err
    assert "iostream" not in printed.err
    assert _snapshot(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("name", "precision"), [(name, "fp32") for name in KINDS if name != "onnx"]
)
def test_a_network_file_that_is_not_onnx_is_one_line(
    name: str, precision: str, shrunk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if name not in installed():
        pytest.skip(f"{name} is not installed")
    folder = Path(shutil.copytree(shrunk, tmp_path / "out"))
    (folder / "model.onnx").write_bytes(b"GIF89a" * 50)
    assert cli.run(["export", str(folder), "--format", name, "--quiet"]) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: 'model.onnx' ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(("name", "precision"), [(name, "fp16") for name in KINDS])
def test_an_operator_that_the_target_lacks_is_named(
    name: str, precision: str, shrunk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if name not in installed():
        pytest.skip(f"{name} is not installed")
    folder = Path(shutil.copytree(shrunk, tmp_path / "out"))
    _append_unknown_operator(folder / "model.onnx")
    before = _snapshot(folder)
    arguments = ["export", str(folder), "--format", name, "--precision", precision, "--quiet"]
    assert cli.run([*arguments, "--max-test", "20"]) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert "Frobnicate" in error
    assert "ONNXRuntimeError" not in error
    assert error.count("\n") == 1
    assert _snapshot(folder) == before


def test_a_batch_that_a_fixed_batch_file_does_not_take_is_one_line(
    shrunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(shrunk, tmp_path / "out"))
    assert cli.run(["export", str(folder), "--batch", "4", "--max-test", "20", "--quiet"]) == 0
    file = str(folder / "model-batch4.onnx")
    assert cli.run(["measure", file, "--batches", "8"]) == 2
    assert capsys.readouterr().err.strip() == (
        "error: batch 8 does not fit: the file takes 4 at a time, always"
    )


def test_a_report_of_an_older_version_is_one_line_without_an_exception_s_name(
    shrunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(shrunk, tmp_path / "out"))
    report = folder / "report.json"
    text = report.read_text()
    for key, problem in (
        ("fairdeploy.preprocessing", "report.json does not tell how images become inputs"),
        (r"\"std\"", "report.json is damaged where it tells how images become inputs"),
    ):
        assert key in text
        report.write_text(text.replace(key, "gone" if "." in key else r"\"gone\""))
        assert cli.run(["export", str(folder), "--precision", "fp16"]) == 1
        assert (
            capsys.readouterr()
            .err.strip()
            .endswith(f"error: {problem}; shrink the network again with this fairdeploy")
        )


def _swap(first: Path, second: Path) -> None:
    kept = first.with_name("kept")
    first.rename(kept)
    second.rename(first)
    kept.rename(second)


def _snapshot(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@contextmanager
def _files_limited_to(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _append_unknown_operator(path: Path) -> None:
    """Let the output pass through an operator that nobody has."""
    model = onnx.load(path)
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
    model.graph.node.append(
        helper.make_node("Frobnicate", ["before"], [output], name="odd", domain="nobody.knows")
    )
    model.opset_import.append(helper.make_opsetid("nobody.knows", 1))
    onnx.save(model, path)
