"""Runs tests as other processors would: with other kernels, other threads, another hash seed.

``python -m tests.kernels`` runs the whole suite under every setting; arguments go to pytest as they
are (``python -m tests.kernels tests/scoring -n auto``). ``--sample`` runs those tests alone whose
results come closest to hanging on the last digits of a sum. The exit status is 1 if any run fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "a processor of 2008, two threads": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
        "OMP_NUM_THREADS": "2",
        "PYTHONHASHSEED": "1",
    },
    "a processor with AVX2, one thread": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "2",
    },
}
"""Variables that torch, oneDNN, MKL, OpenBLAS and NumPy read; what a processor does not know stays
out of them without harm."""

SAMPLE = (
    "tests/allocation/test_portable_plans.py",
    "tests/allocation/test_tolerance.py",
    "tests/deployment/test_channel_multiples.py",
    "tests/graph/test_near_ties.py",
    "tests/recovery/test_fitted_weights.py",
    "tests/recovery/test_least_squares.py",
    "tests/recovery/test_normal_equations.py",
    "tests/scoring/test_elimination.py",
    "tests/scoring/test_utilization.py",
    "tests/scoring/test_weights.py",
)


def main(arguments: list[str]) -> int:
    """Every setting in a process of its own, since libraries choose their kernels once."""
    if "--sample" in arguments:
        arguments = [argument for argument in arguments if argument != "--sample"] + [*SAMPLE]
    failed = []
    for name, variables in SETTINGS.items():
        print(f"--- {name}: {' '.join(f'{key}={value}' for key, value in variables.items())}")
        sys.stdout.flush()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=Path(__file__).parents[1], env={**os.environ, **variables}, check=False,
        )  # fmt: skip
        if done.returncode:
            failed.append(name)
    print("\n".join(f"failed: {name}" for name in failed) or "all settings passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
