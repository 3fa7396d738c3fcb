"""What was measured on the shrunk network: accuracy, latency, and agreement with torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fairdeploy.records import DeviceRecord, LatencyComparison, LatencyStats
from fairdeploy.reporting.accuracy_rows import STEPS, fidelity_rows
from fairdeploy.reporting.chain import agreement_titles
from fairdeploy.reporting.page.charts import axis_labels, interval_bar, latency_histogram
from fairdeploy.reporting.page.markup import NOTHING, Html, join, pill, section, table, tag
from fairdeploy.reporting.quantities import (
    NO_CLAIM,
    error_text,
    factor,
    milliseconds,
    percent,
    seconds,
    size,
)

Row = Mapping[str, Any]
# Beyond this percentile single slow calls would squeeze the rest of the histogram together.
_HISTOGRAM_PERCENTILE = 98


def accuracy(document: Row) -> Html:
    """Accuracy of each stage with its interval, on one axis."""
    estimates = {
        stage: document["accuracy"][stage] for stage in STEPS if document["accuracy"].get(stage)
    }
    if not estimates:
        found = document.get("not_judged")
        return section(
            "Accuracy",
            _not_judged(found) if found else NOTHING,
            _fidelity(document),
            _recovery_line(document["recovery"]),
            lead=f"Not judged: {found['reason']}."
            if found
            else "Not measured: it needs labelled images that were not used for calibration.",
        )
    low = min(row["low"] for row in estimates.values())
    high = max(row["high"] for row in estimates.values())
    margin = max(0.02, 0.08 * (high - low))
    scale = (max(low - margin, 0.0), min(high + margin, 1.0))
    labels = [percent(x, 0) for x in np.linspace(*scale, 3)]
    return section(
        "Accuracy",
        tag(
            "div",
            *(_accuracy_row(stage, row, scale) for stage, row in estimates.items()),
            tag("div", tag("span", class_="label"), axis_labels(scale, labels), class_="row"),
            class_="rows wide",
        ),
        _recovery_line(document["recovery"]),
        lead=f"Share of right answers on {document['accuracy']['num_images']:,} test images that "
        "were used for nothing else; the bar is the 95 % Wilson interval.",
    )


def _fidelity(document: Row) -> Html:
    """How much the network gives what the original gives."""
    titles, rows = fidelity_rows(document)
    if not rows:
        return NOTHING
    told = document["fidelity"]
    text = (
        f"How far output '{told['main_output']}' is from the original's on {told['num_images']:,} "
        f"{told['images']} images: the root mean square of the difference, as a share of that of "
        "the original's output about its mean, with the 95 % interval of images drawn again."
    )
    return join([tag("p", text), table(titles, rows)])


def _not_judged(found: Row) -> Html:
    """The remedy, and how the original did on images that were prepared in other ways."""
    rows = [
        (row["options"] or "as in this run", percent(row["accuracy"]), _deviations(row))
        for row in found["trials"]
    ]
    headers = ("prepared with", "images right", "first norm off by")
    advice = tag("p", f"What to do: {found['remedy']}.")
    return join([advice, table(headers, rows)]) if rows else advice


def _deviations(row: Row) -> str:
    distance = row["norm_distance"]
    return "" if distance is None else f"{distance:.2g} deviations"


def latency(comparison: LatencyComparison | None) -> Html:
    """Distributions of both networks on one axis, percentiles and the conditions."""
    if comparison is None:
        return section("Latency", lead="Not measured.")
    both = (("original", comparison.original), ("shrunk", comparison.shrunk))
    scale = _latency_scale([stats for _, stats in both])
    ticks = [milliseconds(x) for x in np.linspace(*scale, 3)]
    return section(
        "Latency",
        tag(
            "div",
            *(_distribution(kind, stats, scale) for kind, stats in both),
            axis_labels(scale, ticks),
            class_="latency",
        ),
        _latency_table(comparison),
        _latency_facts(comparison),
        lead=f"{NO_CLAIM if comparison.is_too_busy else factor(comparison.speedup) + ' as fast'} "
        "(95 % interval "
        f"{factor(comparison.speedup_low)} to {factor(comparison.speedup_high)}), from "
        f"{len(comparison.original.raw_ms):,} pairs of calls in turn, batch {comparison.batch}."
        + (" The machine was not quiet: take this with care." if comparison.is_noisy else ""),
    )


def artifacts(document: Row) -> Html:
    """The written files with their hashes, and how closely each exported one follows torch."""
    files, agreement = document["artifacts"], agreement_titles(document, document["parity"])
    if not files:
        return section("Files", lead="Nothing was exported.")
    return section(
        "Files",
        *map(_artifact, files),
        _parity_table(document["parity"], agreement),
        lead="With SHA-256, to check what arrives on the device."
        + "".join(f" {document['task']['agreement_means']}" for _ in agreement),
    )


def _artifact(file: Row) -> Html:
    facts = f"{file['format']}, {file['precision']}, {size(file['size_bytes'])}"
    return tag(
        "div",
        tag("b", file["path"]),
        tag("span", facts),
        tag("span", file["sha256"], class_="hash mono"),
        class_="file",
    )


def _accuracy_row(stage: str, row: Row, scale: tuple[float, float]) -> Html:
    kind = "original" if stage == "original" else "shrunk"
    interval = f"{percent(row['low'])} to {percent(row['high'])}"
    label = f"{STEPS[stage]}: {percent(row['value'])}, 95 % interval {interval}"
    return tag(
        "div",
        tag("span", STEPS[stage], class_="label"),
        interval_bar((row["low"], row["value"], row["high"]), scale, label, kind),
        tag("span", tag("b", percent(row["value"])), class_="figure", title=interval),
        class_="row",
    )


def _recovery_line(recovery: Row | None) -> Html:
    if recovery is None:
        return tag("p", "The network was not repaired after removal.")
    method = {
        "least_squares": "least squares, layer by layer",
        "batchnorm": "new batch-norm statistics",
    }.get(recovery["method"], recovery["method"])
    outcomes = [layer["outcome"] for layer in recovery["layers"]]
    fitted = f", {outcomes.count('fitted')} of {len(outcomes)} layers refitted" if outcomes else ""
    return tag(
        "p",
        f"Repaired without training: {method}{fitted}, from {recovery['num_images']:,} images "
        f"in {seconds(recovery['seconds'])}.",
        class_="after",
    )


def _latency_scale(both: Sequence[LatencyStats]) -> tuple[float, float]:
    low = min(min(stats.raw_ms) for stats in both)
    high = max(float(np.percentile(stats.raw_ms, _HISTOGRAM_PERCENTILE)) for stats in both)
    margin = 0.05 * (high - low) or 0.05 * high
    return max(low - margin, 0.0), high + margin


def _distribution(kind: str, stats: LatencyStats, scale: tuple[float, float]) -> Html:
    beyond = sum(time > scale[1] for time in stats.raw_ms)
    note = f"median {milliseconds(stats.median_ms)}"
    if beyond:
        note += f", {beyond} slower than shown"
    chart = latency_histogram(
        stats.raw_ms, scale, stats.median_ms, f"latencies of the {kind} network: {note}", kind
    )
    return join((tag("div", tag("b", kind), tag("span", note), class_="who"), chart))


def _latency_table(comparison: LatencyComparison) -> Html:
    keys = (("median", "median_ms"), ("p90", "p90_ms"), ("p99", "p99_ms"),
            ("cold start", "cold_start_ms"))  # fmt: skip
    pairs = [
        (label, getattr(comparison.original, key), getattr(comparison.shrunk, key))
        for label, key in keys
    ]
    idle = comparison.idle_gap
    if idle is not None:
        label = f"median, {idle.gap_ms:g} ms apart"
        pairs.append((label, idle.original.median_ms, idle.shrunk.median_ms))
    rows = (
        (
            label,
            milliseconds(before),
            milliseconds(after),
        )
        for label, before, after in pairs
    )
    return table(("per call", "original", "shrunk"), rows)


def _latency_facts(comparison: LatencyComparison) -> Html:
    threads = "all cores" if comparison.threads == 0 else str(comparison.threads)
    return tag(
        "p",
        f"Target {comparison.target}, {', '.join(comparison.providers)}, threads: {threads}, "
        f"load average {comparison.load_average:.1f}. Stopped because "
        f"{comparison.stopped_because}.{_device_facts(comparison.device)}",
        class_="lead after",
    )


def _device_facts(device: DeviceRecord | None) -> str:
    """The device, its clocks and surroundings, as far as it tells."""
    if device is None:
        return ""
    clocks = [
        f"{name} {mhz:.0f} MHz"
        for name, mhz in (("clock", device.clock_mhz), ("at most", device.max_clock_mhz))
        if mhz is not None
    ]
    governor = [f"governor {device.governor}"] if device.governor else []
    versions = [f"{name} {version}" for name, version in device.versions.items()]
    cores = f"{device.cores} cores"
    parts = (device.cpu, cores, *governor, *clocks, device.surroundings, *versions)
    return f" Measured on {', '.join(parts)}."


def _parity_table(parity: Sequence[Row], agreement: tuple[str, ...]) -> Html:
    if not parity:
        return NOTHING
    rows = (
        (
            join((row["artifact"], " ", _parity_pill(passed=row["passed"]))),
            " ".join(filter(None, (str(row["batch"]), row.get("image_size")))),
            join(
                (
                    error_text(row["max_relative_error"]),
                    tag("span", f"limit {error_text(row['limit'])}", class_="under"),
                )
            ),
            *(percent(row["top1_agreement"], 0) for _ in agreement),
        )
        for row in parity
    )
    headers = ("agreement with torch", "batch", "error", *agreement)
    return tag("div", table(headers, rows), class_="after")


def _parity_pill(*, passed: bool) -> Html:
    return pill("agrees", is_good=True) if passed else pill("differs", is_good=False)
