"""Whatever the tried code does, the answer is a value or one line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fairdeploy.runs.doctor.findings import Answer, ask_python


def test_the_answer_is_what_the_code_left_whatever_it_printed() -> None:
    code = "import sys\nprint('noise')\nsys.stderr.write('more')\nanswer = {'a': [1, None]}"
    assert ask_python(code) == Answer({"a": [1, None]})


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise ImportError('libcuda.so.1: cannot open\\nshared object file')",
         "shared object file"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "crashes (SIGSEGV)"),
        ("import os\nos._exit(3)", "ends with exit code 3"),
        ("import sys\nsys.exit(0)", "ends with exit code 0"),
        ("answer = object()", "TypeError: Object of type object is not JSON serializable"),
    ],
)  # fmt: skip
def test_every_way_to_fail_is_one_line(code: str, problem: str) -> None:
    assert ask_python(code) == Answer(problem=problem)


def test_code_that_hangs_is_ended() -> None:
    started = time.monotonic()
    answer = ask_python("import time\ntime.sleep(60)\nanswer = 1", timeout_s=0.5)
    assert answer == Answer(problem="does not answer within 0.5 s", is_late=True)
    assert time.monotonic() - started < 30


def test_a_file_in_the_current_folder_is_not_taken_for_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uuid.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    assert ask_python("import uuid\nanswer = uuid.__name__") == Answer("uuid")
