"""Vectors that say who is who: found by the nearest, told apart by a threshold."""

from __future__ import annotations

import pytest
import torch

from fairdeploy.errors import DataError
from fairdeploy.records import DataSplits, ImageSet, Preprocessing
from fairdeploy.tasks import task_for
from fairdeploy.tasks.base import Original
from fairdeploy.tasks.embedding import Embedding

ANGLES = torch.tensor([0.0, 10, 90, 100, 200, 205, 300, 95])
WHO = torch.tensor([0, 0, 1, 1, 2, 2, 3, 0])
VECTORS = torch.stack([ANGLES.deg2rad().cos(), ANGLES.deg2rad().sin()], 1) * 3.0
TASK = Embedding()


def test_the_nearest_other_image_is_who_one_is() -> None:
    kept = TASK.kept(VECTORS)
    torch.testing.assert_close(kept.norm(dim=1), torch.ones(8))
    # The last is nearest to 1's, and they to it; 3 comes up once and does not count.
    found = TASK.quality(kept, WHO)
    assert found.value == pytest.approx(4 / 7)
    assert found.low < found.value < found.high
    assert TASK.baseline(WHO) == pytest.approx((3 * 2 + 2 + 2) / 7 / 7)


def test_true_accepts_are_those_above_the_threshold() -> None:
    # Of 23 pairs of two 1 % is none, so the threshold lies above cos 5°: only the pair of 2.
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(20, 16, generator=generator)
    who = torch.arange(200) % 20
    vectors = centres[who] + 0.6 * torch.randn(200, 16, generator=generator)
    kept = TASK.kept(vectors)
    cosines, same = (kept @ kept.T).double(), who[:, None] == who[None]
    apart = cosines[~same]
    limit = apart.kthvalue(int(0.99 * len(apart))).values
    pairs = cosines[same & ~torch.eye(200, dtype=torch.bool)]
    expected = float((pairs > limit).double().mean())
    assert 0.2 < expected < 0.99
    assert TASK.second_quality(kept, who).value == pytest.approx(expected, abs=0.01)
    worse = TASK.kept(vectors + 2 * torch.randn(200, 16, generator=generator))
    change = TASK.second_difference(kept, worse, who)
    assert change.high < 0


def test_more_images_than_a_chunk_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = TASK.kept(VECTORS)
    whole = TASK.figures(kept, WHO)
    monkeypatch.setattr("fairdeploy.tasks.embedding._CHUNK", 3)
    assert all(torch.equal(value, whole[name]) for name, value in TASK.figures(kept, WHO).items())


def test_loss_falls_where_likes_come_closer() -> None:
    vectors = VECTORS.clone().requires_grad_()
    before = TASK.loss(vectors, WHO)
    (gradient,) = torch.autograd.grad(before, vectors)
    assert TASK.loss(vectors - gradient, WHO) < before
    assert TASK.loss(vectors, None).requires_grad
    assert TASK.loss(vectors, torch.arange(8)).requires_grad, "nobody comes up twice"
    vectors = vectors.detach()
    assert float(TASK.divergence(vectors, 7 * vectors)) == pytest.approx(0, abs=1e-5)
    assert float(TASK.divergence(vectors, -vectors)) == pytest.approx(16, abs=1e-5)


def test_only_the_user_can_say_that_numbers_are_identities() -> None:
    assert task_for(VECTORS, WHO, None).words.name == "classification"
    assert task_for(VECTORS, WHO, "embedding").words.name == "embedding"
    assert task_for(VECTORS, None, "embedding").words.name == "embedding"
    with pytest.raises(DataError, match=r"do not fit outputs .* as --task embedding, which takes"):
        task_for(VECTORS, WHO / 3, "embedding")


def test_identities_that_come_up_once_tell_nothing() -> None:
    images = ImageSet(torch.zeros(8, 1, 2, 2), torch.arange(8), "given")
    data = DataSplits(images, images, None, "", "")
    original = Original(
        lambda _: VECTORS, lambda _: None, None, Preprocessing(1, 2, 2, (0.0,), (1.0,)), 2
    )
    with pytest.raises(DataError, match=r"none of the 8 test images shows an identity that"):
        TASK.checked(data, original, names_are_given=False)
