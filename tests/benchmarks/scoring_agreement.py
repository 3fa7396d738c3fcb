"""Rank correlations between our scores and the reference's, layer by layer."""

from __future__ import annotations

import statistics
from collections import Counter

import numpy as np
from numpy.typing import NDArray
from scoring_reference import ReferenceScores
from torch import nn

from fairdeploy.graph.layers import score_points
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import ImageSet
from fairdeploy.scoring.collector import Collected, collect
from fairdeploy.scoring.projections import ProjectionStore
from fairdeploy.scoring.reconstruction import r_scores
from fairdeploy.scoring.utilization import class_members, point_distances

Scores = NDArray[np.float64]


def measured_modules(model: nn.Module) -> dict[str, str]:
    """Each scored convolution of a CIFAR ResNet and the module whose output shows its channels.

    After norm and activation, except before an addition, where it is after the norm: the values
    that our own score points read.
    """
    places = {"conv1": "relu"}
    for name, _ in model.named_modules():
        if name.endswith(".conv1"):
            places[name] = name.removesuffix("conv1") + "relu1"
        if name.endswith(".conv2"):
            places[name] = name.removesuffix("conv2") + "bn2"
    return places


def layer_agreement(
    graph: UnitGraph,
    images: ImageSet,
    reference: ReferenceScores,
    seed: int,
    num_projections: int,
) -> dict[str, dict[str, float]]:
    """Spearman's correlation per layer: of U, of R by weights, and of R as scored."""
    store = ProjectionStore.affordable(score_points(graph), len(images), num_projections, seed)
    collected = collect(graph, images, [store])
    u_by_layer = _u_by_layer(graph, store, collected)
    r = r_scores(graph, collected.products)
    num_layers = _num_layers(graph)
    layers = {}
    for name in reference.u:
        weight = f"{name}.weight"
        units = graph.tensor_units[weight][0]
        assert (units >= 0).all(), f"{name} has channels that cannot go"
        by_weight = np.abs(collected.products[weight, 0].numpy())
        layers[name] = {
            "u": spearman(u_by_layer[weight], reference.u[name].double().numpy()),
            "r_weights": spearman(by_weight, reference.r[name].double().numpy()),
            "r_scored": spearman(r[units], reference.r[name].double().numpy()),
            "is_coupled": float(max(num_layers[int(unit)] for unit in units) > 1),
        }
    return layers


def summary(layers: dict[str, dict[str, float]]) -> dict[str, float]:
    """Median and smallest correlation, for all layers and for those that nothing is coupled to."""
    totals: dict[str, float] = {}
    for key in ("u", "r_weights", "r_scored"):
        for kind, chosen in (
            ("all", list(layers.values())),
            ("uncoupled", [layer for layer in layers.values() if not layer["is_coupled"]]),
        ):
            values = [layer[key] for layer in chosen]
            totals[f"{key}_{kind}_median"] = statistics.median(values)
            totals[f"{key}_{kind}_min"] = min(values)
    return totals


def spearman(first: Scores, second: Scores) -> float:
    """Pearson's correlation of average ranks."""
    ranks = [_average_ranks(values) for values in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _average_ranks(values: Scores) -> Scores:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Scores = (last - (counts - 1) / 2)[inverse]
    return ranks


def _u_by_layer(
    graph: UnitGraph, store: ProjectionStore, collected: Collected
) -> dict[str, Scores]:
    """Distances before normalisation, in channel order, by the layer's weight name."""
    weights = {
        node.name: str(node.args[1].target)
        for node in graph.module.graph.nodes
        if len(node.args) > 1 and getattr(node.args[1], "op", "") == "get_attr"
    }
    members = class_members(collected.labels, collected.top_logits)
    by_layer = {}
    for point, distances in point_distances(store, members):
        in_channel_order = distances[np.argsort(point.positions[:, 0])]
        assert len(in_channel_order) == point.num_channels
        by_layer[weights[point.layer]] = in_channel_order
    return by_layer


def _num_layers(graph: UnitGraph) -> Counter[int]:
    """How many convolutions produce each unit."""
    counts: Counter[int] = Counter()
    for group in graph.groups:
        layers = [m for m in group.members if m.role == "produces" and "conv" in m.tensor]
        for unit in group.units:
            counts[int(unit)] = len(layers)
    return counts
