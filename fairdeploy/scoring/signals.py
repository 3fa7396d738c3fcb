"""Every signal that can say which units matter, and how any number of them is measured at once.

Signals need different things: some the weights, some the outputs of units, some gradients. One pass
over the images serves all that need any (but ``reconstruction``, which sums products of its own),
and there is none where nothing does. All have one direction: high for units that matter.

==================  ==========================================================  ==================
signal              a unit matters if                                           reads
==================  ==========================================================  ==================
``wasserstein``     its outputs differ between classes: the U-Score             outputs, classes
``l1``, ``l2``      its filters are large                                       weights
``fpgm``            its filters are far from the others                         weights
``bn-scale``        its batch norms scale it up                                 weights
``taylor``          the loss would change without it: the R-Score               gradients
``activation-mean`` its outputs are large                                       outputs
``apoz``            it fires often (1 - APoZ)                                   outputs
``hrank``           its maps have a high rank                                   outputs
``reconstruction``  the layers that read it cannot do without it, however they  inputs of layers
                    are refitted
``random``          chance says so: the floor that a signal has to beat         nothing
==================  ==========================================================  ==================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fairdeploy.errors import DataError
from fairdeploy.graph.layers import score_points
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import ImageSet, ProtectName, SignalName, UnitScores
from fairdeploy.scoring.activations import ChannelMeans, MapRanks, PointReader, firings, magnitudes
from fairdeploy.scoring.collector import collect
from fairdeploy.scoring.projections import ProjectionStore
from fairdeploy.scoring.readings import (
    Measured,
    Scores,
    divided_by_group_means,
    mean_over_layers,
    with_stand_in,
)
from fairdeploy.scoring.reconstructability import reconstruction_scores
from fairdeploy.scoring.reconstruction import r_scores
from fairdeploy.scoring.utilization import class_members, u_scores
from fairdeploy.scoring.weights import WeightSignal, weight_signal

DEFAULT_PROJECTIONS = 64
_OF_WEIGHTS: tuple[WeightSignal, ...] = ("l1", "l2", "fpgm", "bn-scale")
_STAND_IN: WeightSignal = "l2"


@dataclass(frozen=True, slots=True)
class Signals:
    """The signals that were asked for."""

    by_name: Mapping[SignalName, Measured]
    """``taylor`` in units of the loss; all others with mean 1 in each layer."""
    num_classes: int
    """Classes that ``wasserstein`` compared, 0 without it."""


def reads_images(*names: ProtectName | SignalName) -> bool:
    """Whether any of these signals needs images."""
    return any(name not in (*_OF_WEIGHTS, "random", "none") for name in names)


def measure_signals(
    graph: UnitGraph,
    images: ImageSet,
    names: Iterable[SignalName],
    *,
    seed: int,
    num_projections: int = DEFAULT_PROJECTIONS,
    progress: Callable[[int], None] | None = None,
) -> Signals:
    """Measure any signals in one pass; the graph's tensors and the user's model stay as they were.

    Args:
        graph: The network.
        images: With labels, or without: then the model's own predictions are the classes. May be
            none at all if no signal reads images.
        names: Each signal once, in any order.
        seed: Of the random directions and scores; same seed, same scores.
        num_projections: Random directions per unit for ``wasserstein``; wide networks get fewer.
        progress: Called with the number of images done, batch by batch.

    Raises:
        DataError: There are no images, or a label does not fit the model's outputs.
        UsageError: The network has no batch norms for ``bn-scale``.
    """
    wanted = set(names)
    found: dict[SignalName, Measured] = {
        name: weight_signal(graph, name) for name in _OF_WEIGHTS if name in wanted
    }
    if "random" in wanted:
        values = np.random.default_rng(seed).random(graph.num_units)
        found["random"] = divided_by_group_means(graph, values)
    num_classes = 0
    if reads_images(*wanted) and len(images) == 0:
        raise DataError("no images to score with; give at least one image of two classes each")
    if reads_images(*(wanted - {"reconstruction"})):
        from_pass, num_classes = _from_pass(graph, images, wanted, seed, num_projections, progress)
        found |= from_pass
        progress = None
    if "reconstruction" in wanted:
        found["reconstruction"] = Measured(
            *reconstruction_scores(graph, images, seed=seed, progress=progress)
        )
    return Signals(found, num_classes)


def _from_pass(
    graph: UnitGraph,
    images: ImageSet,
    wanted: set[SignalName],
    seed: int,
    num_projections: int,
    progress: Callable[[int], None] | None,
) -> tuple[dict[SignalName, Measured], int]:
    """What the outputs and gradients say, and how many classes were compared."""
    points, num_images = score_points(graph), len(images)
    means: dict[SignalName, ChannelMeans | MapRanks] = {}
    if "activation-mean" in wanted:
        means["activation-mean"] = ChannelMeans(points, magnitudes)
    if "apoz" in wanted:
        means["apoz"] = ChannelMeans(points, firings)
    if "hrank" in wanted:
        means["hrank"] = MapRanks(points, num_images)
    readers: list[PointReader] = [*means.values()]
    store = None
    if "wasserstein" in wanted:
        store = ProjectionStore.affordable(points, num_images, num_projections, seed)
        readers.append(store)
    collected = collect(
        graph, images, readers, with_gradients="taylor" in wanted, progress=progress
    )
    found = {
        name: mean_over_layers(graph.num_units, reader.readings()) for name, reader in means.items()
    }
    members = class_members(collected.labels, collected.top_logits) if store else []
    if store:
        found["wasserstein"] = u_scores(graph, store, members)
    if "taylor" in wanted:
        r = r_scores(graph, collected.products)
        found["taylor"] = Measured(r, np.ones(graph.num_units, dtype=np.bool_))
    return found, len(members)


def as_unit_scores(
    graph: UnitGraph, signals: Signals, signal: SignalName, protect: ProtectName
) -> UnitScores:
    """One of the measured signals to remove by, and one to protect by.

    A unit that a signal could not be measured of (no layer shows its output, or no batch norm
    scales it) has a rank within its group instead: for removal that of the protecting signal, so
    that the tolerance protects exactly what it should; for protection, and for removal where
    nothing else protects, that of the L2 norm of its filters.

    Args:
        graph: The network.
        signals: With both.
        signal: What is removed by; scaled to mean 1 in each layer or group.
        protect: What protects. ``taylor`` stays in units of the loss, so that groups compare; with
            ``none`` the removal signal protects too.
    """
    removal = signals.by_name[signal]
    if signal == "taylor":
        removal = divided_by_group_means(graph, removal.values)
    if protect == "none":
        u = _complete(graph, removal)
        return UnitScores(u, u, signals.num_classes, _num_unmeasured(removal))
    r = _complete(graph, signals.by_name[protect])
    u = with_stand_in(graph, removal, r)
    return UnitScores(u, r, signals.num_classes, _num_unmeasured(removal))


def _complete(graph: UnitGraph, measured: Measured) -> Scores:
    if measured.is_measured.all():
        return measured.values
    return with_stand_in(graph, measured, weight_signal(graph, _STAND_IN).values)


def _num_unmeasured(measured: Measured) -> int:
    return int((~measured.is_measured).sum())
