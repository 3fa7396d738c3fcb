"""Checks one model in this process.

The row is written at every stage, so that whoever kills this process knows where it was.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from tests.conformance.laws import check
from tests.conformance.rows import write_row
from tests.conformance.zoo import find


def check_into(name: str, row_file: str, with_onnx: bool) -> None:
    """Check the model ``name`` and leave its row in ``row_file``."""
    path = Path(row_file)
    warnings.simplefilter("ignore")
    row = check(find(name), checkpoint=lambda row: write_row(row, path), with_onnx=with_onnx)
    write_row(row, path)
