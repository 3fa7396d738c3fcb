"""The images of ``fairdeploy export``: some to calibrate with, others to judge with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairdeploy.deployment.parity import repeated
from fairdeploy.deployment.variant_checks import Examples, make_examples
from fairdeploy.errors import ExportError
from fairdeploy.graph.capture.model_inputs import ModelInputs, model_inputs
from fairdeploy.graph.capture.model_outputs import find_batch_dims
from fairdeploy.inputs.calibration import load_data
from fairdeploy.inputs.other_inputs import with_noise_for_others
from fairdeploy.records import DataSplits, ImageSet, Preprocessing
from fairdeploy.records.architecture import is_factory_spec
from fairdeploy.records.image_preparation import WHITE, cropped, prepared, scale_size
from fairdeploy.records.method import choice_of
from fairdeploy.records.task_names import TASKS
from fairdeploy.runs.folder.artifact_folder import REPORT_FILE, ArtifactFolder
from fairdeploy.runs.folder.file_metadata import preprocessing_from
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.settings.options import ExportOptions
from fairdeploy.settings.project_file import refuse_foreign_code
from fairdeploy.settings.run import DEFAULT_TEST_IMAGES
from fairdeploy.tasks import task_for, task_of
from fairdeploy.tasks.base import NUM_ASKED

DEFAULT_CALIBRATION = 384
CALIBRATION_BATCH = 8
_SYNTHETIC_IMAGES = 32


@dataclass(frozen=True, slots=True)
class ExportImages:
    """Inputs for calibration, examples that judge, and where they came from."""

    network: Callable[..., object]
    preprocessing: Preprocessing
    inputs: ModelInputs
    calibration: tuple[Tensor, ...]
    examples: Examples
    note: str

    def batches(self, only_batch: int | None) -> tuple[tuple[NDArray[Any], ...], ...]:
        """Calibration inputs for files that take any batch, or only one."""
        only = only_batch or self.examples.batch
        size, count = only or CALIBRATION_BATCH, len(self.calibration[0])
        found = []
        for start in range(0, count, size):
            chunk = repeated(self.calibration, start, only or min(size, count - start))
            found.append(tuple(tensor.numpy() for tensor in chunk))
        return tuple(found)

    def judging(
        self, *, batch: int | None, as_pixels: bool = False, as_probabilities: bool = False
    ) -> Examples:
        """The examples as a file takes and gives them."""
        found = self.examples if batch is None else replace(self.examples, batch=batch)
        if as_pixels:
            found = self._pixel_examples(found)
        if as_probabilities:
            found = _as_probabilities(found)
        return found

    def _pixel_examples(self, examples: Examples) -> Examples:
        """Pixels [N, H, W, C], and what the network says of them once preprocessed."""
        told = self.preprocessing.told()
        if told is None:
            raise ExportError("preprocessing is for images, and this network takes none")
        pixels = [pixels_of(image.numpy(), told) for image in examples.inputs[self.inputs.image]]
        as_inputs = torch.from_numpy(np.stack([prepared(one, told) for one in pixels]))
        again = make_examples(
            self.network, (as_inputs,), examples.labels,
            main_output=examples.main_output, batch=self.examples.batch,
            batch_dims=examples.batch_dims,
        )  # fmt: skip
        return replace(
            examples, inputs=(torch.from_numpy(np.stack(pixels)),), expected=again.expected,
            others=again.others,
        )  # fmt: skip


def pixels_of(image: NDArray[np.float32], told: dict[str, Any]) -> NDArray[Any]:
    """Pixels [H, W, C] whose preparation gives about this input [C, H, W], or its middle.

    They are as large as images are resized to, since rounding in a real resize differs by a level
    from runtime to runtime, which is no fault of a file.
    """
    mean, std = (np.array(told[key], dtype=np.float32) for key in ("mean", "std"))
    values = image.transpose(1, 2, 0) * std + mean
    if told["channel_order"] == "bgr":
        values = values[:, :, ::-1]
    white = told["white"] or WHITE
    pixels = np.rint(values.clip(0, 1) * white).astype(np.uint16 if told["white"] else np.uint8)
    height, width = scale_size(told)
    return np.ascontiguousarray(cropped(pixels, (height, width), told))


def load_export_images(
    options: ExportOptions,
    folder: ArtifactFolder,
    network: nn.Module,
    *,
    must_be_real: bool,
    watch: Stopwatch,
) -> ExportImages:
    """Read the images and run the torch network on those that judge.

    Raises:
        ExportError: Calibration needs real images and there are none.
        DataError: They cannot be used.
        ModelError: The report does not tell how images become inputs.
    """
    told = folder.told
    preprocessing = preprocessing_from(told.metadata)
    inputs = model_inputs(network, folder.plan.inputs, folder.plan.input_shape, told.fixed_batch)
    source = _source(options, folder)
    if source is None and must_be_real:
        raise ExportError(
            "int8 needs images to measure the ranges of values on, and there are none; "
            "give --data IMAGES"
        )
    data = _read(options, folder, source, preprocessing, inputs)
    for text in data.warnings:
        watch.warn(text)
    calibration, judging = _split(data)
    told_name = (folder.document.get("task") or {}).get("name")
    name = choice_of(told_name, TASKS)
    # The code of a task of the user's own is not at hand here.
    is_judged = not folder.document.get("not_judged") and name == told_name
    labels = judging.labels if data.test and is_judged else None
    examples = make_examples(
        network, inputs.arranged(judging), labels,
        main_output=told.main_output, batch=told.fixed_batch,
        batch_dims=find_batch_dims(network, inputs),
    )  # fmt: skip
    are_classes = (labels is not None or None) if is_judged else False
    task = task_of(tuple(examples.expected.shape), are_classes)
    if labels is not None and name not in (None, task.words.name):
        task = task_for(examples.expected[:NUM_ASKED], labels, name)
    examples = replace(examples, task=task)
    what = "noise" if source is None else "images"
    note = f"{len(calibration)} {what} to calibrate, {len(judging)} to judge"
    return ExportImages(
        network, preprocessing, inputs, inputs.arranged(calibration), examples, note
    )


def _as_probabilities(examples: Examples) -> Examples:
    """Of the main output."""
    others = list(examples.others)
    if others:
        scores = torch.from_numpy(others[examples.main_output])
        others[examples.main_output] = scores.softmax(1).numpy()
    return replace(examples, expected=examples.expected.softmax(1), others=tuple(others))


def _source(options: ExportOptions, folder: ArtifactFolder) -> str | None:
    """Of the option, else of the run if it is still there; None: noise."""
    if options.data is not None:
        return options.data
    source = folder.told.source
    if source is None:
        return None
    if not options.trust_project:
        refuse_foreign_code(folder.path / REPORT_FILE, {"data": source})
    return source if Path(source).exists() or is_factory_spec(source) else None


def _read(
    options: ExportOptions,
    folder: ArtifactFolder,
    source: str | None,
    preprocessing: Preprocessing,
    inputs: ModelInputs,
) -> DataSplits:
    told = folder.told
    count = DEFAULT_CALIBRATION if source is not None else _SYNTHETIC_IMAGES
    data = load_data(
        source,
        preprocessing,
        num_calibration=options.num_calibration or count,
        max_test=options.max_test or DEFAULT_TEST_IMAGES,
        seed=told.seed,
        class_names=told.class_names,
        others=inputs.others,
        image_name=inputs.names[inputs.image],
    )
    return with_noise_for_others(data, inputs, told.seed)


def _split(data: DataSplits) -> tuple[ImageSet, ImageSet]:
    """Calibration and judging images; without a test set a quarter is held back to judge."""
    if data.test is not None:
        return data.calibration, data.test
    count = max(1, 3 * len(data.calibration) // 4)
    return _part(data.calibration, slice(count)), _part(data.calibration, slice(count, None))


def _part(images: ImageSet, part: slice) -> ImageSet:
    return replace(
        images,
        images=images.images[part],
        labels=None if images.labels is None else images.labels[part],
        others={name: tensor[part] for name, tensor in images.others.items()},
    )
