"""Checks one model in this process: ``python -m tests.conformance.worker MODEL PARTS ROW_FILE``.

``PARTS`` is ``all`` or ``no-onnx``.

The row is written at every stage, so that whoever kills this process knows where it was.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from tests.conformance.laws import check
from tests.conformance.rows import write_row
from tests.conformance.zoo import find


def main() -> int:
    """Command line."""
    name, parts, path = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    warnings.simplefilter("ignore")
    row = check(
        find(name),
        checkpoint=lambda row: write_row(row, path),
        with_onnx=parts == "all",
    )
    write_row(row, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
