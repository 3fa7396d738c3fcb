"""Training after the repair: on labels, on the original's answers, or on both.

SGD with momentum where there are batch norms, and AdamW elsewhere (transformers, ConvNeXt), with a
warm-up and a cosine; images moved and mirrored at random. After each round the
network is tested on selection images, and the weights of the best round are kept, or those from
before if no round is better. A checkpoint after each round lets an interrupted training go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from fairdeploy.errors import DataError, UsageError
from fairdeploy.graph.capture.train_mode import switchable
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import (
    DataSplits,
    ImageSet,
    TrainingImages,
    TunedEpoch,
    TuningSummary,
    Verdict,
)
from fairdeploy.records.training import TuningOptions
from fairdeploy.recovery.judgement import Contest, Judge
from fairdeploy.recovery.least_squares.fitted_weights import own_tensors
from fairdeploy.recovery.least_squares.sweep import Inputs
from fairdeploy.recovery.training.best_weights import trainable
from fairdeploy.recovery.training.checkpoints import Checkpoints, TrainingState
from fairdeploy.recovery.training.network_blocks import (
    input_names,
    main_output,
    stretch,
)
from fairdeploy.recovery.training.processes import (
    Trained,
    accelerated,
    device_name,
    moved,
    on_device,
    summed,
)
from fairdeploy.recovery.training.schedule import has_batchnorm, rate_factor, set_rate, with_decay
from fairdeploy.tasks.base import Task

if TYPE_CHECKING:
    from accelerate import Accelerator

Progress = Callable[[int, int, float], None]

SGD_RATE = 0.01
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
ADAMW_RATE = 2e-4
ADAMW_WEIGHT_DECAY = 0.01
TEMPERATURE = 2.0
LABEL_SHARE = 0.5
"""Of the loss, where there are both labels and a teacher."""
PATIENCE = 5
PATIENCE_SHARE = 0.5
MAX_GRADIENT_NORM = 5.0


@dataclass(frozen=True, slots=True)
class Pupil:
    """The shrunk network, the original, and what they have in common."""

    graph: UnitGraph
    shrunk: fx.GraphModule
    removed: NDArray[np.bool_]


def finetune(
    pupil: Pupil,
    data: DataSplits,
    options: TuningOptions,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> TuningSummary:
    """Change the parameters and norm statistics of ``pupil.shrunk`` in place by training it.

    Args:
        pupil: The original stays as it is.
        data: Trained on its training images; the best round is chosen with its selection images.
        options: How to train.
        seed: Of the order of the images, and how they are moved.
        checkpoint: Where to keep the state after each round, and to go on from; removed at the end.
        progress: Called with (rounds done, rounds in all, score) after each.

    Raises:
        DataError: There are no images to train on or to choose with, or no labels and no teacher.
        UsageError: The network does not give one score per class.
    """
    started = time.perf_counter()
    training, selection = _checked(data, options)
    require_targets(pupil.graph.outputs.task)
    own_tensors(pupil.shrunk, pupil.graph.module)
    with ExitStack() as stack:
        accelerator = stack.enter_context(accelerated())
        device = device_name(accelerator)
        stack.enter_context(moved(pupil.shrunk, accelerator.device))
        batches = TrainingBatches(
            pupil.graph, training, options.batch_size, seed, accelerator,
            with_labels=training.has_labels and selection.labels is not None,
        )  # fmt: skip
        lesson = _Lesson(pupil, options, accelerator.device)
        parameters = stack.enter_context(trainable(pupil.shrunk))
        judge = Judge(pupil.graph, selection, accelerator.device, are_targets_known=True)
        run = _Tuning(pupil, options, lesson, batches, accelerator, parameters)
        written = checkpoint if accelerator.is_main_process else None
        history, ended_because, resumed_from, verdict = run.run(
            judge, Checkpoints(written, checkpoint), progress
        )
    return TuningSummary(
        epochs_asked=options.epochs,
        epochs=history,
        best_epoch=_best(history).epoch,
        measure=verdict.measure,
        num_images=training.num_images,
        num_selection=len(selection),
        uses_labels=batches.with_labels,
        teacher=lesson.teacher,
        optimizer=run.optimizer,
        learning_rate=run.rate,
        resumed_from=resumed_from,
        device=device,
        ended_because=ended_because,
        verdict=verdict,
        seconds=time.perf_counter() - started,
    )


def _checked(data: DataSplits, options: TuningOptions) -> tuple[TrainingImages, ImageSet]:
    training, selection = data.training, data.selection
    if training is None or training.num_images < MIN_BATCH:
        raise DataError(
            "no images are left to train on besides those for calibration, selection and test; "
            "give --data with more of them, or lower --num-calibration"
        )
    if selection is None or len(selection) == 0:
        raise DataError(
            "no images are left to choose the best epoch with; give --data with more of them"
        )
    if not (training.has_labels and selection.labels is not None) and not options.distill:
        raise DataError(
            "--finetune needs labelled images, and these have no labels; add --distill to learn "
            "from the original's answers"
        )
    return training, selection


def require_targets(task: Task) -> None:
    """Refuse networks of whose answers this training cannot judge.

    Raises:
        UsageError: Nobody knows what the answers are for.
    """
    if not task.has_targets:
        raise UsageError(
            "--finetune needs a network with one score per class, which this one does not give; "
            "use --recover distil"
        )


def _best(history: Sequence[TunedEpoch]) -> TunedEpoch:
    """The earliest of those with the highest score."""
    return max(history, key=lambda epoch: (epoch.score, -epoch.epoch))


class _Lesson:
    """What the shrunk network learns: the labels, the original's answers."""

    def __init__(self, pupil: Pupil, options: TuningOptions, device: torch.device) -> None:
        graph, shrunk = pupil.graph, pupil.shrunk
        self._task = graph.outputs.task
        main, place = main_output(shrunk, graph.outputs.main).name, graph.outputs.batch_dim
        self.network = Trained(switchable(stretch(shrunk, input_names(shrunk), [main], place)))
        self._original = None
        if options.distill:
            original = on_device(graph.module, device)
            self._original = stretch(original, input_names(original), [main], place)

    @property
    def teacher(self) -> Literal["none", "logits"]:
        """What of the original is imitated."""
        return "none" if self._original is None else "logits"

    def loss(self, network: nn.Module, inputs: Inputs, labels: Tensor | None) -> Tensor:
        """Of ``network`` on one batch."""
        (answer,) = network(*inputs)
        loss = torch.zeros((), device=answer.device)
        if self._original is not None:
            with torch.no_grad():
                (wanted,) = self._original(*inputs)
            share = 1.0 - LABEL_SHARE if labels is not None else 1.0
            error = self._task.imitation_loss(answer.float(), wanted.float(), TEMPERATURE)
            loss = loss + share * error
        if labels is not None:
            share = LABEL_SHARE if self._original is not None else 1.0
            loss = loss + share * self._task.loss(answer.float(), labels) / len(labels)
        return loss


