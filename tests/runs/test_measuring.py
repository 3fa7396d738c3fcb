"""``fairdeploy measure`` on ONNX files that fairdeploy did not make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from fairdeploy.cli import app as cli
from fairdeploy.errors import DataError, ExportError, UsageError
from fairdeploy.runs.measure.run import measure
from fairdeploy.settings.options import MeasureOptions
from tests.onnx_files import write_dense


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write_dense(tmp_path / "a.onnx", width=64), write_dense(tmp_path / "b.onnx")


def run(*files: Path, **options: Any) -> dict[str, Any]:
    return measure(MeasureOptions(files=files, target="cpu-1thread", seconds=0.2, **options))


def test_one_file_has_its_times_throughput_and_device(files: tuple[Path, Path]) -> None:
    document = run(files[0], batches=(4,), idle_gap_ms=1.0)
    (row,) = document["rows"]
    first = row["first"]
    assert first["low_ms"] <= first["median_ms"] <= first["high_ms"]
    assert first["median_ms"] <= first["p90_ms"] <= first["p99_ms"]
    assert first["images_per_second"] == pytest.approx(4 * 1000 / first["median_ms"])
    assert first["cold_start_ms"] > first["median_ms"]
    assert first["idle_gap"]["gap_ms"] == 1.0
    assert len(first["idle_gap"]["raw_ms"]) >= 20
    assert "second" not in row
    assert row["device"]["versions"]["onnxruntime"]
    assert document["files"][0]["size_bytes"] == files[0].stat().st_size
    assert document["inputs"] == [{"name": "x", "dtype": "float32", "sizes": ("N", 16)}]
    assert document["schema_version"] == 1
    json.dumps(document, allow_nan=False)


def test_two_files_have_their_ratio_at_every_batch_and_number_of_threads(
    files: tuple[Path, Path],
) -> None:
    document = run(*files, batches=(1, 3), threads=(1, 2))
    assert [(row["threads"], row["batch"]) for row in document["rows"]] == [
        (1, 1), (1, 3), (2, 1), (2, 3),
    ]  # fmt: skip
    for row in document["rows"]:
        ratio = np.median(np.divide(row["first"]["raw_ms"], row["second"]["raw_ms"]))
        assert row["speedup"]["value"] == pytest.approx(ratio, rel=1e-3)
        assert row["speedup"]["low"] <= ratio <= row["speedup"]["high"]
        assert len(row["first"]["raw_ms"]) == len(row["second"]["raw_ms"])


def test_the_batch_of_the_file_holds_where_it_takes_only_one(tmp_path: Path) -> None:
    path = write_dense(tmp_path / "fixed.onnx", sizes=(5, 16))
    assert run(path)["rows"][0]["batch"] == 5
    with pytest.raises(UsageError, match=r"batch 2 does not fit: the file takes 5 at a time"):
        run(path, batches=(5, 2))


def test_a_size_that_varies_is_given_by_name(tmp_path: Path) -> None:
    path = write_dense(tmp_path / "sequence.onnx", sizes=("N", "length", 16))
    assert run(path, sizes={"length": 3})["rows"]
    with pytest.raises(UsageError, match="give it with --size length=NUMBER"):
        run(path)


def test_files_with_different_inputs_are_not_raced(tmp_path: Path) -> None:
    first = write_dense(tmp_path / "a.onnx", sizes=("N", 16))
    second = write_dense(tmp_path / "b.onnx", sizes=("N", 17))
    with pytest.raises(
        UsageError,
        match=r"'a.onnx' takes x float32 \[N, 16\] and 'b.onnx' takes x float32 \[N, 17\];",
    ):
        run(first, second)


def test_what_is_no_onnx_file_and_what_is_missing_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    assert cli.run(["measure", str(tmp_path / "text.onnx")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: 'text.onnx' cannot be opened as ONNX: ")
    assert captured.err.count("\n") == 1
    with pytest.raises(ExportError, match=r"no ONNX file '.*gone.onnx'"):
        run(tmp_path / "gone.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["c.onnx"], "3 files given; give one to measure, or two to race"),
        (["--batch", "2", "--batches", "1,2"], "--batch and --batches are both given"),
        (["--batches", "1,0"], "--batches '1,0' is not a list of whole numbers from 1"),
        (["--threads", "two"], "--threads 'two' is not a list of whole numbers from 0"),
        (["--size", "224"], "--size '224' is not a name and a number; use --size H=224"),
        (["--size", "H=0"], "--size 'H=0' is not a name and a number"),
    ],
)
def test_wrong_options_are_refused_with_exit_code_two(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["measure", "a.onnx", "b.onnx", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_table_names_files_and_the_ratio_and_json_is_alone_on_stdout(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["measure", *map(str, files), "--target", "cpu-1thread", "--seconds", "0.2"]
    assert cli.run([*arguments, "--idle-gap", "1"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "every 1 ms" in printed
    assert "times as fast" in printed
    assert "stopped because" in printed
    assert cli.run([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["target"]["name"] == "cpu-1thread"


def test_failure_at_sizes_that_the_user_chose_says_that_others_may_do(tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    nodes = [onnx.helper.make_node("Reshape", ["x", "shape"], ["y"])]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "g", [value("x", onnx.TensorProto.FLOAT, ["N", "T"])],
        [value("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.array([-1, 4], np.int64), "shape")],
    )  # fmt: skip
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), file)
    assert run(file, sizes={"T": 8})["rows"]
    with pytest.raises(ExportError, match="it may not take --size T=7: try others"):
        run(file, sizes={"T": 7})


def test_input_that_is_no_tensor_is_refused_by_its_type(tmp_path: Path) -> None:
    node = onnx.helper.make_node("SequenceAt", ["q", "k"], ["y"])
    given = onnx.helper.make_tensor_sequence_value_info("q", onnx.TensorProto.FLOAT, ["n", 3])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    place = onnx.numpy_helper.from_array(np.array(0, np.int64), "k")
    graph = onnx.helper.make_graph([node], "g", [given], [out], [place])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "s.onnx"
    )
    with pytest.raises(
        DataError, match=r"'seq\(tensor\(float\)\)', which cannot be made up, so the"
    ):
        run(tmp_path / "s.onnx")
