"""The manifest notices every change of a folder, down to one byte."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from fairdeploy.errors import OutputError
from fairdeploy.runs.folder.manifest import (
    MANIFEST_FILE,
    discrepancies,
    read_manifest,
    write_manifest,
)

CONTENT = {"model.onnx": b"\x08\x07abc", "model.pt2": b"PK123", "sub/data.bin": bytes(range(256))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    for name, content in CONTENT.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(content)
    write_manifest(made)
    return made


def problems(folder: Path) -> dict[str, str]:
    found = discrepancies(folder, read_manifest(folder))
    return {item.path: item.problem for item in found}


def test_an_untouched_folder_holds(folder: Path) -> None:
    assert problems(folder) == {}
    listed = {file.path: file for file in read_manifest(folder)}
    assert set(listed) == set(CONTENT)
    for name, content in CONTENT.items():
        assert listed[name].size_bytes == len(content)
        assert listed[name].sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", CONTENT)
def test_one_flipped_bit_of_any_byte_of_any_file_is_found(folder: Path, name: str) -> None:
    for place in range(len(CONTENT[name])):
        content = bytearray(CONTENT[name])
        content[place] ^= 1
        (folder / name).write_bytes(content)
        assert list(problems(folder)) == [name]
        assert problems(folder)[name].startswith("is changed: SHA-256 ")


def test_swapped_files_are_named_by_where_they_belong(folder: Path) -> None:
    shutil.move(folder / "model.onnx", folder / "other")
    shutil.move(folder / "model.pt2", folder / "model.onnx")
    shutil.move(folder / "other", folder / "model.pt2")
    assert problems(folder) == {
        "model.onnx": "holds what belongs into 'model.pt2'",
        "model.pt2": "holds what belongs into 'model.onnx'",
    }


def test_missing_longer_and_additional_files_are_found(folder: Path) -> None:
    (folder / "model.pt2").unlink()
    (folder / "model.onnx").write_bytes(CONTENT["model.onnx"] + b"!")
    (folder / "sub" / "more.txt").write_text("hello")
    assert problems(folder) == {
        "model.onnx": "has 6 bytes instead of 5",
        "model.pt2": "is missing",
        "sub/more.txt": "is not in the manifest",
    }


def test_a_link_does_not_stand_for_a_file(folder: Path) -> None:
    shutil.move(folder / "model.pt2", folder.parent / "elsewhere")
    (folder / "model.pt2").symlink_to(folder.parent / "elsewhere")
    assert problems(folder) == {"model.pt2": "is a link, pipe, device or folder instead of a file"}


def test_a_changed_manifest_is_noticed(folder: Path) -> None:
    path = folder / MANIFEST_FILE
    document = json.loads(path.read_text())
    document["files"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(document))
    with pytest.raises(OutputError, match="is damaged: its list does not match its own digest"):
        read_manifest(folder)
    for broken in ("{", "[]", '{"schema_version": 1}'):
        path.write_text(broken)
        with pytest.raises(OutputError, match=r"'.*manifest.json' is damaged: ") as caught:
            read_manifest(folder)
        assert "\n" not in str(caught.value)
    path.write_text('{"schema_version": 7}')
    with pytest.raises(OutputError, match="has version 7; this fairdeploy reads version 1"):
        read_manifest(folder)


def test_folders_without_a_manifest_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"has no manifest.json, so nothing can be verified"):
        read_manifest(tmp_path)
    with pytest.raises(OutputError, match=r"no folder '.*nowhere'; give one"):
        read_manifest(tmp_path / "nowhere")
