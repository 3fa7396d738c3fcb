from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fairdeploy.scoring import reconstructability as elimination
from fairdeploy.scoring.reconstructability import AdaptingLayer, Inputs, elimination_costs


def random_layer(seed: int, num_inputs: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(num_inputs, num_inputs, generator=generator, dtype=torch.float64)
    rows = torch.randn(500, num_inputs, generator=generator, dtype=torch.float64) @ mixing
    return rows, torch.randn(num_inputs, 3, generator=generator, dtype=torch.float64)


def pairs_of_inputs(num_units: int) -> Inputs:
    return Inputs(np.arange(num_units), torch.arange(2 * num_units).reshape(num_units, 2))


def error_without(rows: Tensor, weight: Tensor, gone: list[int]) -> float:
    """Share of the outputs' energy that no weights of the remaining inputs give."""
    left = [i for i in range(rows.shape[1]) if i not in gone]
    wanted = (rows @ weight).numpy()
    _, residual, *_ = np.linalg.lstsq(rows[:, left].numpy(), wanted)
    return float(residual.sum() / np.square(wanted).sum())


@pytest.fixture(autouse=True)
def no_damping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elimination, "DAMPING", 1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_cost_is_what_the_best_weights_without_the_unit_still_get_wrong(seed: int) -> None:
    rows, weight = random_layer(seed)
    layer = AdaptingLayer(rows.T @ rows, weight, [pairs_of_inputs(4)])
    costs = layer.costs(np.ones(4, dtype=np.bool_))
    for unit in range(4):
        expected = error_without(rows, weight, [2 * unit, 2 * unit + 1])
        assert costs[unit] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_later_units_are_judged_after_the_layer_has_adapted(seed: int) -> None:
    rows, weight = random_layer(seed)
    layer = AdaptingLayer(rows.T @ rows, weight, [pairs_of_inputs(4)])
    scores = elimination_costs([layer], 4)
    order = np.argsort(scores)
    gone: list[int] = []
    for unit in order[:3]:
        gone += [2 * unit, 2 * unit + 1]
        # Scores are running sums, hence the whole error so far.
        assert scores[unit] == pytest.approx(error_without(rows, weight, gone), rel=1e-6)
        others = [error_without(rows, weight, [*gone[:-2], 2 * u, 2 * u + 1]) for u in order
                  if 2 * u not in gone]  # fmt: skip
        assert error_without(rows, weight, gone) <= min(others)


def test_of_two_copies_one_is_free_and_the_other_is_not() -> None:
    rows, weight = random_layer(0, num_inputs=4)
    rows[:, 3] = rows[:, 1]
    layer = AdaptingLayer(
        rows.T @ rows, weight, [Inputs(np.arange(4), torch.arange(4).reshape(4, 1))]
    )
    scores = elimination_costs([layer], 4)
    first, second = sorted((scores[1], scores[3]))
    assert first < 1e-6
    assert second > 1e-2


def test_units_of_several_layers_and_sizes_cost_the_sum() -> None:
    rows, weight = random_layer(1)
    parts = [
        Inputs(np.array([0]), torch.tensor([[0, 1, 2]])),
        Inputs(np.array([1, 2]), torch.tensor([[3], [4]])),
    ]
    layers = [AdaptingLayer(rows.T @ rows, factor * weight, parts) for factor in (1.0, 7.0)]
    is_left = np.ones(3, dtype=np.bool_)
    costs = layers[0].costs(is_left) + layers[1].costs(is_left)
    assert costs[0] == pytest.approx(2 * error_without(rows, weight, [0, 1, 2]), rel=1e-6)
    assert costs[2] == pytest.approx(2 * error_without(rows, weight, [4]), rel=1e-6)
    for layer in layers:
        layer.remove(np.array([0]))
    after = layers[0].costs(np.array([False, True, True]))
    assert after[0] == 0
    assert after[1] == pytest.approx(
        error_without(rows, weight, [0, 1, 2, 3]) - error_without(rows, weight, [0, 1, 2]), rel=1e-6
    )
