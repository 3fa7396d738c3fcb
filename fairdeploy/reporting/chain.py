"""The whole chain as rows: zeroed original, shrunk network, ONNX, and every other file.

Each row says what is compared with what, how far apart they are, the limit, and whether it holds;
one verdict stands for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from fairdeploy.records import VariantCheck

Document = Mapping[str, Any]


def chain_of(document: Document) -> dict[str, Any]:
    """``chain`` in ``report.json``.

    Args:
        document: Its ``proof``, ``parity``, ``artifacts``, ``accuracy`` and, where other files
            were made, ``variants``.

    Returns:
        ``rows``, ``passed``, and ``num_not_run`` for files that this machine cannot run.
    """
    usual = document["accuracy"]["num_images"]
    rows = [_proof_row(document), *_onnx_rows(document)]
    rows += [_variant_row(row, usual) for row in _variants(document)]
    return {
        "rows": rows,
        "passed": all(row["passed"] is not False for row in rows),
        "num_not_run": sum(row["passed"] is None for row in rows),
    }


def variant_document(check: VariantCheck) -> dict[str, Any]:
    """A file's check as a row of ``variants``."""
    return asdict(check) | {"passed": check.passed, "failures": list(check.failures())}


def merged_variants(document: Document, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Earlier rows but for files that were written again, then the new ones."""
    new = {row["artifact"]["path"] for row in rows}
    return [row for row in _variants(document) if row["artifact"]["path"] not in new] + rows


def agreement_titles(document: Document, rows: Iterable[Document]) -> tuple[str, ...]:
    """What the task calls agreement, if any row compares answers; else nothing."""
    words = document.get("task") or {"agreement": "same answer"}
    return (words["agreement"],) if any(row["top1_agreement"] is not None for row in rows) else ()


def verdict(chain: Document) -> str:
    """One line for all rows."""
    failed = [row["file"] for row in chain["rows"] if row["passed"] is False]
    if failed:
        return f"FAILED: {', '.join(failed)}"
    not_run = chain["num_not_run"]
    rest = f"; {not_run} not run on this machine" if not_run else ""
    return f"passed: every step of {len(chain['rows']) - not_run} holds{rest}"


def _variants(document: Document) -> list[dict[str, Any]]:
    return list(document.get("variants") or [])


def _row(step: str, file: str, **values: Any) -> dict[str, Any]:
    empty = dict.fromkeys(
        ("format", "precision", "size_bytes", "error", "limit", "top1_agreement", "accuracy")
    )
    return {"step": step, "file": file, **empty, "passed": None, "note": ""} | values


def _proof_row(document: Document) -> dict[str, Any]:
    proof = document["proof"]
    return _row(
        "zeroed → shrunk", "the network in torch",
        precision="fp32", size_bytes=document["model"]["shrunk"]["size_bytes"],
        error=proof["max_relative_error"], limit=proof["limit"], passed=proof["passed"],
        accuracy=_value(document["accuracy"]["pruned"]),
        note="before repair; layer norms apart" if proof["num_coupled_norms"] else "before repair",
    )  # fmt: skip


def _onnx_rows(document: Document) -> Iterator[dict[str, Any]]:
    artifacts = {row["path"]: row for row in document["artifacts"]}
    parity = document["parity"]
    for name in dict.fromkeys(row["artifact"] for row in parity):
        own = [row for row in parity if row["artifact"] == name]
        errors = [row["max_relative_error"] for row in own]
        agreements = [row["top1_agreement"] for row in own if row["top1_agreement"] is not None]
        artifact = artifacts.get(name, {})
        yield _row(
            "shrunk → ONNX", name,
            format=artifact.get("format"), precision=artifact.get("precision"),
            size_bytes=artifact.get("size_bytes"),
            error=None if None in errors else max(errors), limit=own[0]["limit"],
            top1_agreement=min(agreements, default=None),
            accuracy=_value(document["accuracy"]["exported"]),
            passed=all(row["passed"] for row in own),
        )  # fmt: skip


def _variant_row(row: Document, usual: int) -> dict[str, Any]:
    artifact = row["artifact"]
    error, limit = row["max_relative_error"], row["tolerance"]["max_relative_error"]
    if "column_error" in row:  # else of an earlier version
        error, limit = row["column_error"], row["tolerance"]["max_column_error"]
    return _row(
        "shrunk → file", artifact["path"],
        format=artifact["format"], precision=artifact["precision"],
        size_bytes=artifact["size_bytes"], error=error, limit=limit,
        top1_agreement=row["top1_agreement"],
        accuracy=_value(row["accuracy"]), passed=row["passed"], note=_note(row, usual),
    )  # fmt: skip


def _note(row: Document, usual: int) -> str:
    if row["not_run_because"]:
        return str(row["not_run_because"])
    parts = list(row["failures"])
    divergence = row["divergence"]
    if divergence:
        where = divergence["source"] or divergence["node"]
        parts.append(f"first at {divergence['operator']} '{where}'")
    if row["num_images"] != usual:
        parts.append(f"on {row['num_images']:,} images")
    return "; ".join(parts)


def _value(estimate: Document | None) -> float | None:
    return None if estimate is None else estimate["value"]
