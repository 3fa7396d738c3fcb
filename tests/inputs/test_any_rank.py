"""Volumes, clips, signals, spectrograms and tokens are read as they are, and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.errors import DataError, UsageError
from fairdeploy.inputs.calibration import load_data
from fairdeploy.inputs.input_channels import input_channels
from fairdeploy.inputs.input_format import InputHints, find_preprocessing
from fairdeploy.inputs.model_loading import load_model
from fairdeploy.records import DataSplits, Preprocessing
from fairdeploy.records.input_specs import parse_inputs

LABELS = np.arange(12) % 2
SPECTROGRAM = Preprocessing(1, 4, 6, (0.0,), (1.0,))


def item(text: str) -> Preprocessing:
    return Preprocessing.of_item(parse_inputs([text])[0])


def load(path: Path, preprocessing: Preprocessing, **arrays: np.ndarray) -> DataSplits:
    np.savez(path / "a.npz", **arrays)  # type: ignore[arg-type]
    return load_data(str(path / "a.npz"), preprocessing, num_calibration=6, image_name="clip")


@pytest.mark.parametrize("name", ["images", "clip"])
def test_clips_are_used_as_they_are(tmp_path: Path, name: str) -> None:
    clips = np.random.default_rng(0).normal(5, 9, (12, 2, 3, 4, 4)).astype(np.float64)
    splits = load(tmp_path, item("clip:2,3,4,4"), **{name: clips, "labels": LABELS})
    found = splits.calibration.images
    assert found.dtype == torch.float32
    assert found.shape == (6, 2, 3, 4, 4)
    known = {float(np.float32(clip[0, 0, 0, 0])) for clip in clips}
    assert {float(one[0, 0, 0, 0]) for one in found} < known
    assert splits.calibration.labels is not None


def test_a_first_size_of_one_may_be_left_out(tmp_path: Path) -> None:
    waves = np.random.default_rng(0).normal(size=(12, 50))
    assert load(tmp_path, item("wave:1,50"), images=waves).calibration.images.shape == (6, 1, 50)


def test_tokens_stay_whole_and_in_range(tmp_path: Path) -> None:
    tokens = np.arange(60).reshape(12, 5)
    splits = load(tmp_path, item("tokens:5:int64:60"), images=tokens, labels=LABELS)
    assert splits.calibration.images.dtype == torch.int64
    with pytest.raises(DataError, match=r"holds 59; --input tokens:5:int64:50 takes 0 to 49"):
        load(tmp_path, item("tokens:5:int64:50"), images=tokens)


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (np.zeros((12, 3, 4)), r"'images' in '.*' has shape \[12, 3, 4\]; --input wave:1,50 takes"),
        (np.zeros((12, 1, 50), np.int64), r"is of type int64; --input wave:1,50 takes float32"),
        (np.zeros((12, 1, 50), np.uint8), r"is of type uint8; --input wave:1,50 takes float32"),
        (np.zeros((12, 1, 50), np.complex64), r"is of type complex64; --input wave:1,50 takes"),
        (np.full((12, 1, 50), np.nan), r"image \d+ of '.*' holds NaN or infinite values"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path,
    images: np.ndarray,
    text: str,
) -> None:
    with pytest.raises(DataError, match=text) as caught:
        load(tmp_path, item("wave:1,50"), images=images)
    assert "\n" not in str(caught.value)


def test_a_folder_of_images_is_no_data_for_signals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder of images, and the model takes --input wave"):
        load_data(str(tmp_path), item("wave:1,50"))


def test_without_data_there_is_noise_of_the_input_s_kind() -> None:
    found = load_data(None, item("tokens:5:int64:7"), num_calibration=50).calibration.images
    assert found.shape == (50, 5)
    assert set(found.flatten().tolist()) == set(range(7))


def test_spectrograms_are_used_as_they_are_and_said_to_be(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(-80, 20, (12, 4, 6)).astype(np.float32)
    splits = load(tmp_path, SPECTROGRAM, images=values, labels=LABELS)
    assert splits.preprocessing is not None
    assert splits.preprocessing.item is not None
    assert splits.calibration.images.shape == (6, 1, 4, 6)
    assert float(splits.calibration.images.min()) < -20
    assert any("used as they are, not normalised, moved or mirrored" in w for w in splits.warnings)


def test_bytes_as_floats_and_images_with_a_known_mean_are_no_spectrograms(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 1, 4, 6)).astype(np.float32)
    with pytest.raises(DataError, match=r"has values from \d to 25\d; give floats in \[0, 1\]"):
        load(tmp_path, SPECTROGRAM, images=pixels)
    with pytest.raises(DataError, match="give floats in"):
        load(tmp_path, Preprocessing(1, 4, 6, (0.5,), (0.5,)), images=pixels - 99.5)


class Views(nn.Module):
    """The first convolution that is written down is the second that is used."""

    def __init__(self, channels: int, fold: int = 1) -> None:
        super().__init__()
        self.late = nn.Conv2d(7, 9, 1)
        self.early = nn.Conv2d(channels * fold * fold, 7, 1)
        self.fold = nn.PixelUnshuffle(fold)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.late(self.early(self.fold(x)))
        return found


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("fold", [1, 2])
def test_channels_are_those_of_the_first_layer_that_reads_the_image(
    channels: int, fold: int
) -> None:
    network = Views(channels, fold).train()
    assert input_channels(network, 8, 8) == channels
    assert network.training
    assert not network.early._forward_pre_hooks
    flat = nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, 2))
    assert input_channels(flat, 8, 8) == channels
    assert input_channels(nn.Identity(), 8, 8) is None


def test_input_size_has_those_channels() -> None:
    assert find_preprocessing(Views(2), InputHints(shape=8))[0].shape == (2, 8, 8)


def test_torchvision_s_video_networks_are_known_by_name() -> None:
    model = load_model("torchvision:r3d_18", num_classes=5)
    assert model.preprocessing.shape == (3, 16, 112, 112)
    assert any("inputs of [3, 16, 112, 112] are assumed" in text for text in model.warnings)
    small = load_model("torchvision:r3d_18", num_classes=5, input_shape=32)
    assert small.preprocessing.shape == (3, 16, 32, 32)
    with pytest.raises(UsageError, match="--input-size is for images, and the model takes"):
        load_model("torchvision:r3d_18", num_classes=5, input_shape=(3, 32, 32))


def test_what_only_images_have_is_refused_for_others() -> None:
    inputs = parse_inputs(["wave:1,50"])
    with pytest.raises(UsageError, match="--mean is for images, and --input wave:1,50 is used"):
        find_preprocessing(nn.Conv1d(1, 2, 3), InputHints(inputs=inputs, mean=(0.5,)))
