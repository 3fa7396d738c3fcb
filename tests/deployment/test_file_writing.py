"""What an exporter writes appears whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from fairdeploy.deployment.file_writing import appearing_files, artifact_of
from fairdeploy.errors import ExportError


def test_all_files_appear_at_the_end_the_main_one_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved, real = [], os.replace

    def replace(source: Path, target: Path) -> None:
        moved.append(target.name)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    path = tmp_path / "a.xml"
    with appearing_files(path) as written:
        written.write_text("graph")
        written.with_suffix(".bin").write_text("weights")
        assert not path.exists()
    assert moved == ["a.bin", "a.xml"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.bin", "a.xml"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("old")

    def fill(written: Path) -> None:
        written.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(
            ExportError, match=r"cannot write '.*a.xml': No space left on device; choose"
        ),
        appearing_files(path) as written,
    ):
        fill(written)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.xml"]


def test_an_artifact_counts_what_belongs_to_it(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(b"12345")
    (tmp_path / "a.bin").write_bytes(b"123")
    artifact = artifact_of(tmp_path / "a.xml", "openvino", "fp16", (tmp_path / "a.bin",))
    assert (artifact.path, artifact.size_bytes) == ("a.xml", 8)
    assert artifact.sha256 == hashlib.sha256(b"12345").hexdigest()
