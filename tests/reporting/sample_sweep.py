"""An invented ``sweep.json``: the original, and three smaller networks with the knee in between."""

from __future__ import annotations

from typing import Any

EXACT: dict[str, Any] = {
    "max_relative_error": 3e-7,
    "limit": 1e-5,
    "passed": True,
    "num_coupled_norms": 0,
}
LONG_COMMAND = "fairdeploy shrink m.pt --budget params=50% --data " + "a-folder-of-images/" * 5


def sweep_document(
    *, has_accuracy: bool = True, has_latency: bool = True, knee: str | None = "params-50"
) -> dict[str, Any]:
    """Costs 1,000, 750, 500 and 200 parameters; the second network beats the original."""
    points = [
        _point("original", None, (1000, 50_000), 0.90, 0.02, None, 0.0, False),
        _point("params-75", "params=75%", (750, 40_000), 0.905, 0.02, 1.25, 0.05, True),
        _point("params-50", "params=50%", (500, 25_000), 0.89, 0.02, 2.0, 0.2, True),
        _point("params-20", "params=20%", (200, 9_000), 0.40, 0.03, 4.0, 0.8, True),
    ]
    for point in points:
        point["is_knee"] = point["name"] == knee
        point["accuracy"] = point["accuracy"] if has_accuracy else None
        point["difference"] = _difference(point["accuracy"]["value"]) if has_accuracy else None
        point["latency"] = point["latency"] if has_latency else None
    return {
        "schema_version": 1,
        "kind": "sweep",
        "command": "fairdeploy sweep m.pt",
        "seed": 0,
        "created_at": "2026-01-02T03:04:05+00:00",
        "model": {"name": "tinynet", "source": "m.pt", "sha256": "ab" * 32,
                  "input_shape": [3, 8, 8], "inputs": ["x"], "outputs": ["y"],
                  "fixed_batch": None},
        "metric": "params",
        "reachable": {"smallest": 199.0, "original": 1000.0},
        "quality": "accuracy" if has_accuracy else "r_mass_kept",
        "points": points,
        "knee": {
            "point": knee,
            "reason": "farthest above the line" if knee else "the line is straight",
            "command": LONG_COMMAND if knee else None,
            "closer_command": "fairdeploy sweep m.pt --at 69%,62%" if knee else None,
        },
        "recovery": "least_squares",
        "method": {"signal": "wasserstein", "protect": "taylor", "allocation": "tod",
                   "knob": "tolerance"},
        "channel_multiple": {"number": 16, "source": "measured", "is_cached": True},
        "notes": ["10% of the params is out of reach"],
        "num_test_images": 800 if has_accuracy else 0,
        "data": {"source": "images", "is_synthetic": False, "num_calibration": 60, "num_test": 60,
                 "label_source": "given"},
        "target": {"name": "cpu", "description": "this machine", "max_seconds": 5.0,
                   "batch": 1},
        "warnings": ["no class names were given"],
        "stage_seconds": {"score units": 2.0, "point 1 of 3": 3.0},
        "environment": {"cpu": "a chip", "cores": 2, "platform": "an OS", "python": "3.11",
                        "packages": {"torch": "2"}},
    }  # fmt: skip


def _difference(accuracy: float) -> dict[str, float]:
    """To the original, whose accuracy is 0.90, with one point of doubt."""
    value = accuracy - 0.90
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def _point(
    name: str,
    budget: str | None,
    costs: tuple[int, int],
    accuracy: float,
    half: float,
    speedup: float | None,
    r_mass: float,
    is_front: bool,
) -> dict[str, Any]:
    params, macs = costs
    return {
        "name": name,
        "budget": budget,
        "also_for": [],
        "plan": f"plans/{name}.json" if budget else None,
        "command": f"fairdeploy shrink m.pt --budget {budget}" if budget else None,
        "costs": {"params": params, "macs": macs, "size_bytes": 4 * params},
        "left": {"params": params / 1000, "macs": macs / 50_000, "size_bytes": params / 1000},
        "tolerance": 0.1 if budget else None,
        "num_removed_units": (1000 - params) // 10,
        "r_mass_removed_share": r_mass,
        "proof": EXACT if budget else None,
        "accuracy": {"value": accuracy, "low": accuracy - half, "high": accuracy + half},
        "latency": _latency(speedup) if speedup else None,
        "non_dominated": is_front,
        "is_knee": False,
        "seconds": 1.5,
    }


def _latency(speedup: float) -> dict[str, Any]:
    low, high = (0.95 * speedup, 1.05 * speedup) if speedup > 1.5 else (1.2, 1.3)
    return {
        "speedup": speedup, "speedup_low": low, "speedup_high": high, "left": 1 / speedup,
        "left_low": 1 / high, "left_high": 1 / low, "is_wide": speedup == 4.0,
        "is_too_busy": False,
        "original_ms": 2.0, "shrunk_ms": 2.0 / speedup,
    }  # fmt: skip
