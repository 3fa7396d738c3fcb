"""Times a small network at several widths on the target, to see which channel counts are fast.

The network is a bottleneck: a 1x1 convolution from 64 channels to the width, a 3x3 convolution from
the width to itself, and a 1x1 convolution back, with ReLUs between them. So the width is input and
output of both kinds, as in a network that was shrunk everywhere. All widths are timed in turn, in
random order, so that drift and other load hit them alike; of the calls of each width the lower
quartile counts, since other load only adds. All that is done several times, with files that are
opened anew: where a session's buffers come to lie can make it some percent faster or slower for as
long as it lives.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from fairdeploy.deployment.exporter_api import Array, Exporter
from fairdeploy.graph.capture.capture import quiet_export
from fairdeploy.records import NetworkDims, TargetProfile, WidthTime

Clock = Callable[[], int]
"""Nanoseconds, monotonic."""

COUNTS = (
    32, 33, 34, 36, 37, 40, 41, 42, 44, 46, 47, 48, 51, 52, 54, 55, 56, 58, 59, 60, 62, 63, 64,
    67, 70, 72, 73, 76, 77, 80, 84, 86, 88, 91, 96,
)  # fmt: skip
"""From 32 to 96; for each power of two, counts that are spread over its places among 16."""
FEW_COUNTS = (32, 36, 37, 40, 43, 46, 48, 52, 54, 56, 59, 64, 80, 96)
"""For exporters that must export each width."""

OUTSIDE = 64
"""Channels before and after the middle."""
SIZE = 28
"""Height and width."""
MIN_ROUNDS = 10
MAX_ROUNDS = 60
MAX_SECONDS = 2.5
"""For each sweep."""
NUM_SWEEPS = 5
_NS_PER_MS = 1e6
_NS_PER_S = 1e9

_WIDTH = 0
_LENGTHS = (0, 2, OUTSIDE, 3, 1, SIZE)
"""Length of each numbered dimension: the width, the batch, and what does not change."""


def sweep_widths(
    exporter: Exporter,
    profile: TargetProfile,
    *,
    seed: int = 0,
    clock: Clock = time.perf_counter_ns,
) -> tuple[tuple[WidthTime, ...], ...]:
    """Milliseconds at each width, narrowest first, in each of the sweeps.

    Raises:
        ExportError: The exporter cannot write or run such a network.
    """
    batch = torch.randn((profile.batch, OUTSIDE, SIZE, SIZE), generator=_generator(seed))
    inputs = (batch.numpy(),)
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        files = list(_files(exporter, Path(folder)))
        sweeps = (_sweep(files, exporter, profile, inputs, rng, clock) for _ in range(NUM_SWEEPS))
        return tuple(sweeps)


def _sweep(
    files: Sequence[tuple[int, Path]],
    exporter: Exporter,
    profile: TargetProfile,
    inputs: tuple[Array, ...],
    rng: np.random.Generator,
    clock: Clock,
) -> tuple[WidthTime, ...]:
    """Open all files and time them in turn."""
    with ExitStack() as stack:
        calls = {}
        for width, file in files:
            runner = exporter.open(file, profile)
            stack.callback(runner.close)
            calls[width] = runner.run
        return time_in_turn(calls, inputs, rng, clock)


def time_in_turn(
    calls: Mapping[int, Callable[[tuple[Array, ...]], object]],
    inputs: tuple[Array, ...],
    rng: np.random.Generator,
    clock: Clock,
) -> tuple[WidthTime, ...]:
    """Call all in random order, again and again; the first round only warms up."""
    widths = sorted(calls)
    times: dict[int, list[float]] = {width: [] for width in widths}
    for width in widths:
        calls[width](inputs)
    deadline = clock() + MAX_SECONDS * _NS_PER_S
    for done in range(MAX_ROUNDS):
        if done >= MIN_ROUNDS and clock() >= deadline:
            break
        for index in rng.permutation(len(widths)):
            start = clock()
            calls[widths[index]](inputs)
            times[widths[index]].append((clock() - start) / _NS_PER_MS)
    return tuple(WidthTime(width, float(np.percentile(times[width], 25))) for width in widths)


def _files(exporter: Exporter, folder: Path) -> Iterator[tuple[int, Path]]:
    """A file for each width: cut from one where the exporter can, else exported one by one."""
    widest, narrowest = max(COUNTS), min(COUNTS)
    ends = _exported(exporter, folder, widest), _exported(exporter, folder, narrowest)
    lengths = _lengths(widest), _lengths(narrowest)
    template = exporter.width_template(*ends, _dims(), lengths)
    for width in COUNTS if template is not None else FEW_COUNTS:
        if template is None:
            yield width, _exported(exporter, folder, width)
        else:
            file = folder / f"cut-{width}{exporter.file_suffix}"
            template.write(file, _lengths(width))
            yield width, file


def _exported(exporter: Exporter, folder: Path, width: int) -> Path:
    file = folder / f"width-{width}{exporter.file_suffix}"
    if not file.exists():
        example = (torch.zeros(2, OUTSIDE, SIZE, SIZE),)
        exporter.export(_network(width), example, file, dynamic_batch=True, metadata={})
    return file


def _network(width: int) -> fx.GraphModule:
    network = nn.Sequential(
        nn.Conv2d(OUTSIDE, width, 1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, OUTSIDE, 1),
    )
    generator = _generator(width)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    example = (torch.zeros(2, OUTSIDE, SIZE, SIZE),)
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    with quiet_export():
        exported = torch.export.export(network.eval(), example, dynamic_shapes=shapes)
        module = exported.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    return module


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _lengths(width: int) -> NDArray[np.int64]:
    return np.array([width, *_LENGTHS[1:]], dtype=np.int64)


def _dims() -> NetworkDims:
    """The dimensions of ``_network``, by their places in ``_LENGTHS``."""
    image, middle = (1, 2, 5, 5), (1, _WIDTH, 5, 5)
    return NetworkDims(
        tensors={
            "0.weight": (_WIDTH, 2, 4, 4), "0.bias": (_WIDTH,),
            "2.weight": (_WIDTH, _WIDTH, 3, 3), "2.bias": (_WIDTH,),
            "4.weight": (2, _WIDTH, 4, 4), "4.bias": (2,),
        },
        nodes={
            "conv2d": (*middle, *image), "relu": middle, "conv2d_1": middle, "relu_1": middle,
            "conv2d_2": (*image, *middle),
        },
        padded={},
    )  # fmt: skip
