"""Does a latency budget hold? Shrinks networks to shares of their latency, then measures again.

``python tests/benchmarks/latency_budgets.py --network timm:resnet18 timm:mobilenetv2_100`` shrinks
each network to each of ``--budgets`` and prints the share of the original's latency that the search
confirmed, with its interval; whether that is at or under the budget and within 3 % of it; the same
for the file that was written, exported anew and raced once more; how many plans were measured, and
what each cost. Images are noise: only latency counts here. A state dict comes as
``NAME=FILE@ARCHITECTURE@SIZE``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairdeploy.errors import FairdeployError
from fairdeploy.runs.shrink import shrink
from fairdeploy.settings.options import ShrinkOptions

CLOSE = 0.97


@dataclass(frozen=True, slots=True)
class Network:
    """What is shrunk."""

    name: str
    model: str
    arch: str | None = None
    size: int | None = None

    @classmethod
    def parsed(cls, text: str) -> Network:
        """``timm:NAME``, or ``NAME=FILE@ARCHITECTURE@SIZE``."""
        name, equals, rest = text.partition("=")
        if not equals:
            return cls(text.partition(":")[2], text)
        file, arch, size = rest.split("@")
        return cls(name, file, arch, int(size))


def main() -> None:
    """Print the table; write everything that was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", nargs="+", required=True)
    parser.add_argument("--budgets", nargs="+", default=["80%", "60%", "40%"])
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--blocks", action="store_true", help="let residual blocks go as a whole")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    heads = (
        "budget",
        "confirmed",
        "95 % interval",
        "hit",
        "again",
        "95 % interval",
        "hit",
        "plans",
    )
    print(_line("network", *heads, "make s", "time s"))
    for network in map(Network.parsed, arguments.network):
        for budget in arguments.budgets:
            row = budget_row(network, budget, arguments.target, blocks=arguments.blocks)
            rows.append(row)
            print(_shown(row), flush=True)
            if arguments.output:
                arguments.output.write_text(json.dumps(rows, indent=1) + "\n")
    for key, what in (("hit", "confirmed"), ("hit_again", "raced once more")):
        hits = sum(row.get(key, False) for row in rows)
        close = f"at or under the budget and within {1 - CLOSE:.0%} of it"
        print(f"{what}: {hits} of {len(rows)} {close}")


def budget_row(
    network: Network,
    budget: str,
    target: str,
    *,
    blocks: bool = False,
    look: Callable[[Path], dict[str, Any]] = lambda _: {},
) -> dict[str, Any]:
    """What a budget gave; ``look`` adds what it finds in the folder of the result."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            document = shrink(
                ShrinkOptions(
                    model=network.model, arch=network.arch, input_shape=network.size,
                    budgets=(f"latency={budget}",), target=target,
                    recover="none", num_calibration=32, output=Path(scratch) / "out", blocks=blocks,
                )
            ).document  # fmt: skip
            more = look(Path(scratch) / "out")
        except FairdeployError as error:
            return {"network": network.name, "budget": budget, "hit": False, "error": str(error)}
    found, search = document["budget"][0], document["latency_search"]
    confirmed = search["accepted"]
    limit = float(budget.rstrip("%")) / 100
    return {
        "network": network.name,
        "budget": budget,
        "hit": search["is_confirmed"] and CLOSE * limit <= confirmed["ratio"] <= limit,
        "hit_again": CLOSE * limit <= found["share"] <= limit,
        "confirmed": confirmed,
        **{key: found[key] for key in ("share", "share_low", "share_high", "got", "original")},
        "macs": document["model"]["shrunk"]["macs"] / document["model"]["original"]["macs"],
        "search": search,
        "latency": {k: v for k, v in document["latency"].items() if not k.endswith("raw_ms")},
        "environment": document["environment"],
        "stage_seconds": document["stage_seconds"],
        **more,
        "blocks_gone": [row["module"] for row in document["blocks"] if row["is_gone"]],
    }


def _shown(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['network']:<18} {row['budget']:>6}  {row['error']}"
    timed = [candidate["timed"] for candidate in row["search"]["candidates"]]
    seconds = [
        sum(each[key] for each in timed) / max(len(timed), 1)
        for key in ("seconds_to_make", "seconds_to_measure")
    ]
    confirmed = row["confirmed"]
    return _line(
        row["network"],
        row["budget"],
        f"{confirmed['ratio']:.1%}",
        f"{confirmed['ratio_low']:.1%} to {confirmed['ratio_high']:.1%}",
        "yes" if row["hit"] else "no",
        f"{row['share']:.1%}",
        f"{row['share_low']:.1%} to {row['share_high']:.1%}",
        "yes" if row["hit_again"] else "no",
        str(row["search"]["num_measured"]),
        *(f"{each:.1f}" for each in seconds),
    )


def _line(name: str, *cells: str) -> str:
    widths = (6, 9, 16, 4, 6, 16, 4, 5, 6, 6)
    return f"{name:<18} " + "  ".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))


if __name__ == "__main__":
    main()
