"""What a network takes besides images comes from the data, or is random and said to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.errors import DataError
from fairdeploy.graph.capture.model_inputs import ModelInputs, model_inputs
from fairdeploy.inputs.calibration import load_data
from fairdeploy.inputs.other_inputs import with_noise_for_others
from fairdeploy.records import DataSplits
from fairdeploy.records.input_specs import parse_inputs
from tests.inputs.tiny_inputs import TINY

LOADERS = """
import torch

def batches():
    for start in (0, 4, 8):
        rows = torch.arange(start, start + 4)
        images = rows[:, None, None, None].float().expand(4, 3, 8, 8)
        yield {"image": images, "tokens": torch.stack([rows, 2 * rows], 1)}, rows % 2

def pairs():
    later = [({**inputs, "image": inputs["image"] + 100}, labels) for inputs, labels in batches()]
    return list(batches()), later

def inside():
    yield from ({**inputs, "label": labels} for inputs, labels in batches())

def incomplete():
    yield from (({"image": inputs["image"]}, labels) for inputs, labels in batches())

def wrong_shape():
    for inputs, labels in batches():
        yield {**inputs, "tokens": inputs["tokens"][:, :1]}, labels
"""


class Two(nn.Module):
    def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
        return image.mean((2, 3)) + tokens.sum(1, keepdim=True)


def inputs() -> ModelInputs:
    return model_inputs(Two(), parse_inputs(["image:3,8,8", "tokens:2:int64:30"]), TINY.shape)


def load(spec: str, num_calibration: int = 6) -> DataSplits:
    return load_data(
        spec, TINY, num_calibration=num_calibration, others=inputs().others, image_name="image"
    )


def write_arrays(folder: Path, **changes: object) -> str:
    rows = np.arange(12)
    arrays: dict[str, object] = {
        "images": np.broadcast_to(rows[:, None, None, None], (12, 8, 8, 3)).astype(np.uint8),
        "labels": rows % 2,
        "tokens": np.stack([rows, 2 * rows], 1).astype(np.int32),
        "test_images": np.full((2, 8, 8, 3), 200, np.uint8),
        "test_labels": np.array([0, 1]),
        "test_tokens": np.array([[7, 8], [9, 10]]),
    }
    path = folder / "data.npz"
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})  # type: ignore[arg-type]
    return str(path)


def rows_of(images: Tensor) -> Tensor:
    """The number of each image, from its grey value."""
    return ((images[:, 0, 0, 0] * 0.5 + 0.5) * 255).round().long()


def test_arrays_go_with_the_images_that_were_chosen(tmp_path: Path) -> None:
    splits = load(write_arrays(tmp_path))
    rows = rows_of(splits.calibration.images)
    tokens = splits.calibration.others["tokens"]
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens, torch.stack([rows, 2 * rows], 1))
    assert splits.test is not None
    assert splits.test.others["tokens"].tolist() == [[7, 8], [9, 10]]
    assert with_noise_for_others(splits, inputs(), seed=0) is splits
    first, second = inputs().arranged(splits.calibration)
    assert first is tokens
    assert second is splits.calibration.images


def test_the_hash_of_the_data_covers_the_other_inputs(tmp_path: Path) -> None:
    before = load(write_arrays(tmp_path)).sha256
    changed = load(write_arrays(tmp_path, tokens=np.zeros((12, 2), np.int64))).sha256
    assert before != changed


def test_images_may_be_called_like_the_input_that_takes_them(tmp_path: Path) -> None:
    named = np.broadcast_to(np.arange(12)[:, None, None, None], (12, 8, 8, 3)).astype(np.uint8)
    splits = load(write_arrays(tmp_path, images=None, image=named))
    assert len(splits.calibration) == 6


@pytest.mark.parametrize("name", ["batches", "pairs", "inside"])
def test_dictionaries_of_a_loader_hold_all_inputs(tmp_path: Path, name: str) -> None:
    (tmp_path / "loaders.py").write_text(LOADERS)
    splits = load(f"{tmp_path}/loaders.py:{name}")
    rows = splits.calibration.images[:, 0, 0, 0].long()
    assert torch.equal(splits.calibration.others["tokens"], torch.stack([rows, 2 * rows], 1))
    assert splits.calibration.labels is not None
    assert torch.equal(splits.calibration.labels, rows % 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("incomplete", r"yields no tensor 'tokens'; add it"),
        ("wrong_shape", r"input 'tokens' of '.*' has shape \[4, 1\]; give \[4, 2\]"),
    ],
)
def test_bad_dictionaries_are_one_clear_line(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "loaders.py").write_text(LOADERS)
    with pytest.raises(DataError, match=message):
        load(f"{tmp_path}/loaders.py:{name}")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros((11, 2), np.int64), r"'tokens' in '.*' has shape \[11, 2\]; give \[12, 2\], one"),
        (np.zeros((12, 2)), r"'tokens' in '.*' is of type torch.float64; give torch.int64"),
        (np.array([["a", "b"]] * 12), r"'tokens' in '.*' is of type <U1; give numbers"),
    ],
)
def test_bad_arrays_are_one_clear_line(tmp_path: Path, tokens: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(write_arrays(tmp_path, tokens=tokens))


def test_what_the_data_lacks_is_random_in_range_seeded_and_warned_of(tmp_path: Path) -> None:
    splits = load(write_arrays(tmp_path, test_tokens=None, tokens=None), num_calibration=12)
    filled = with_noise_for_others(splits, inputs(), seed=3)
    assert filled.test is not None
    tokens = filled.calibration.others["tokens"]
    assert tokens.shape == (12, 2)
    assert filled.test.others["tokens"].shape == (2, 2)
    assert 0 <= int(tokens.min()) < int(tokens.max()) < 30
    again = with_noise_for_others(splits, inputs(), seed=3)
    assert torch.equal(again.calibration.others["tokens"], tokens)
    assert again.sha256 == filled.sha256 != splits.sha256
    assert "nothing for input 'tokens': random values are used" in filled.warnings[-1]


def test_test_images_without_their_array_are_filled_alone(tmp_path: Path) -> None:
    splits = load(write_arrays(tmp_path, test_tokens=None))
    filled = with_noise_for_others(splits, inputs(), seed=0)
    kept = filled.calibration.others["tokens"]
    assert torch.equal(kept, splits.calibration.others["tokens"])
    assert filled.test is not None
    assert "tokens" in filled.test.others
