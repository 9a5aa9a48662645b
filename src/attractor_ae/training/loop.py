"""The training loop: read it from `train` downwards."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attractor_ae._devices import mixed_precision, resolve_device
from attractor_ae._errors import AttractorError
from attractor_ae._files import write_json, write_tensors, write_text
from attractor_ae._memory import keep_freed_memory
from attractor_ae._random import Stream, generator
from attractor_ae.core.masks import draw_masks
from attractor_ae.data import ImageSet
from attractor_ae.data.augmentation import Augmentation
from attractor_ae.experiment.config import ExperimentConfig, TrainingConfig
from attractor_ae.experiment.run import Run, environment
from attractor_ae.training.checkpoint import Checkpoint
from attractor_ae.training.feedback import Feedback
from attractor_ae.training.history import (
    EpochReport,
    epoch_report,
    history_text,
    read_history,
)
from attractor_ae.training.images import (
    check_trainable,
    trained_on,
    training_augmentation,
    training_part,
)
from attractor_ae.training.objectives import Targets, build_network, build_objective
from attractor_ae.training.optimization import build_optimizer, learning_rate, moving_average


@dataclass(frozen=True)
class Progress:
    """Where a training stands, told after every step.

    Attributes
    ----------
    step, steps
        Finished steps, and all of them.
    epoch, epochs
        The current epoch, from 1 on, and all of them.
    loss
        Mean loss of the epoch so far, as in the history: the last batch may be a few images.
    images_per_second
        Speed since the training was started or resumed.
    seconds_left
        Estimated time to the end.
    report
        The epoch's row of the history if this step ended an epoch.
    accuracy
        Share of the epoch's images so far that a classifier got right; NaN for an autoencoder.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    images_per_second: float
    seconds_left: float
    report: EpochReport | None = None
    accuracy: float = math.nan


