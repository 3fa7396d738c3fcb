"""Calibration and test images from whatever the user has, checked once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from fairdeploy.errors import DataError, UsageError
from fairdeploy.graph.capture.model_inputs import random_input
from fairdeploy.inputs.array_file import open_array_file
from fairdeploy.inputs.data_factory import open_data_factory, open_loaders
from fairdeploy.inputs.fingerprint import sha256_of_tensors
from fairdeploy.inputs.image_folder import open_image_folder
from fairdeploy.inputs.image_pool import PooledData
from fairdeploy.inputs.other_inputs import OtherInputs, Wanted
from fairdeploy.inputs.sampling import Wishes, choose
from fairdeploy.inputs.splits import read_choice
from fairdeploy.records import ClassOrder, DataSplits, ImageSet, Preprocessing
from fairdeploy.records.architecture import is_factory_spec
from fairdeploy.records.input_specs import InputSpec

SYNTHETIC_WARNING = (
    "NO DATA GIVEN: scores come from random noise, so the choice of what to remove is poor and "
    "nothing can be said about accuracy; give --data"
)
# Images lie in memory as float32: this many bytes of them at most, where no number is given.
_MAX_TEST_BYTES = 2**30


def load_data(
    spec: str | None,
    preprocessing: Preprocessing,
    *,
    num_calibration: int = 512,
    max_test: int | None = None,
    num_selection: int = 0,
    with_training: bool = False,
    with_rest: bool = False,
    seed: int = 0,
    class_names: tuple[str, ...] | None = None,
    others: OtherInputs | None = None,
    image_name: str = "image",
    class_order: ClassOrder = "natural",
    loaders: tuple[Iterable[object], ...] | None = None,
) -> DataSplits:
    """Choose calibration and test images, and read only those; none serves two purposes.

    Args:
        spec: An image folder, an ``.npz`` file, ``package.module:factory`` of a DataLoader, or
            None for random noise.
        preprocessing: Shape and normalisation that the model takes.
        num_calibration: At most this many, the classes as equal as possible.
        max_test: At most this many; None: as many as fit 1 GiB.
        num_selection: Held-out images to choose a network or an epoch with, at most this many.
        with_training: Whether there shall be images to train on; others leave some for it.
        with_rest: Whether the images that are left over shall be at hand for training.
        seed: Of the choice. Equal seeds give equal splits.
        class_names: The order in which the model numbers its classes.
        others: Inputs that take no images: shape of one item and type by name. What the data has
            of them is read too.
        image_name: What a dictionary of inputs calls the images.
        class_order: How class folders are numbered where ``class_names`` is not given.
        loaders: Of this process, to read in place of what ``spec`` names: one, or one to learn from
            and one to test on.

    Raises:
        DataError: The data cannot be used.
        UsageError: A number is impossible.
    """
    if num_calibration < 2:
        raise UsageError(f"{num_calibration} calibration images are too few; give at least 2")
    if max_test is not None and max_test < 0:
        raise UsageError(f"{max_test} test images are impossible; give 0 or more")
    if spec is None:
        return _synthetic(preprocessing, num_calibration, seed)
    fitting = max(1, _MAX_TEST_BYTES // (4 * int(np.prod(preprocessing.shape))))
    limit = fitting if max_test is None else max_test
    num_selection = min(num_selection, fitting)
    max_images = max(fitting, num_calibration + limit + num_selection)
    wanted = Wanted(image_name, others or {})
    if loaders is not None:
        data = open_loaders(
            spec, loaders, preprocessing, class_names, wanted, max_images=max_images, seed=seed
        )
    else:
        data = _open(
            spec, preprocessing, class_names, wanted,
            max_images=max_images, seed=seed, class_order=class_order,
        )  # fmt: skip
    wishes = Wishes(num_calibration, limit, num_selection, with_training, with_rest)
    choice = choose(data.train, data.test, wishes, seed)
    return read_choice(spec, data, choice)


def _synthetic(preprocessing: Preprocessing, count: int, seed: int) -> DataSplits:
    generator = torch.Generator().manual_seed(seed)
    spec = preprocessing.item or InputSpec("image", preprocessing.shape)
    images = random_input(spec, (count, *preprocessing.shape), generator)
    calibration = ImageSet(images, None, "none", is_synthetic=True)
    sha256 = sha256_of_tensors({"images": images})
    return DataSplits(calibration, None, None, "synthetic", sha256, (SYNTHETIC_WARNING,))


def _open(
    spec: str,
    preprocessing: Preprocessing,
    class_names: tuple[str, ...] | None,
    wanted: Wanted,
    *,
    max_images: int,
    seed: int,
    class_order: ClassOrder,
) -> PooledData:
    path = Path(spec)
    if path.is_dir() and preprocessing.item is not None:
        raise DataError(
            f"'{spec}' is a folder of images, and the model takes --input {preprocessing.item}; "
            "give an .npz file or package.module:factory"
        )
    if path.is_dir():
        return open_image_folder(path, preprocessing, class_names, class_order)
    if path.is_file() and path.suffix.lower() == ".npz":
        return open_array_file(path, preprocessing, class_names, wanted)
    if path.is_file():
        raise DataError(
            f"'{spec}' is a file of an unknown kind; give an image folder (unpacked), an .npz "
            "file or package.module:factory"
        )
    if is_factory_spec(spec):
        return open_data_factory(
            spec, preprocessing, class_names, wanted, max_images=max_images, seed=seed
        )
    raise DataError(
        f"no data at '{spec}'; give an image folder, an .npz file or package.module:factory"
    )