class _Tuning:
    """The rounds of a training, and what chooses the best of them."""

    def __init__(
        self,
        pupil: Pupil,
        options: TuningOptions,
        lesson: _Lesson,
        batches: TrainingBatches,
        accelerator: Accelerator,
        parameters: list[nn.Parameter],
    ) -> None:
        self._shrunk, self._options, self._lesson = pupil.shrunk, options, lesson
        self._batches, self._accelerator, self._parameters = batches, accelerator, parameters
        self.optimizer: Literal["SGD", "AdamW"] = "SGD" if has_batchnorm(self._shrunk) else "AdamW"
        default = SGD_RATE if self.optimizer == "SGD" else ADAMW_RATE
        self.rate = default if options.learning_rate is None else options.learning_rate

    def run(
        self, judge: Judge, checkpoints: Checkpoints, progress: Progress | None
    ) -> tuple[tuple[TunedEpoch, ...], str, int, Verdict]:
        """All rounds; why they ended, after which one they were resumed, and what they brought."""
        epochs = self._options.epochs
        optimizer = self._new_optimizer()
        network, prepared = self._accelerator.prepare(self._lesson.network, optimizer)
        contest = Contest(judge, self._shrunk, self._accelerator.device, self._agreed)
        best = contest.best
        state = checkpoints.load(self._shrunk, optimizer, best)
        history = [TunedEpoch(0, None, contest.value)] if state is None else list(state.history)
        resumed_from = history[-1].epoch
        patience = max(PATIENCE, round(PATIENCE_SHARE * epochs))
        ended_because = "all epochs are done"
        for epoch in range(resumed_from + 1, epochs + 1):
            loss = self._train_once(network, prepared, epoch)
            score = contest.look()
            history.append(TunedEpoch(epoch, loss, score))
            checkpoints.save(self._shrunk, optimizer, best, TrainingState(tuple(history)))
            if progress is not None:
                progress(epoch, epochs, score)
            if epoch - _best(history).epoch >= patience and epoch < epochs:
                ended_because = f"none of the last {patience} epochs was better"
                break
        verdict = contest.end(max(len(history) - 1, 1))
        checkpoints.remove()
        return tuple(history), ended_because, resumed_from, verdict

    def _agreed(self, value: float) -> float:
        """Each process has norm statistics of its own; the first one's count."""
        return summed(self._accelerator, value if self._accelerator.is_main_process else 0.0)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        if self.optimizer == "AdamW":
            groups = with_decay(self._parameters, ADAMW_WEIGHT_DECAY)
            return torch.optim.AdamW(groups, lr=self.rate)
        groups = with_decay(self._parameters, WEIGHT_DECAY)
        return torch.optim.SGD(groups, lr=self.rate, momentum=MOMENTUM, nesterov=True)

    def _train_once(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, epoch: int
    ) -> float:
        """One round over the training images; the mean loss."""
        accelerator, steps = self._accelerator, self._batches.steps_per_epoch
        total, count = 0.0, 0
        network.train()
        for step, (inputs, labels) in enumerate(self._batches.of_epoch(epoch), (epoch - 1) * steps):
            set_rate(optimizer, self.rate * rate_factor(step, self._options.epochs * steps))
            optimizer.zero_grad(set_to_none=True)
            with accelerator.autocast():
                loss = self._lesson.loss(network, inputs, labels)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(self._parameters, MAX_GRADIENT_NORM)
            optimizer.step()
            total, count = total + float(loss.detach()), count + 1
        network.eval()
        return summed(accelerator, total) / max(summed(accelerator, float(count)), 1.0)