def train(
    config: ExperimentConfig,
    images: ImageSet,
    folder: str | Path,
    *,
    natural: bool = False,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Run:
    """Train the network of an experiment and leave a run folder (PROTOCOL section 3).

    Parameters
    ----------
    config
        The experiment.
    images
        What is trained on. Images without a label (-1) are left out, and so is the share that the
        config keeps for calibration (see `training_part`).
    folder
        The run folder; made if it does not exist.
    natural
        Whether they are natural images or vehicle interiors, which are also augmented in brightness
        and contrast (if the config says ``augment``).
    resume
        Continue an interrupted run in ``folder`` from its last checkpoint, to the same weights as
        if it had not been interrupted: bitwise on a CPU with as many threads. A run that has no
        checkpoint starts, and a finished one is returned as it is.
    on_progress
        Called after every step.

    Returns
    -------
    Run
        The finished run.

    Raises
    ------
    AttractorError
        If the folder holds a run and ``resume`` is false, or one of another experiment; if there is
        nothing to train on, or images of another shape than the network's; if the loss ceases to be
        finite.
    KeyboardInterrupt
        As it comes, after the last finished epoch has been written as a checkpoint.
    """
    run = Run(Path(folder))
    images, _ = training_part(config, images)
    check_trainable(config, images)
    begun = check_claim(run, config, resume)
    if run.finished:
        return run

    # Everything that can be refused is built before anything is written.
    device = resolve_device(config.training.device, config.training.gpu)
    precision = mixed_precision(device, config.training.precision)
    loop = _Loop(config, images, training_augmentation(config.training, natural), device, precision)
    history: list[EpochReport] = []
    if begun:
        checkpoint = Checkpoint.read(run.checkpoint_file)
        loop.restore(checkpoint, run.checkpoint_file)
        history = read_history(run.history_file, checkpoint.epoch)
    else:
        write_text(run.config_file, config.to_toml())
        write_json(run.environment_file, environment(str(device), str(precision)))
    run.log(f"training from epoch {len(history) + 1} to {config.training.epochs} on {device}")

    def save() -> None:
        # The history first: rows beyond the checkpoint's epoch are dropped on resuming.
        write_text(run.history_file, history_text(history))
        checkpoint.write(run.checkpoint_file)

    checkpoint = loop.checkpoint(len(history))
    try:
        with keep_freed_memory():
            for progress in loop.run(first_epoch=len(history) + 1):
                if progress.report is not None:
                    history.append(progress.report)
                    checkpoint = loop.checkpoint(len(history))
                    _log_epoch(run, config.training, progress.report)
                    # At the end too: nothing is lost where the disk has no place for the weights.
                    last = len(history) == config.training.epochs
                    if last or len(history) % config.training.checkpoint_interval == 0:
                        save()
                on_progress(progress)
        write_tensors(run.weights_file, loop.weights(), trained_on(images))
    except KeyboardInterrupt:
        if history:
            save()
        run.log(f"interrupted after epoch {len(history)}")
        raise
    run.checkpoint_file.unlink(missing_ok=True)
    run.log("training is finished")
    return run


class _Loop:
    """Network, optimiser and data of one training, and the loop over epochs."""

    def __init__(
        self,
        config: ExperimentConfig,
        images: ImageSet,
        augmentation: Augmentation | None,
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        self._settings = settings = config.training
        self._augmentation = augmentation
        self._device = device
        self._precision = precision
        self.network = build_network(config, len(images.classes))
        # The convolutions of every device are fastest with the channels last.
        self.network.to(device).to(memory_format=torch.channels_last)
        self._objective = build_objective(config, self.network)
        self._optimizer = build_optimizer(self.network, settings)
        decay = settings.weight_averaging
        self._average = moving_average(self.network, decay) if decay else None
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        # A copy: prepared images are a map of a file, read-only, and torch wants to write.
        self._name, self._digest = images.name, images.digest
        self._images = torch.tensor(images.images, device=device)  # uint8 (n, c, h, w)
        self._labels = torch.from_numpy(images.labels).to(device)  # int64 (n,)
        self._targets = Targets(images, settings.make_instance_impossible)
        self._feedback = Feedback(self._images, settings.feedback) if settings.feedback else None
        self._steps_per_epoch = math.ceil(len(images) / settings.batch_size)
        self._feedback_from = settings.feedback_start * settings.epochs * self._steps_per_epoch

    def checkpoint(self, epoch: int) -> Checkpoint:
        return Checkpoint.take(
            epoch,
            self._digest,
            self.network,
            self._optimizer,
            self._scaler,
            self._further_state(),
        )

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        if checkpoint.images != self._digest:
            raise AttractorError(
                f"{path}: was begun on other images of data set {self._name!r} than these; resume "
                "on the same images, or choose another --out"
            )
        checkpoint.restore(self.network, self._optimizer, self._scaler, self._further_state(), path)

    def _further_state(self) -> dict[str, Tensor]:
        state = {} if self._feedback is None else {"outputs": self._feedback.outputs}
        if self._average is not None:
            # The tensors themselves, which a checkpoint is put back into.
            state |= {f"average.{k}": t for k, t in self._average.state_dict().items()}
        return state

    def weights(self) -> dict[str, Tensor]:
        """Return what the training is for: the last weights, or their moving average."""
        return (self.network if self._average is None else self._average.module).state_dict()

    def run(self, first_epoch: int) -> Iterator[Progress]:
        settings = self._settings
        count = len(self._labels)
        steps = settings.epochs * self._steps_per_epoch
        began, trained = time.perf_counter(), 0
        for epoch in range(first_epoch, settings.epochs + 1):
            # One stream an epoch: resuming at an epoch needs no state of any generator.
            rng = generator(settings.seed, Stream.TRAINING, epoch)
            order = rng.permutation(count)
            epoch_began, sums = time.perf_counter(), {}
            for start in range(0, count, settings.batch_size):
                rows = order[start : start + settings.batch_size]
                step = (epoch - 1) * self._steps_per_epoch + start // settings.batch_size
                rate = learning_rate(settings, step, steps)
                parts = self._step(rows, rate, rng, feed_back=step >= self._feedback_from)
                for name, value in parts.items():
                    sums[name] = sums.get(name, 0.0) + value * len(rows)
                if not math.isfinite(parts["loss"]):
                    raise AttractorError(
                        f"the loss is {parts['loss']} in epoch {epoch}; lower "
                        f"training.learning_rate (now {settings.learning_rate:g})"
                    )
                trained += len(rows)
                now = time.perf_counter()
                speed = trained / (now - began)
                ended = start + len(rows) == count
                report = None
                if ended:
                    report = epoch_report(epoch, sums, count, rate, now - epoch_began)
                left = (settings.epochs - epoch) * count + count - start - len(rows)
                yield Progress(
                    step + 1,
                    steps,
                    epoch,
                    settings.epochs,
                    sums["loss"] / (start + len(rows)),
                    speed,
                    left / speed,
                    report,
                    sums.get("accuracy", math.nan) / (start + len(rows)),
                )

    def _step(
        self, rows: np.ndarray, rate: float, rng: np.random.Generator, *, feed_back: bool
    ) -> dict[str, float]:
        network, optimizer = self.network, self._optimizer
        clean = self._batch(rows)
        target = self._batch(self._targets.draw(rows, rng))
        x = clean if self._augmentation is None else self._augmentation(clean, rng)
        if self._feedback is not None and feed_back:
            x = self._feedback.mix(x, rows, rng)
        masks = None
        if network.dropout > 0:
            masks = draw_masks(
                network.site_shapes, network.dropout, len(rows), rng, self._precision
            ).to(self._device)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        with torch.autocast(
            self._device.type, self._precision, enabled=self._precision != torch.float32
        ):
            x = x.contiguous(memory_format=torch.channels_last)
            losses = self._objective(x, target, self._labels[rows], masks)
        self._scaler.scale(losses.total).backward()
        self._scaler.step(optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(network)
        if self._feedback is not None:
            self._feedback.keep(losses.output, rows)
        return {
            "loss": losses.total.item(),
            **{name: part.item() for name, part in losses.parts.items()},
        }

    def _batch(self, rows: np.ndarray) -> Tensor:
        return self._images[torch.from_numpy(rows).to(self._device)].float().div_(255)


# What may change between the start of a run and its resumption: nothing that the weights depend on.
_FREE_ON_RESUME = {"training": {"gpu", "device", "frequency", "checkpoint_interval"}}


def check_claim(run: Run, config: ExperimentConfig, resume: bool) -> bool:
    """Return whether there is a training to continue; raise if the folder must not be written to.

    A training that ended before its first checkpoint has left nothing to lose: it starts over.
    """
    if not (run.finished or run.checkpoint_file.exists()):
        return False
    if not resume:
        raise AttractorError(
            f"{run.path}: holds a run already; "
            "continue it with --resume, or choose another folder with --out"
        )
    old = run.config().model_dump(exclude={"evaluation"})
    new = config.model_dump(exclude={"evaluation"})
    for section, values in old.items():
        for key, value in values.items():
            if key not in _FREE_ON_RESUME.get(section, ()) and value != new[section][key]:
                raise AttractorError(
                    f"{run.path}: was begun with {section}.{key} = {value!r}, not "
                    f"{new[section][key]!r}; resume with the same value, or choose another --out"
                )
    return True


def _log_epoch(run: Run, settings: TrainingConfig, report: EpochReport) -> None:
    if report.epoch % settings.frequency == 0 or report.epoch == settings.epochs:
        accuracy = "" if math.isnan(report.accuracy) else f"accuracy {report.accuracy:.1%}, "
        run.log(
            f"epoch {report.epoch} of {settings.epochs}: loss {report.loss:.6g}, {accuracy}"
            f"{report.images_per_second:.0f} images a second"
        )
