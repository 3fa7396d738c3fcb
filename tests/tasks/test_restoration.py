"""Pictures made of pictures: their scale is found, their likeness is what others measure."""

from __future__ import annotations

import pytest
import torch

from fairdeploy.errors import DataError
from fairdeploy.records import DataSplits, ImageSet, Preprocessing
from fairdeploy.tasks import task_for
from fairdeploy.tasks.base import Original
from fairdeploy.tasks.restoration import Restoration, scaled_restoration

GENERATOR = torch.Generator().manual_seed(0)
WANTED = torch.rand(6, 3, 24, 20, generator=GENERATOR)
NOISE = torch.randn(6, 3, 24, 20, generator=GENERATOR)


def test_equal_pictures_are_perfect() -> None:
    task = Restoration()
    kept = task.kept(WANTED)
    assert task.quality(kept, WANTED).value == pytest.approx(1.0, abs=1e-6)
    assert task.second_quality(kept, WANTED).value == pytest.approx(120)


def test_psnr_and_ssim_of_known_pictures() -> None:
    grey = torch.full((2, 1, 16, 16), 0.5)
    task, off = Restoration(), grey + 0.1
    assert task.second_quality(task.kept(off), grey).value == pytest.approx(20.0, abs=1e-3)
    # Without any variance only the means count: (2ab + c1) / (a² + b² + c1).
    expected = (2 * 0.5 * 0.6 + 1e-4) / (0.25 + 0.36 + 1e-4)
    assert task.quality(task.kept(off), grey).value == pytest.approx(expected, abs=1e-4)


def test_ssim_is_that_of_torchmetrics() -> None:
    measured = pytest.importorskip("torchmetrics.functional.image")
    ours = (WANTED + 0.1 * NOISE).clamp(0, 1)
    found = Restoration().figures(ours, WANTED)
    theirs = measured.structural_similarity_index_measure(ours, WANTED, data_range=1.0)
    assert float(found["ssim"].mean()) == pytest.approx(float(theirs), abs=0.02)


@pytest.mark.parametrize(
    ("answer", "labels", "expected"),
    [
        (WANTED, WANTED, (0.0, 1.0, 1.0)),
        (WANTED, (255 * WANTED).byte(), (0.0, 1.0, 1 / 255)),
        (255 * WANTED, (255 * WANTED).byte(), (0.0, 255.0, 1.0)),
        (255 * WANTED, WANTED, (0.0, 255.0, 255.0)),
        (2 * WANTED - 1, 2 * WANTED - 1, (-1.0, 1.0, 1.0)),
    ],
)
def test_the_scale_is_found(
    answer: torch.Tensor, labels: torch.Tensor, expected: tuple[float, float, float]
) -> None:
    task = scaled_restoration(answer + 0.01 * float(answer.max()) * NOISE, labels)
    assert (task.low, task.high, task.factor) == pytest.approx(expected)
    assert task.second_quality(task.kept(answer), labels).value > 40


def test_the_scale_is_said_and_kept() -> None:
    task = Restoration(0.0, 1.0, 1 / 255)
    original = Original(
        lambda _: WANTED, lambda _: None, None, Preprocessing(3, 24, 20, (0.0,), (1.0,)), 3
    )

    def checked(labels: torch.Tensor) -> DataSplits:
        data = DataSplits(ImageSet(WANTED, labels, "given"), None, None, "", "")
        return task.checked(data, original, names_are_given=False)

    (text,) = checked((255 * WANTED).byte()).warnings
    assert text == "targets are taken times 0.00392157, pictures are taken to go from 0 to 1"
    with pytest.raises(DataError, match=r"the calibration targets go from .* on one scale"):
        checked(999 * WANTED)


def test_loss_and_divergence_are_shares_of_the_range() -> None:
    task = Restoration(0.0, 255.0, 1.0)
    assert float(task.loss(255 * WANTED + 25.5, 255 * WANTED)) == pytest.approx(0.6, rel=1e-3)
    divergence = float(task.divergence(255 * WANTED + 25.5, 255 * WANTED))
    assert divergence == pytest.approx(0.06, rel=1e-3)
    assert task.loss(WANTED.clone().requires_grad_(), None).requires_grad


def test_pictures_and_targets_are_mirrored_alike() -> None:
    images, targets = WANTED, WANTED.repeat_interleave(2, 2).repeat_interleave(2, 3)
    moved, wanted = Restoration().augmented(images, targets, torch.Generator().manual_seed(1))
    assert wanted is not None
    assert torch.equal(wanted[:, :, ::2, ::2], moved)
    assert not torch.equal(moved, images)


def test_labels_as_large_as_the_output_tell_the_task() -> None:
    assert task_for(WANTED, WANTED, None).words.name == "image-to-image"
    assert task_for(WANTED, (255 * WANTED).byte(), None).words.name == "image-to-image"
    grey = (255 * WANTED[:, :1]).byte()
    assert task_for(WANTED[:, :1], grey, None).words.name == "image-to-image"
    masks = (WANTED[:, :1] > 0.5).long()
    assert task_for(WANTED[:, :1], masks, None).words.name == "segmentation"
    assert task_for(WANTED[:, :1], masks, "image-to-image").words.name == "image-to-image"
    with pytest.raises(DataError, match=r"do not fit outputs .* as --task image-to-image"):
        task_for(WANTED, torch.arange(6), "image-to-image")
