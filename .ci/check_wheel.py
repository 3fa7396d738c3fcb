"""Check that a wheel holds everything that fairdeploy needs, and nothing else.

Usage: ``python .ci/check_wheel.py fairdeploy-X.Y.Z-py3-none-any.whl`` in the checkout.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

PACKAGES = {"fairdeploy": Path("fairdeploy"), "fairdeploy_onnx": Path("exporters/fairdeploy_onnx")}
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


def expected_files() -> set[str]:
    """Names in the wheel of all source files, templates and profiles of the checkout."""
    files = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return files | {f"fairdeploy/profiles/{path.name}" for path in Path("profiles").iterdir()}


def problems_of(names: set[str]) -> list[str]:
    """What is missing from, or has no business in, a wheel with these file names."""
    info = {name.split("/")[0] for name in names if ".dist-info/" in name}
    if len(info) != 1:
        return [f"one dist-info folder is right, found {sorted(info)}"]
    expected = expected_files() | {f"{info.pop()}/{name}" for name in METADATA}
    return [f"missing: {name}" for name in sorted(expected - names)] + [
        f"should not be there: {name}" for name in sorted(names - expected)
    ]


def main() -> int:
    """Print what is wrong with the wheel; the exit code says whether anything is."""
    wheel = Path(sys.argv[1])
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    problems = problems_of(names)
    for problem in problems:
        print(f"{wheel.name}: {problem}")
    if not problems:
        print(f"{wheel.name}: {len(names)} files, all as they should be")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
