"""Training after the repair: on labels, on the original's answers, or on both.

SGD with momentum where there are batch norms, and AdamW elsewhere (transformers, ConvNeXt), with a
warm-up and a cosine; images moved and mirrored at random. After each round the
network is tested on selection images, and the weights of the best round are kept, or those from
before if no round is better. A checkpoint after each round lets an interrupted training go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.errors import DataError, UsageError
from fairdeploy.graph.capture.train_mode import switchable
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import ImageSet, TrainingImages, TunedEpoch, TuningSummary, Verdict
from fairdeploy.records.training import TuningOptions
from fairdeploy.recovery.judgement import Contest, Judge
from fairdeploy.recovery.least_squares.fitted_weights import own_tensors
from fairdeploy.recovery.least_squares.sweep import Inputs
from fairdeploy.recovery.training.best_weights import trainable
from fairdeploy.recovery.training.checkpoints import Checkpoints, TrainingState
from fairdeploy.recovery.training.moving_average import MovingAverage
from fairdeploy.recovery.training.network_blocks import (
    Cut,
    find_cuts,
    input_names,
    main_output,
    stretch,
)
from fairdeploy.recovery.training.processes import Runtime, moved, on_device, open_runtime
from fairdeploy.recovery.training.schedule import has_batchnorm, rate_factor, set_rate, with_decay
from fairdeploy.tasks.base import Task, value_error

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


@dataclass(frozen=True, slots=True)
class Pupil:
    """The shrunk network, the original, and what they have in common."""

    graph: UnitGraph
    shrunk: fx.GraphModule
    removed: NDArray[np.bool_]


def finetune(
    pupil: Pupil,
    training: TrainingImages | None,
    selection: ImageSet | None,
    options: TuningOptions,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    runtime: Runtime | None = None,
) -> TuningSummary:
    """Change the parameters and norm statistics of ``pupil.shrunk`` in place by training it.

    Args:
        pupil: The original stays as it is.
        training: Images that nothing else uses.
        selection: Images to choose the best round with.
        options: How to train.
        seed: Of the order of the images, and how they are moved.
        checkpoint: Where to keep the state after each round, and to go on from; removed at the end.
        progress: Called with (rounds done, rounds in all, score) after each.
        runtime: Where it runs; found out if not given.

    Raises:
        DataError: There are no images to train on or to choose with, or no labels and no teacher.
        UsageError: The network does not give one score per class.
    """
    started = time.perf_counter()
    training, selection = _checked(training, selection, options)
    own_tensors(pupil.shrunk, pupil.graph.module)
    runtime = runtime or open_runtime()
    uses_labels = training.has_labels and selection.labels is not None
    with ExitStack() as stack:
        stack.enter_context(moved(pupil.shrunk, runtime.device))
        parameters = stack.enter_context(trainable(pupil.shrunk))
        run = _Tuning(
            pupil, training, selection, options, seed, runtime, parameters,
            Checkpoints(checkpoint if runtime.rank == 0 else None, checkpoint),
            uses_labels=uses_labels,
        )  # fmt: skip
        history, ended_because, resumed_from, verdict = run.run(progress)
    best = max(history, key=lambda epoch: (epoch.score, -epoch.epoch))
    return TuningSummary(
        epochs_asked=options.epochs,
        epochs=history,
        best_epoch=best.epoch,
        measure=verdict.measure,
        num_images=training.num_images,
        num_selection=len(selection),
        uses_labels=uses_labels,
        teacher=_teacher_of(options),
        optimizer=run.optimizer,
        learning_rate=run.rate,
        is_averaged=options.ema,
        resumed_from=resumed_from,
        device=runtime.name,
        ended_because=ended_because,
        verdict=verdict,
        seconds=time.perf_counter() - started,
    )


def _checked(
    training: TrainingImages | None, selection: ImageSet | None, options: TuningOptions
) -> tuple[TrainingImages, ImageSet]:
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


def _teacher_of(options: TuningOptions) -> Literal["none", "logits", "features"]:
    if options.distill_features:
        return "features"
    return "logits" if options.distill else "none"


class _Tuning:
    def __init__(
        self,
        pupil: Pupil,
        training: TrainingImages,
        selection: ImageSet,
        options: TuningOptions,
        seed: int,
        runtime: Runtime,
        parameters: list[torch.nn.Parameter],
        checkpoints: Checkpoints,
        *,
        uses_labels: bool,
    ) -> None:
        graph, shrunk = pupil.graph, pupil.shrunk
        self._graph, self._shrunk, self._options = graph, shrunk, options
        self._runtime, self._parameters, self._checkpoints = runtime, parameters, checkpoints
        self._task = graph.outputs.task
        self._cuts: tuple[Cut, ...] = ()
        if options.distill_features:
            self._cuts = find_cuts(graph, shrunk, pupil.removed)
        main = main_output(shrunk, graph.outputs.main).name
        targets = [*(cut.node for cut in self._cuts), main]
        self._network = switchable(stretch(shrunk, input_names(shrunk), targets))
        self._original = self._teacher(targets)
        self._judge = _judge(graph, selection, runtime.device)
        self._batches = TrainingBatches(
            graph, training, options.batch_size, seed, runtime, with_labels=uses_labels
        )
        self._average = MovingAverage(shrunk) if options.ema else None
        self.optimizer: Literal["SGD", "AdamW"] = "SGD" if has_batchnorm(shrunk) else "AdamW"
        default = SGD_RATE if self.optimizer == "SGD" else ADAMW_RATE
        self.rate = default if options.learning_rate is None else options.learning_rate

    def run(self, progress: Progress | None) -> tuple[tuple[TunedEpoch, ...], str, int, Verdict]:
        """All rounds; why they ended, after which one they were resumed, and what they brought."""
        options, runtime = self._options, self._runtime
        optimizer = self._new_optimizer()
        network, prepared = runtime.prepared(self._network, optimizer)
        contest = Contest(self._judge, self._shrunk, runtime.device, self._agreed)
        history, best = [TunedEpoch(0, None, contest.value)], contest.best
        state = self._checkpoints.load(self._shrunk, optimizer, self._average, best)
        if state is not None:
            history = list(state.history)
        resumed_from = history[-1].epoch
        patience = max(PATIENCE, round(PATIENCE_SHARE * options.epochs))
        ended_because = "all epochs are done"
        for epoch in range(resumed_from + 1, options.epochs + 1):
            loss = self._train_once(network, prepared, epoch)
            score = self._averaged_score(contest)
            history.append(TunedEpoch(epoch, loss, score))
            self._checkpoints.save(
                self._shrunk, optimizer, self._average, best, TrainingState(tuple(history))
            )
            if progress is not None:
                progress(epoch, options.epochs, score)
            since_best = epoch - max(history, key=lambda one: (one.score, -one.epoch)).epoch
            if since_best >= patience and epoch < options.epochs:
                ended_because = f"none of the last {patience} epochs was better"
                break
        verdict = contest.end(max(len(history) - 1, 1))
        self._checkpoints.remove()
        return tuple(history), ended_because, resumed_from, verdict

    def _agreed(self, value: float) -> float:
        """Each process has norm statistics of its own; the first one's count."""
        return self._runtime.gathered(value if self._runtime.rank == 0 else 0.0)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        if self.optimizer == "AdamW":
            groups = with_decay(self._parameters, ADAMW_WEIGHT_DECAY)
            return torch.optim.AdamW(groups, lr=self.rate)
        groups = with_decay(self._parameters, WEIGHT_DECAY)
        return torch.optim.SGD(groups, lr=self.rate, momentum=MOMENTUM, nesterov=True)

    def _train_once(
        self, network: torch.nn.Module, optimizer: torch.optim.Optimizer, epoch: int
    ) -> float:
        """One round over the training images; the mean loss."""
        total, count = 0.0, 0
        network.train()
        first = (epoch - 1) * self._batches.steps_per_epoch
        num_steps = self._options.epochs * self._batches.steps_per_epoch
        for step, (inputs, labels) in enumerate(self._batches.of_epoch(epoch), start=first):
            set_rate(optimizer, self.rate * rate_factor(step, num_steps))
            optimizer.zero_grad(set_to_none=True)
            with self._runtime.mixed_precision():
                loss = self._loss(network, inputs, labels)
            self._runtime.backward(loss)
            self._runtime.step(optimizer, self._parameters)
            if self._average is not None:
                self._average.update(self._shrunk)
            total, count = total + float(loss.detach()), count + 1
        network.eval()
        return self._runtime.gathered(total) / max(self._runtime.gathered(float(count)), 1.0)

    def _loss(self, network: torch.nn.Module, inputs: Inputs, labels: Tensor | None) -> Tensor:
        *inner, answer = network(*inputs)
        loss = torch.zeros((), device=answer.device)
        share = 1.0
        if self._original is not None:
            with torch.no_grad():
                *goals, wanted = self._original(*inputs)
            share = 1.0 - LABEL_SHARE if labels is not None else 1.0
            error = self._task.imitation_loss(answer.float(), wanted.float(), TEMPERATURE)
            loss = loss + share * error
            errors = [
                value_error(value.float(), cut.kept_part(goal).float(), cut.batch_dim)
                for cut, value, goal in zip(self._cuts, inner, goals, strict=True)
            ]
            loss = loss + sum(errors, torch.zeros_like(loss)) / max(len(errors), 1)
        if labels is not None:
            share = LABEL_SHARE if self._original is not None else 1.0
            loss = loss + share * self._task.loss(answer.float(), labels) / len(labels)
        return loss

    def _teacher(self, targets: list[str]) -> fx.GraphModule | None:
        """The original where it runs; None if it teaches nothing."""
        if not self._options.distill:
            return None
        module = on_device(self._graph.module, self._runtime.device)
        return stretch(module, input_names(module), targets)

    def _averaged_score(self, contest: Contest) -> float:
        """Of the network, or of its average."""
        with ExitStack() as stack:
            if self._average is not None:
                stack.enter_context(self._average.applied(self._shrunk))
            return contest.look()


