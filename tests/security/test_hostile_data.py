"""Arrays, images, project files, ONNX files and pipes: one line each, at once."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fairdeploy.cli.app import run
from fairdeploy.deployment.devices.device_job import network_files
from fairdeploy.deployment.exporter_api import get_exporter
from fairdeploy.errors import FairdeployError, MeasurementError
from fairdeploy.inputs.calibration import load_data
from fairdeploy.runs.folder.reload import load
from fairdeploy.settings.project_file import PROJECT_FILE_NAME, load_project_file
from fairdeploy.settings.target_profiles import load_profile
from fairdeploy.surgery.plan import read_plan
from tests.inputs.tiny_inputs import TINY, write_class_folders
from tests.security.pickle_programs import CANARY, COMMAND, PYTHON


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(act: Callable[[], object]) -> str:
    """The one line that ``act`` ends in."""
    with pytest.raises(FairdeployError) as caught:
        act()
    line = str(caught.value)
    assert not Path(CANARY).exists()
    assert line.splitlines() == [line]
    assert len(line) < 2_000
    return line


# ---- arrays ------------------------------------------------------------------------------------


def npy(header: str, content: bytes = b"\0" * 64, version: bytes = b"\x01\x00") -> bytes:
    """An array file with a header of one's own."""
    text = header.encode("latin1") + b"\n"
    length = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + content


