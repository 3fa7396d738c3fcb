"""Hashes that are equal exactly when the tensors are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from fairdeploy.records import ImageSet


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over names, dtypes, shapes and bytes, in the order of the sorted names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
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
