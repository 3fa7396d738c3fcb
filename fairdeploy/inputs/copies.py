"""Finds the same image in two sets, whatever its file is called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

from fairdeploy.records import ImageSet


def digests(images: ImageSet) -> list[bytes]:
    """One hash for each image with what the network's other inputs take beside it."""
    tensors = [images.images, *(images.others[name] for name in sorted(images.others))]
    rows = [tensor.contiguous().flatten(1) if tensor.dim() > 1 else tensor for tensor in tensors]
    return [
        hashlib.blake2b(b"".join(row[i].numpy().tobytes() for row in rows), digest_size=16).digest()
        for i in range(len(images))
    ]


def without_copies(images: ImageSet, known: Iterable[bytes]) -> ImageSet:
    """The images whose hash is not among ``known``; the set itself if that is all of them."""
    hashes = frozenset(known)
    stays = torch.tensor([digest not in hashes for digest in digests(images)], dtype=torch.bool)
    return images if bool(stays.all()) else images.part(stays)