def npz(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of array files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _header(shape: object, kind: str = "|u1") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (COMMAND,)


def arrays() -> Iterator[tuple[str, bytes]]:
    """``.npz`` files that run code, lie about sizes, or break off."""
    objects = io.BytesIO()
    np.save(objects, np.array([_Runs()], dtype=object), allow_pickle=True)
    good = npy(_header((1, 8, 8, 1)), b"\0" * 64)
    for label, member in {
        "objects": objects.getvalue(),
        "pickle": pickle.dumps(_Runs()),
        "a terabyte": npy(_header((10**4, 10**4, 10**4, 3))),
        "2^70 numbers": npy(_header((2**70,))),
        "negative": npy(_header((-5, 8, 8))),
        "no numbers at all": npy(_header((0, 8, 8))),
        "texts": npy(_header((1,), "<U999999999")),
        "void": npy(_header((1,), "|V99999999999")),
        "a code header": npy(f"__import__('os').system('{COMMAND}')"),
        "an evaluated header": npy(f"{{'descr': {PYTHON!r}, 'shape': eval('1')}}"),
        "a deep header": npy("(" * 5_000 + ")" * 5_000),
        "a header without end": npy(_header((1,)))[:30],
        "a header of four gigabytes": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        "version 9": npy(_header((1,)), version=b"\x09\x00"),
        "a cut array": npy(_header((1, 8, 8, 1)), b"\0" * 3),
        "nothing": b"",
        "text": b"images",
        "one number": npy(_header(()), b"\0"),
        "complex numbers": npy(_header((1, 8, 8), "<c16"), b"\0" * 2048),
        "shape of texts": npy(_header("('a', 'b')")),
    }.items():
        yield label, npz({"images.npy": member, "labels.npy": good})
    for label, labels in {
        "labels of objects": objects.getvalue(),
        "labels of the wrong number": npy(_header((99,), "<i8"), b"\0" * 792),
        "negative labels": npy(_header((1,), "<i8"), b"\xff" * 8),
        "labels that are no numbers": npy(_header((1,), "<f8"), b"\xff" * 8),
    }.items():
        yield label, npz({"images.npy": good, "labels.npy": labels})
    yield "not a zip file", b"PK\x03\x04" + b"\0" * 100
    yield "a pickle", pickle.dumps(_Runs())
    yield "an array file alone", good
    yield "cut", npz({"images.npy": good})[:-30]
    yield "without images", npz({"x/y/z.npy": good})
    yield "of bzip2", npz({"images.npy": good}, zipfile.ZIP_BZIP2)
    bomb = bytearray(
        npz({"images.npy": npy(_header((2**24,)), b"\0" * 2**24)}, zipfile.ZIP_DEFLATED)
    )
    place = bomb.rindex(b"PK\x01\x02")
    bomb[place + 24 : place + 28] = struct.pack("<I", 2**32 - 2)
    yield "that declares four gigabytes", bytes(bomb)


_ARRAYS = dict(arrays())


@pytest.mark.parametrize("label", _ARRAYS)
def test_hostile_array_file_is_refused_in_one_line(label: str) -> None:
    Path("data.npz").write_bytes(_ARRAYS[label])
    refused(lambda: load_data("data.npz", TINY))


# ---- images ------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png(width: int, height: int, *parts: bytes) -> bytes:
    """A grey PNG with a size of one's own."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(parts) + chunk(b"IEND", b"")


_POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"
    b"(" + CANARY.encode() + b") (w) file closefile\nshowpage\n%%EOF\n"
)
_ZEROS = zlib.compress(b"\0" * 2**20, 1)
_IMAGES = {
    "bomb.png": png(60_000, 60_000, chunk(b"IDAT", _ZEROS)),
    "wide.png": png(2**31 - 1, 1, chunk(b"IDAT", _ZEROS)),
    "none.png": png(0, 0, chunk(b"IDAT", b"")),
    "cut.png": png(8, 8, chunk(b"IDAT", zlib.compress(b"\0" * 20))),
    "text.png": png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 2**24))),
    "no_pixels.png": png(8, 8),
    "wrong_check.png": png(8, 8)[:-6] + b"abcdef",
    "postscript.png": _POSTSCRIPT,
    "postscript.jpg": _POSTSCRIPT,
    "script.png": b"#!/bin/sh\ntouch RAN\n",
    "pickle.png": pickle.dumps(_Runs()),
    "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'><script>x</script></svg>",
    "empty.png": b"",
    "cut.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00",
    "loop.gif": b"GIF89a\xff\xff\xff\xff\x80\x00\x00" + b"\0" * 40,
    "huge.bmp": b"BM"
    + b"\0" * 16
    + struct.pack("<IiiHHI", 40, 2**30, 2**30, 1, 24, 0)
    + b"\0" * 40,
    "huge.tif": b"II*\0\x08\0\0\0" + struct.pack("<H", 65_535) + b"\xff" * 200,
    "huge.ppm": b"P6\n999999999 999999999\n255\n",
    "huge.tga": b"\0\0\x02" + b"\0" * 9 + b"\xff\xff\xff\xff\x18\0" + b"\0" * 8,
    "cut.webp": b"RIFF\xff\xff\xff\x7fWEBPVP8 \xff\xff\xff\x7f" + b"\0" * 20,
}


@pytest.mark.parametrize("name", _IMAGES)
def test_hostile_image_is_refused_in_one_line(name: str) -> None:
    folder = Path("images")
    for kind in ("ant", "bee"):
        (folder / kind).mkdir(parents=True)
        (folder / kind / name).write_bytes(_IMAGES[name])
    refused(lambda: load_data(str(folder), TINY))


# ---- project files -----------------------------------------------------------------------------

_DEEP = 100_000
_PROJECTS = {
    "deep lists": b"budget = " + b"[" * _DEEP,
    "deep tables": b"budget = " + b"{a=" * _DEEP,
    "deep keys": b".".join([b"a"] * _DEEP) + b" = 1",
    "a long number": b"seed = " + b"9" * 100_000,
    "a long key": b"a" * 100_000 + b" = 1",
    "no text": b"\xff\xfe\x00",
    "a zero": b"arch = \"a\x00b\"",
    "an unknown key": b"exec = 'x'",
    "a table for a text": b"[arch]\nx = 1",
    "infinity": b"tolerance = inf",
    "a list without end": b"protect = [",
    "a date": b"seed = 1979-05-27T07:32:00Z",
    "a true number": b"seed = true",
    "a negative seed": b"max_test = -1",
    "one key twice": b"seed = 1\nseed = 2",
    "a pickle": pickle.dumps(_Runs()),
}  # fmt: skip


@pytest.mark.parametrize("label", _PROJECTS)
def test_hostile_project_file_is_refused_in_one_line(label: str, tmp_path: Path) -> None:
    (tmp_path / PROJECT_FILE_NAME).write_bytes(_PROJECTS[label])
    refused(lambda: load_project_file(tmp_path))


# ---- ONNX --------------------------------------------------------------------------------------

_ONNX_FILES = {
    "nothing": b"",
    "text": b"import os",
    "pickle": pickle.dumps(_Runs()),
    "noise": bytes(range(256)) * 8,
    "a message without end": b"\x0a\xff\xff\xff\xff\x0f",
    "deep groups": b"\x3a\x80\x01" * 500,
    "no graph": b"\x08\x08",
}


@pytest.mark.parametrize("label", _ONNX_FILES)
def test_hostile_onnx_file_is_refused_in_one_line(label: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(_ONNX_FILES[label])
    exporter, profile = get_exporter("onnx"), load_profile("cpu")
    refused(lambda: exporter.open(tmp_path / "model.onnx", profile))


def test_weights_that_are_a_link_out_of_the_folder_are_not_bundled(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "model.onnx").write_bytes(b"x")
    (tmp_path / "in" / "model.onnx.data").symlink_to(tmp_path / "secret")
    with pytest.raises(MeasurementError, match=r"is a link out of its folder, to '.*secret'"):
        network_files(tmp_path / "in" / "model.onnx")


# ---- what is not a regular file ----------------------------------------------------------------


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A pipe that nobody writes to: opening it waits for ever."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize("name", ["model.pt", "model.pt2", "model.safetensors", "model"])
def test_pipe_is_no_model(pipe: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pipe.rename(name)
    assert run(["inspect", name, "--input-size", "3,8,8"]) == 1
    assert "is not a regular file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["data.npz", "plan.json", "model.onnx", PROJECT_FILE_NAME])
def test_pipe_is_no_data_plan_network_or_project_file(pipe: Path, name: str) -> None:
    pipe = pipe.rename(pipe.parent / name)
    doors: dict[str, Callable[[], object]] = {
        "data.npz": lambda: load_data(name, TINY),
        "plan.json": lambda: read_plan(pipe),
        "model.onnx": lambda: get_exporter("onnx").open(pipe, load_profile("cpu")),
        PROJECT_FILE_NAME: lambda: load_project_file(pipe.parent),
    }
    refused(doors[name])


def test_pipe_among_images_is_passed_over(pipe: Path) -> None:
    write_class_folders(Path("images"), {"ant": 12, "bee": 12})
    shutil.move(pipe, Path("images") / "ant" / "pipe.png")
    assert len(load_data("images", TINY).calibration.images) > 0


@pytest.mark.parametrize("name", ["model.pt2", "plan.json", "weights.safetensors"])
def test_pipe_in_a_result_folder_is_refused(pipe: Path, name: str, tmp_path: Path) -> None:
    pipe.rename(tmp_path / name)
    refused(lambda: load(tmp_path))


def test_device_is_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("this system has no /dev/zero")
    assert run(["inspect", "/dev/zero", "--input-size", "3,8,8"]) == 1
    assert "is not a regular file" in capsys.readouterr().err