def _judge(graph: UnitGraph, selection: ImageSet, device: torch.device) -> Judge:
    require_targets(graph.outputs.task)
    return Judge(graph, selection, device, are_targets_known=True)


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
        runtime: Runtime,
        *,
        with_labels: bool,
    ) -> None:
        self._graph, self._training, self._seed = graph, training, seed
        self._runtime, self._with_labels = runtime, with_labels
        wanted = batch_size if graph.has_dynamic_batch else graph.inputs.batch
        self._size = min(wanted, training.num_images)
        per_process = training.num_images // self._size // runtime.num_processes
        self.steps_per_epoch = max(per_process, 1)

    def of_epoch(self, epoch: int) -> Iterator[tuple[Inputs, Tensor | None]]:
        """This process's share; the next batch is read while one is trained on."""
        seed = self._seed * 1_000_003 + epoch
        order = torch.randperm(
            self._training.num_images, generator=torch.Generator().manual_seed(seed)
        ).numpy()
        runtime, size = self._runtime, self._size
        end = self.steps_per_epoch * runtime.num_processes
        chosen = [
            order[(number * size) % len(order) :][:size]
            for number in range(runtime.rank, end, runtime.num_processes)
        ]
        moves = torch.Generator().manual_seed(seed * 1_009 + runtime.rank)
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
        labels = images.labels if self._with_labels else None
        tensors[place], labels = self._graph.outputs.task.augmented(tensors[place], labels, moves)
        if not self._graph.has_dynamic_batch:
            # Copies may have been left out, and the network takes just this many.
            again = torch.arange(self._graph.inputs.batch) % len(images)
            tensors = [tensor[again] for tensor in tensors]
            labels = None if labels is None else labels[again]
        device = self._runtime.device
        return (
            tuple(tensor.to(device) for tensor in tensors),
            None if labels is None else labels.to(device),
        )
