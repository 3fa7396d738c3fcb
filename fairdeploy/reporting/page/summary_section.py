"""The top of the page: what came out, and whether every check passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairdeploy.records.metrics import COUNTED, METRICS
from fairdeploy.reporting.accuracy_rows import STEPS
from fairdeploy.reporting.page.markup import NOTHING, Html, pill, section, table, tag
from fairdeploy.reporting.quantities import (
    amount,
    as_fast,
    budget_verdict,
    error_text,
    factor,
    percent,
    points,
    share_of,
    size,
)

Document = Mapping[str, Any]
"""The tree of ``report.json``."""


def header(document: Document) -> Html:
    """Title, verdict, and what changes the meaning of the result."""
    return tag(
        "header",
        tag("p", "fairdeploy report", class_="overline"),
        tag("h1", title(document)),
        _verdict(document),
        warnings(document["warnings"]),
    )


def tiles(document: Document) -> Html:
    """One tile for each thing that was promised."""
    return tag(
        "div",
        *(_budget_tile(row) for row in document["budget"]),
        _accuracy_tile(document),
        _latency_tile(document["latency"]),
        _proof_tile(document["proof"]),
        _norms_tile(document["proof"]),
        _parity_tile(document["parity"]),
        _size_tile(document),
        class_="tiles",
    )


def title(document: Document) -> str:
    """``resnet56 with 39.82 % of its parameters``."""
    model = document["model"]
    share = share_of(model["shrunk"]["params"], model["original"]["params"])
    return f"{model['name']} with {percent(share, 2)} of its parameters"


def failed_checks(document: Document) -> list[str]:
    """Names of the checks that did not pass."""
    failed = [
        f"{METRICS[row['metric']].words} budget" for row in document["budget"] if not row["met"]
    ]
    gate = document["max_drop"]
    if gate and not gate["passed"]:
        failed.append(f"drop of accuracy on the {gate['images']} images")
    if not document["proof"]["passed"]:
        failed.append("proof of exact removal")
    failed += [
        f"parity of {row['artifact']} at batch {row['batch']}"
        for row in document["parity"]
        if not row["passed"]
    ]
    return failed


def _verdict(document: Document) -> Html:
    failed = failed_checks(document)
    if failed:
        return tag("p", pill("failed", is_good=False), f" {', '.join(failed)}")
    has_coupled_norms = bool(document["proof"]["num_coupled_norms"])
    exact = "the removal is proved exact" + (", layer norms apart" if has_coupled_norms else "")
    promises = [*(["the budget is met"] if document["budget"] else []), exact]
    if document["max_drop"]:
        promises.append("the accuracy stays within the drop allowed")
    if document["parity"]:
        promises.append("the exported file agrees with torch")
    if document.get("not_judged"):
        promises.append("the accuracy could not be judged")
        return tag("p", pill("not judged", is_good=False), f" {'; '.join(promises)}.")
    return tag(
        "p",
        pill("every check passed", is_good=True),
        f" {'; '.join(promises)}.",
    )


def warnings(texts: Sequence[str]) -> Html:
    """What the user was warned of, set apart; nothing where there is none."""
    if not texts:
        return NOTHING
    items = (tag("li", text) for text in texts)
    return tag("section", tag("h2", "Please note"), tag("ul", *items), class_="warnings")


def tile(name: str, value: str, note: str, *, verdict: Html = NOTHING) -> Html:
    """A card with one large value and what it means."""
    return tag(
        "div",
        tag("div", tag("span", name), verdict, class_="name"),
        tag("div", value, class_="value"),
        tag("div", note, class_="note"),
        class_="tile",
    )


def _budget_tile(row: Document) -> Html:
    metric = row["metric"]
    original, got = amount(metric, row["original"]), amount(metric, row["got"])
    name = METRICS[metric].words
    return tile(
        name[0].upper() + name[1:],
        percent(share_of(row["got"], row["original"]), 2),
        f"{got} of {original}; at most {amount(metric, row['allowed'])} asked ({row['asked']})",
        verdict=pill(budget_verdict(row), is_good=row["met"]),
    )


def _accuracy_tile(document: Document) -> Html:
    accuracy = document["accuracy"]
    before = accuracy["original"]
    _, *later = STEPS
    after = next((accuracy[step] for step in reversed(later) if accuracy.get(step)), None)
    found = document.get("not_judged")
    if found:
        return tile("Accuracy", "not judged", f"{found['reason']}.")
    if not before or not after:
        return tile("Accuracy", "not measured", "No labelled test images were given.")
    return tile(
        "Accuracy",
        f"{percent(before['value'])} → {percent(after['value'])}",
        f"{points(after['value'] - before['value'])} on {accuracy['num_images']:,} test images; "
        f"95 % interval {percent(after['low'])} to {percent(after['high'])}",
    )


def _latency_tile(latency: Document | None) -> Html:
    if latency is None:
        return tile("Speed", "not measured", "Latency measurement was switched off.")
    return tile(
        "Speed",
        as_fast(latency),
        f"95 % interval {factor(latency['speedup_low'])} to {factor(latency['speedup_high'])}"
        f"{_speed_remark(latency)}; target {latency['target']}, batch {latency['batch']}",
        verdict=pill("noisy", is_good=False) if latency["is_noisy"] else NOTHING,
    )


def _speed_remark(latency: Document) -> str:
    low, high = latency["speedup_low"], latency["speedup_high"]
    if low is None or high is None or low > 1 or latency["is_too_busy"]:
        return ""
    return ": slower than the original" if high < 1 else ": no clear difference"


def _proof_tile(proof: Document) -> Html:
    return tile(
        "Exact removal",
        error_text(proof["max_relative_error"]),
        f"Largest relative difference to the original with the removed units at zero; "
        f"limit {error_text(proof['limit'])}"
        + ("; in float64" if proof.get("precision") == "float64" else ""),
        verdict=pill("proved", is_good=True) if proof["passed"] else pill("failed", is_good=False),
    )


def _norms_tile(proof: Document) -> Html:
    count = proof["num_coupled_norms"]
    if not count:
        return NOTHING
    return tile(
        "Not exact",
        error_text(proof["norm_coupled_difference"]),
        f"{count} layer norms take their statistics over fewer channels, as allowed: this is what "
        "that alone changes of the outputs before repair, relative to the largest. The proof "
        "covers everything else.",
        verdict=pill("allowed", is_good=False),
    )


def _parity_tile(parity: list[Document]) -> Html:
    if not parity:
        return tile("Exported file", "not checked", "Nothing was exported.")
    worst = max(
        parity,
        key=lambda row: (
            float("inf") if row["max_relative_error"] is None else row["max_relative_error"]
        ),
    )
    batches = sorted({row["batch"] for row in parity})
    passed = all(row["passed"] for row in parity)
    return tile(
        "Exported file",
        error_text(worst["max_relative_error"]),
        f"Largest relative difference to torch at batch {' and '.join(map(str, batches))}; "
        f"limit {error_text(worst['limit'])}",
        verdict=pill("agrees", is_good=True) if passed else pill("differs", is_good=False),
    )


def _size_tile(document: Document) -> Html:
    if any(row["metric"] == "size" for row in document["budget"]):
        return NOTHING  # a budget's tile tells it already
    original = document["model"]["original"]["size_bytes"]
    shrunk = document["model"]["shrunk"]["size_bytes"]
    return tile(
        "Weights",
        f"{size(original)} → {size(shrunk)}",
        f"{percent(share_of(shrunk, original))} of the bytes",
    )


def network_table(document: Document) -> Html:
    """Parameters, MACs and bytes of both networks."""
    original, shrunk = document["model"]["original"], document["model"]["shrunk"]
    rows = [
        (METRICS[metric].title[0].upper() + METRICS[metric].title[1:],
         amount(metric, original[METRICS[metric].key]), amount(metric, shrunk[METRICS[metric].key]),
         percent(share_of(shrunk[METRICS[metric].key], original[METRICS[metric].key])))
        for metric in COUNTED
    ]  # fmt: skip
    return section(
        "The network",
        table(("", "original", "shrunk", "kept"), rows),
        lead="A MAC is one multiplication with its addition; FLOPs are twice as many.",
    )