# ---- the batches of a training, round by round, in a seeded order and shared out to processes ----


MIN_BATCH = 2
"""Of fewer images a norm has no statistics."""


class TrainingBatches:
    """Moved and mirrored images on the device where they are needed, with their labels."""

    def __init__(
        self,
        graph: UnitGraph,
        training: TrainingImages,
        batch_size: int,
        seed: int,
        accelerator: Accelerator,
        *,
        with_labels: bool,
    ) -> None:
        self._graph, self._training, self._seed = graph, training, seed
        self._accelerator, self.with_labels = accelerator, with_labels
        wanted = batch_size if graph.has_dynamic_batch else graph.inputs.batch
        self._size = min(wanted, training.num_images)
        per_process = training.num_images // self._size // accelerator.num_processes
        self.steps_per_epoch = max(per_process, 1)

    def of_epoch(self, epoch: int) -> Iterator[tuple[Inputs, Tensor | None]]:
        """This process's share; the next batch is read while one is trained on."""
        seed = self._seed * 1_000_003 + epoch
        order = torch.randperm(
            self._training.num_images, generator=torch.Generator().manual_seed(seed)
        ).numpy()
        size, rank = self._size, self._accelerator.process_index
        num_processes = self._accelerator.num_processes
        chosen = [
            order[(number * size) % len(order) :][:size]
            for number in range(rank, self.steps_per_epoch * num_processes, num_processes)
        ]
        moves = torch.Generator().manual_seed(seed * 1_009 + rank)
        with ThreadPoolExecutor(1) as reader:
            waiting = reader.submit(self._training.fetch, chosen[0])
            for following in (*chosen[1:], None):
                images = waiting.result()
                if following is not None:
                    waiting = reader.submit(self._training.fetch, following)
                if len(images) >= MIN_BATCH:
                    yield self._arranged(images, moves)

    def _arranged(self, images: ImageSet, moves: torch.Generator) -> tuple[Inputs, Tensor | None]:
        tensors = list(self._graph.inputs.arranged(images))
        place = self._graph.inputs.image
        labels = images.labels if self.with_labels else None
        if self._graph.inputs.are_pixels:
            augmented = self._graph.outputs.task.augmented
            tensors[place], labels = augmented(tensors[place], labels, moves)
        if not self._graph.has_dynamic_batch:
            # Copies may have been left out, and the network takes just this many.
            again = torch.arange(self._graph.inputs.batch) % len(images)
            tensors = [tensor[again] for tensor in tensors]
            labels = None if labels is None else labels[again]
        device = self._accelerator.device
        return (
            tuple(tensor.to(device) for tensor in tensors),
            None if labels is None else labels.to(device),
        )
