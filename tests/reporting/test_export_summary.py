"""What the command line shows of a chain."""

from io import StringIO

import pytest
from rich.console import Console

from fairdeploy.cli.summaries.export import chain_table


@pytest.mark.parametrize("share", [None, 0.5])
def test_top_1_is_a_column_only_where_something_has_classes(share: float | None) -> None:
    row = {
        "step": "shrunk → file", "file": "model.onnx", "size_bytes": 1000, "error": 1e-7,
        "limit": 1e-4, "top1_agreement": share, "accuracy": None, "passed": True, "note": "",
    }  # fmt: skip
    shown = StringIO()
    Console(file=shown, width=200).print(
        chain_table({"task": {"agreement": "same top-1"}, "chain": {"rows": [row]}})
    )
    assert ("same top-1" in shown.getvalue()) == (share is not None)
    assert ("50.0%" in shown.getvalue()) == (share is not None)
    assert "holds" in shown.getvalue()
