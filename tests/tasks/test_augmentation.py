from __future__ import annotations

import torch
from torch.nn import functional

from fairdeploy.tasks.augmentation import blended, shifted_and_flipped
from tests.recovery.shrunk_networks import noise


def test_every_image_is_a_crop_of_its_padded_self_or_of_its_mirror_image() -> None:
    images = noise(40)
    moved = shifted_and_flipped(images, torch.Generator().manual_seed(0))
    padded = functional.pad(images, (1, 1, 1, 1), mode="reflect")
    found = []
    for image, around in zip(moved, padded, strict=True):
        crops = {
            (top, left, is_mirrored): around[:, top : top + 8, left : left + 8].flip(
                [2] if is_mirrored else []
            )
            for top in range(3) for left in range(3) for is_mirrored in (False, True)
        }  # fmt: skip
        found += [place for place, crop in crops.items() if torch.equal(crop, image)]
    assert len(found) == 40
    # 18 places for 40 images: most of them occur.
    assert len(set(found)) > 9


def test_equal_seeds_move_images_alike_and_other_tensors_stay() -> None:
    first, second = (
        shifted_and_flipped(noise(4), torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, second)
    tokens = torch.arange(12).reshape(4, 3)
    assert shifted_and_flipped(tokens, torch.Generator()) is tokens


def test_about_the_wanted_share_is_blended_with_another_image_of_the_batch() -> None:
    images = torch.eye(200)
    mixed = blended(images, 0.5, torch.Generator().manual_seed(0))
    # Each row holds its own part and that of one other; together they are one whole.
    assert torch.allclose(mixed.sum(dim=1), torch.ones(200))
    num_parts = (mixed > 0).sum(dim=1)
    assert num_parts.max() == 2
    assert 70 < int((num_parts == 2).sum()) < 130
    assert torch.equal(blended(images, 0.0, torch.Generator().manual_seed(0)), images)
