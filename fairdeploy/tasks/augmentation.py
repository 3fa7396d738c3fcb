"""Images moved by a few pixels, mirrored and blended, so that few images go further."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_SHIFT_SHARE = 8
_IMAGE_DIMS = 4


def shifted_and_flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image cropped at random after padding by an eighth of its size, and perhaps mirrored.

    The same as torchvision's ``RandomCrop(size, padding, padding_mode="reflect")`` and
    ``RandomHorizontalFlip()`` for a whole batch at once, from a generator of its own.

    Args:
        images: [N, C, H, W]; anything else is returned as it is.
        generator: On the CPU.
    """
    if images.dim() != _IMAGE_DIMS:
        return images
    count, _, height, width = images.shape
    down, right = height // _SHIFT_SHARE, width // _SHIFT_SHARE
    padded = functional.pad(images, (right, right, down, down), mode="reflect")
    rows = _moved(count, height, down, generator)
    columns = _moved(count, width, right, generator)
    is_mirrored = torch.randint(2, (count, 1), generator=generator).bool()
    columns = torch.where(is_mirrored, columns.flip(1), columns)
    batch = torch.arange(count)[:, None, None]
    at = [index.to(images.device) for index in (batch, rows[:, :, None], columns[:, None, :])]
    return padded[at[0], :, at[1], at[2]].movedim(-1, 1).contiguous()


def _moved(count: int, size: int, most: int, generator: torch.Generator) -> Tensor:
    """Which pixels of the padded image to take, [count, size]."""
    starts = torch.randint(2 * most + 1, (count, 1), generator=generator)
    return starts + torch.arange(size)


def blended(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Some of the images mixed, by a random part each, with another one of the batch.

    Whoever imitates a teacher can learn from them too, since it is asked what they are (Beyer et
    al. 2022); labels would no longer fit.

    Args:
        images: [N, ...], float.
        share: How many of them, about.
        generator: On the CPU.
    """
    count = len(images)
    parts = torch.rand(count, generator=generator)
    parts = torch.where(torch.rand(count, generator=generator) < share, parts, 0.0)
    others = images[torch.randperm(count, generator=generator).to(images.device)]
    shape = (count,) + (1,) * (images.dim() - 1)
    return torch.lerp(images, others, parts.reshape(shape).to(images.device))
