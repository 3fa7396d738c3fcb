"""Outputs appear whole or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fairdeploy.errors import ExportError, OutputError
from fairdeploy.files import (
    appearing_folder,
    cache_folder,
    check_output_folder,
    kept_if_it_fails,
    sweep_up,
)


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


def killed(target: Path, *, is_swapping: bool = False) -> None:
    """Start to write ``target`` in another process, and kill that in the middle."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from fairdeploy import files as o\n"
        f"target = Path({str(target)!r})\n"
        "def stop(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "rename = Path.rename\n"
        "with o.appearing_folder(target, force=True) as scratch:\n"
        "    (scratch / 'report.json').write_text('new')\n"
        f"    {'' if is_swapping else 'stop()'}\n"
        "    Path.rename = lambda a, b: stop() if a == scratch else rename(a, b)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_run_left_is_swept_up_by_the_next(tmp_path: Path) -> None:
    killed(tmp_path / "out")
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / ".out.notes").mkdir()
    (tmp_path / ".out.bak").write_text("mine")
    killed(tmp_path / "out.more")
    check_output_folder(tmp_path / "out", force=False)
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 3
    assert {".out.notes", ".out.bak"} < left
    assert any(name.startswith(".out.more.") for name in left)


def test_a_running_run_s_folder_is_left_alone(tmp_path: Path) -> None:
    with appearing_folder(tmp_path / "out", force=False) as scratch:
        sweep_up(tmp_path / "out")
        check_output_folder(tmp_path / "out", force=False)
        assert scratch.is_dir()


def test_result_that_a_killed_run_had_set_aside_comes_back(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "report.json").write_text("old")
    killed(target, is_swapping=True)
    assert not target.exists()
    with pytest.raises(OutputError, match="exists"):
        check_output_folder(target, force=False)
    assert (target / "report.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "name", ["x" * 300, "deeper/" + "x" * 300, "a\0b", "caf\udce9", "y" * 200 + "/" + "d" * 256]
)
def test_impossible_names_are_refused_before_any_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="--output"):
        check_output_folder(tmp_path / name, force=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_among_the_parents_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write in '.*/file' \(Not a directory\)"):
        check_output_folder(tmp_path / "file" / "out", force=False)


def test_longest_possible_name_works(tmp_path: Path) -> None:
    with appearing_folder(tmp_path / ("n" * 255), force=False) as scratch:
        (scratch / "report.json").write_text("{}")
    assert (tmp_path / ("n" * 255) / "report.json").exists()


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, OutputError])
def test_what_is_worth_keeping_is_kept_and_said_when_the_rest_fails(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    target = tmp_path / "out"

    def work() -> None:
        with appearing_folder(target, force=False) as scratch:
            (scratch / "model.pt2").write_text("done")
            with kept_if_it_fails(scratch, target, ("model.pt2", "report.json")):
                raise failure("stop")

    for number in ("", "-2"):
        with pytest.raises(failure) as caught:
            work()
        kept = tmp_path / f"out-unfinished{number}"
        note = f"what was finished is kept in '{kept}': model.pt2, without report.json"
        assert caught.value.__notes__ == [note]
        assert (kept / "model.pt2").read_text() == "done"
    assert not target.exists()


def test_caches_lie_where_the_variables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.delenv("FAIRDEPLOY_CACHE", raising=False)
    assert cache_folder() == tmp_path / "caches" / "fairdeploy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / ".cache" / "fairdeploy"
    monkeypatch.setenv("FAIRDEPLOY_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
