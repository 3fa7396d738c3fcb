"""``fairdeploy compare``: results of several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairdeploy.errors import UsageError
from fairdeploy.files import appearing_folder, check_output_folder, write_whole
from fairdeploy.reporting.comparison import build_comparison, comparison_table
from fairdeploy.reporting.document import json_text
from fairdeploy.reporting.page.comparison import COMPARISON_PAGE, render_comparison
from fairdeploy.runs.folder.artifact_folder import REPORT_FILE, read_report, reading

COMPARISON_FILE = "comparison.json"


def compare(
    folders: Sequence[Path], output: Path | None = None, *, force: bool = False
) -> dict[str, Any]:
    """Read the reports and put them side by side.

    Args:
        folders: Two or more that ``fairdeploy shrink`` wrote.
        output: A folder for ``comparison.html`` and ``comparison.json``; None writes nothing.
        force: Replace an earlier comparison.

    Raises:
        UsageError: There are fewer than two, or one twice.
        ModelError: A folder holds no report, or a damaged one.
        OutputError: The page cannot be written.
    """
    names = [str(folder) for folder in folders]
    if len(set(names)) < len(names) or len(names) < 2:
        raise UsageError("give two or more different folders that fairdeploy shrink wrote")
    if output is not None:
        check_output_folder(output, force=force)
    reports: dict[str, Mapping[str, Any]] = {}
    for folder in folders:
        document = read_report(folder)
        with reading(folder / REPORT_FILE):
            comparison_table(build_comparison({str(folder): document}))
        reports[str(folder)] = document
    comparison = build_comparison(reports)
    if output is not None:
        with appearing_folder(output, force=force) as folder:
            write_whole(folder / COMPARISON_FILE, json_text(comparison))
            write_whole(folder / COMPARISON_PAGE, render_comparison(comparison, COMPARISON_FILE))
    return comparison
