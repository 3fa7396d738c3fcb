"""``fairdeploy export``: more files of a shrunk network, each checked against the network in torch.

Formats are exporters found by their entry point; each makes its files from ONNX. The folder
changes at once at the end, or not at all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairdeploy.deployment.exporter_api import get_exporter, load_exporters
from fairdeploy.deployment.variant_checks import DEFAULT_MAX_DROP
from fairdeploy.errors import OutputError
from fairdeploy.files import require_room_for, write_whole
from fairdeploy.records import VariantCheck
from fairdeploy.reporting.chain import chain_of, merged_variants, variant_document
from fairdeploy.reporting.document import json_text
from fairdeploy.reporting.json_tree import json_tree
from fairdeploy.reporting.page.report import with_chain
from fairdeploy.runs.export.images import ExportImages, load_export_images
from fairdeploy.runs.export.requests import Request, needs_images, requests_of, skipped
from fairdeploy.runs.export.variants import VariantMaker
from fairdeploy.runs.folder.artifact_folder import (
    ONNX,
    PAGE_FILE,
    REPORT_FILE,
    added_to,
    complete_folder,
    open_folder,
)
from fairdeploy.runs.progress import Progress, Stopwatch
from fairdeploy.settings.options import DEFAULT_TARGET, ExportOptions
from fairdeploy.settings.target_profiles import load_profile


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Where everything is, what was made now, and ``report.json`` as it is now."""

    folder: Path
    checks: tuple[VariantCheck, ...]
    document: Mapping[str, Any]


def export(options: ExportOptions, progress: Progress | None = None) -> ExportResult:
    """Write the files that are asked for into the folder, check them, and tell it in the report.

    A file that fails its check is written all the same, and the report says so.

    Raises:
        FairdeployError: With the exit code for the command line; then nothing was written.
    """
    folder = open_folder(options.folder)
    folder.require_full_onnx()
    require_room_for(folder.path, "make space there")
    exporters = load_exporters()
    requests = requests_of(options, exporters)
    watch = Stopwatch(progress)
    for text in skipped(options, exporters):
        watch.warn(text)
    profile = load_profile(options.target or DEFAULT_TARGET)
    with watch.stage("load network"):
        network = folder.load_network()
    with watch.stage("load images") as stage:
        images = load_export_images(
            options, folder, network, must_be_real=needs_images(requests), watch=watch
        )
        stage.note(images.note)
    max_drop = DEFAULT_MAX_DROP if options.max_drop is None else options.max_drop
    onnx = get_exporter(ONNX)
    try:
        with added_to(folder.path) as scratch:
            with tempfile.TemporaryDirectory(prefix=".work-", dir=scratch) as work:
                maker = VariantMaker(
                    scratch, Path(work), options, images, profile, exporters, onnx, max_drop
                )
                checks = tuple(_made(maker, request, watch) for request in requests)
            document = _updated(folder.document, checks, images)
            _write_reports(scratch, document)
            complete_folder(scratch, document)
    except OSError as error:
        raise OutputError(
            f"cannot write beside '{folder.path}': {error.strerror or error}; make space there; "
            "the folder is as it was"
        ) from error
    return ExportResult(folder.path, checks, document)


def _write_reports(folder: Path, document: Mapping[str, Any]) -> None:
    write_whole(folder / REPORT_FILE, json_text(document))
    page = folder / PAGE_FILE
    if page.is_file():
        write_whole(page, with_chain(page.read_text(encoding="utf-8"), document))


def _made(maker: VariantMaker, request: Request, watch: Stopwatch) -> VariantCheck:
    with watch.stage(request.file_name) as stage:
        check = maker.make(request)
        verdict = {True: "holds", False: "FAILED", None: "not run here"}[check.passed]
        stage.note(f"{check.artifact.size_bytes / 1e6:.1f} MB, {verdict}")
    return check


def _updated(
    document: Mapping[str, Any], checks: tuple[VariantCheck, ...], images: ExportImages
) -> dict[str, Any]:
    """``report.json`` with the new files among the artifacts, their checks and the chain."""
    rows = [variant_document(check) | {"images": images.note} for check in checks]
    changed = dict(document)
    changed["variants"] = merged_variants(document, rows)
    new = {row["artifact"]["path"] for row in rows}
    changed["artifacts"] = [row for row in document["artifacts"] if row["path"] not in new]
    changed["artifacts"] += [row["artifact"] for row in rows]
    changed["chain"] = chain_of(changed)
    return json_tree(changed)
