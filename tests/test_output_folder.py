"""Outputs appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairdeploy.errors import ExportError, OutputError
from fairdeploy.output_folder import appearing_folder, check_output_folder


def test_folder_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with appearing_folder(target, force=False) as scratch:
        (scratch / "report.json").write_text("{}")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["report.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_when_the_work_fails(tmp_path: Path, failure: type[BaseException]) -> None:

    def work() -> None:
        with appearing_folder(tmp_path / "out", force=False) as scratch:
            (scratch / "half.bin").write_text("half")
            raise failure

    with pytest.raises(failure):
        work()
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_refused_and_kept_without_force(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("old")
    with (
        pytest.raises(OutputError, match=r"exists; choose another with --output, or add --force"),
        appearing_folder(tmp_path, force=False),
    ):
        pass
    assert (tmp_path / "report.json").read_text() == "old"


def test_force_replaces_an_earlier_result_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "report.json").write_text("old")
    (target / "stale.bin").write_text("old")
    with appearing_folder(target, force=True) as scratch:
        (scratch / "report.json").write_text("new")
    assert [path.name for path in target.iterdir()] == ["report.json"]
    assert (target / "report.json").read_text() == "new"


def test_force_keeps_the_earlier_result_when_the_work_fails(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "report.json").write_text("old")
    with pytest.raises(ValueError, match="stop"), appearing_folder(target, force=True):
        raise ValueError("stop")
    assert (target / "report.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_force_never_deletes_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with (
        pytest.raises(OutputError, match="holds files that fairdeploy did not write"),
        appearing_folder(tmp_path, force=True),
    ):
        pass
    assert (tmp_path / "thesis.tex").exists()


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("file")
    with (
        pytest.raises(OutputError, match="is a file"),
        appearing_folder(tmp_path / "out", force=True),
    ):
        pass


def test_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write in '/proc'"):
        check_output_folder(Path("/proc/fairdeploy-output"), force=False)
    check_output_folder(tmp_path / "new" / "deeper", force=False)
    assert list(tmp_path.iterdir()) == []


def test_an_error_names_the_folder_that_the_user_knows(tmp_path: Path) -> None:
    with (
        pytest.raises(ExportError, match=rf"^cannot write '{tmp_path}/out/model.onnx': full$"),
        appearing_folder(tmp_path / "out", force=False) as scratch,
    ):
        raise ExportError(f"cannot write '{scratch / 'model.onnx'}': full")
    assert list(tmp_path.iterdir()) == []
