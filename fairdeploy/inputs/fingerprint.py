"""Hashes that are equal exactly when the tensors are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from fairdeploy.records import ImageSet


def sha256_of_tensors(tensors: Mapping[str, object]) -> str:
    """Hex SHA-256 over names, dtypes, shapes and bytes, in the order of the sorted names.

    What is no tensor (a module's extra state) counts by its name alone.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        if not isinstance(value, Tensor):
            digest.update(f"{name}|".encode())
            continue
        tensor = value.detach().cpu()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def sha256_of_images(images: ImageSet) -> str:
    """Of everything that a set gives to a network and to a score: images, labels, other inputs."""
    hashed = {"images": images.images}
    hashed |= {f"input {name}": tensor for name, tensor in images.others.items()}
    if images.labels is not None:
        hashed["labels"] = images.labels
    return sha256_of_tensors(hashed)


def _bytes_of(tensor: Tensor) -> bytes:
    # A byte view, because NumPy has no bfloat16.
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
