"""Check that a wheel holds everything that fairdeploy needs, byte for byte, and nothing else.

Usage: ``python .ci/check_wheel.py fairdeploy-X.Y.Z-py3-none-any.whl`` in the checkout.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

FOLDERS = {
    "fairdeploy": Path("fairdeploy"),
    "fairdeploy/profiles": Path("profiles"),
    "fairdeploy_onnx": Path("exporters/fairdeploy_onnx"),
    "fairdeploy_openvino": Path("exporters/fairdeploy_openvino"),
    "fairdeploy_tensorrt": Path("exporters/fairdeploy_tensorrt"),
}
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


def expected_files() -> dict[str, Path]:
    """Name in the wheel of every source file, template and profile of the checkout."""
    return {
        f"{name}/{path.relative_to(folder).as_posix()}": path
        for name, folder in FOLDERS.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def problems_of(wheel: zipfile.ZipFile) -> list[str]:
    """What is missing from the wheel, differs from the checkout, or has no business there."""
    names = set(wheel.namelist())
    info = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    found_metadata = {name.partition("/")[2] for name in info}
    files = expected_files()
    return (
        [f"missing: {name}" for name in sorted(set(files) - names)]
        + [f"missing: {name}" for name in sorted(METADATA - found_metadata)]
        + [f"should not be there: {name}" for name in sorted(names - set(files) - info)]
        + [
            f"differs from {path}: {name}"
            for name, path in sorted(files.items())
            if name in names and wheel.read(name) != path.read_bytes()
        ]
    )


def main() -> int:
    """Print what is wrong with the wheel; the exit code says whether anything is."""
    path = Path(sys.argv[1])
    with zipfile.ZipFile(path) as wheel:
        problems = problems_of(wheel)
        num_files = len(wheel.namelist())
    for problem in problems:
        print(f"{path.name}: {problem}")
    if not problems:
        print(f"{path.name}: {num_files} files, all as they should be")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
