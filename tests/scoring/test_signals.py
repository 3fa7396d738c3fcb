"""All signals from one pass, and how two of them become what the allocation reads."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from fairdeploy.errors import DataError
from fairdeploy.graph.layers import score_points
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import PROTECTIONS, SIGNALS, ImageSet, ProtectName, SignalName
from fairdeploy.scoring import as_unit_scores, measure_signals, score_units
from fairdeploy.scoring.collector import collect
from fairdeploy.scoring.signals import reads_images
from fairdeploy.scoring.weights import weight_signal

NO_IMAGES = ImageSet(torch.zeros(0, 3, 8, 8), None, "none")
WITHOUT_IMAGES: tuple[SignalName, ...] = ("l1", "l2", "fpgm", "bn-scale", "random")


def test_one_pass_gives_what_a_pass_for_each_signal_gives(
    tiny_graph: UnitGraph, tiny_images: ImageSet
) -> None:
    done: list[int] = []
    together = measure_signals(
        tiny_graph, tiny_images, SIGNALS, seed=3, num_projections=4, progress=done.append
    )
    assert sum(done) == len(tiny_images)
    assert together.num_classes == 4
    for name in SIGNALS:
        alone = measure_signals(tiny_graph, tiny_images, [name], seed=3, num_projections=4)
        found, expected = together.by_name[name], alone.by_name[name]
        np.testing.assert_allclose(found.values, expected.values, rtol=1e-5, err_msg=name)
        assert (found.is_measured == expected.is_measured).all()


def test_signals_but_taylor_have_mean_one_in_layers_that_alone_make_their_units(
    tiny_graph: UnitGraph, tiny_images: ImageSet
) -> None:
    signals = measure_signals(tiny_graph, tiny_images, SIGNALS, seed=0, num_projections=4)
    (inner,) = (group for group in tiny_graph.groups if group.name == "inner")
    for name, measured in signals.by_name.items():
        if name not in ("taylor", "bn-scale"):
            assert measured.values[inner.units].mean() == pytest.approx(1), name
            assert (measured.values >= 0).all()


def refuse(_: int) -> None:
    pytest.fail("a batch was read")


def test_weights_need_no_images_and_no_pass(tiny_graph: UnitGraph) -> None:
    signals = measure_signals(tiny_graph, NO_IMAGES, WITHOUT_IMAGES, seed=0, progress=refuse)
    assert set(signals.by_name) == set(WITHOUT_IMAGES)
    scores = score_units(tiny_graph, NO_IMAGES, seed=0, signal="l1", protect="none")
    assert np.array_equal(scores.u, weight_signal(tiny_graph, "l1").values)
    assert scores.num_classes == 0


@pytest.mark.parametrize("name", [name for name in SIGNALS if name not in WITHOUT_IMAGES])
def test_other_signals_refuse_to_be_measured_on_nothing(
    tiny_graph: UnitGraph, name: SignalName
) -> None:
    assert reads_images(name)
    with pytest.raises(DataError, match="no images to score with"):
        measure_signals(tiny_graph, NO_IMAGES, [name], seed=0)


def test_the_defaults_are_the_u_score_and_the_r_score(
    tiny_graph: UnitGraph, tiny_images: ImageSet
) -> None:
    signals = measure_signals(
        tiny_graph, tiny_images, ["wasserstein", "taylor"], seed=0, num_projections=4
    )
    scores = score_units(tiny_graph, tiny_images, seed=0, num_projections=4)
    assert np.array_equal(scores.u, signals.by_name["wasserstein"].values)
    assert np.array_equal(scores.r, signals.by_name["taylor"].values)


def test_taylor_removes_in_the_order_in_which_it_protects(
    tiny_graph: UnitGraph, tiny_images: ImageSet
) -> None:
    scores = score_units(tiny_graph, tiny_images, seed=0, signal="taylor")
    for group in tiny_graph.groups:
        mean = scores.r[group.units].mean()
        np.testing.assert_allclose(scores.u[group.units], scores.r[group.units] / mean)


@pytest.mark.parametrize("protect", PROTECTIONS)
def test_every_protection_protects_with_finite_values(
    tiny_graph: UnitGraph, tiny_images: ImageSet, protect: ProtectName
) -> None:
    scores = score_units(
        tiny_graph, tiny_images, seed=0, signal="l2", protect=protect, num_projections=4
    )
    assert np.isfinite(scores.r).all()
    assert (scores.r >= 0).all()
    assert np.array_equal(scores.u, weight_signal(tiny_graph, "l2").values)
    if protect == "none":
        assert np.array_equal(scores.r, scores.u)


def test_random_scores_follow_the_seed(tiny_graph: UnitGraph) -> None:
    first, again, other = (
        measure_signals(tiny_graph, NO_IMAGES, ["random"], seed=seed).by_name["random"].values
        for seed in (5, 5, 6)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(np.unique(first)) == len(first)


def test_units_without_a_batch_norm_follow_what_protects(
    tiny_graph: UnitGraph, tiny_images: ImageSet
) -> None:
    scores = score_units(tiny_graph, tiny_images, seed=0, signal="bn-scale")
    by_name = {group.name: group.units for group in tiny_graph.groups}
    assert scores.num_unmeasured == len(by_name["inner"]) + len(by_name["hidden"])
    for name in ("inner", "hidden"):
        units = by_name[name]
        assert np.array_equal(np.argsort(scores.u[units]), np.argsort(scores.r[units]))
        assert scores.u[units].mean() == pytest.approx(1)


def test_where_nothing_else_protects_the_filters_norm_stands_in(
    tiny_graph: UnitGraph, tiny_images: ImageSet
) -> None:
    hidden = {name: dims for name, dims in tiny_graph.value_units.items() if "linear" not in name}
    graph = dataclasses.replace(tiny_graph, value_units=hidden)
    (units,) = (group.units for group in graph.groups if group.name == "hidden")
    norms = weight_signal(graph, "l2").values[units]
    pairs: list[tuple[SignalName, ProtectName]] = [("hrank", "none"), ("l1", "hrank")]
    for signal, protect in pairs:
        scores = score_units(graph, tiny_images, seed=0, signal=signal, protect=protect)
        assert np.array_equal(np.argsort(scores.r[units]), np.argsort(norms))


def test_a_pass_without_gradients_predicts_the_same_and_has_none(
    tiny_model: nn.Module, tiny_graph: UnitGraph, tiny_images: ImageSet
) -> None:
    unnamed = ImageSet(tiny_images.images, None, "predicted")
    forward = collect(tiny_graph, unnamed, [], with_gradients=False)
    both = collect(tiny_graph, unnamed, [])
    with torch.no_grad():
        assert torch.equal(forward.labels, tiny_model(tiny_images.images).argmax(1))
    torch.testing.assert_close(forward.top_logits, both.top_logits)
    assert not forward.products
    assert both.products
    assert torch.is_grad_enabled()


def test_any_pair_comes_from_one_measurement(tiny_graph: UnitGraph, tiny_images: ImageSet) -> None:
    signals = measure_signals(tiny_graph, tiny_images, SIGNALS, seed=0, num_projections=4)
    for signal in SIGNALS:
        for protect in PROTECTIONS:
            scores = as_unit_scores(tiny_graph, signals, signal, protect)
            assert scores.u.shape == scores.r.shape == (tiny_graph.num_units,)
            assert np.isfinite(scores.u).all()
    assert len(score_points(tiny_graph)) == 4
