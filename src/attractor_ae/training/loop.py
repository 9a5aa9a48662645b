"""The training loop (PROTOCOL section 3): read it from `train` downwards."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from attractor_ae._devices import mixed_precision, pixels, resolve_device
from attractor_ae._errors import AttractorError
from attractor_ae._files import file_name, remove_leftovers, write_json, write_tensors, write_text
from attractor_ae._memory import keep_freed_memory
from attractor_ae._random import Stream, generator
from attractor_ae._reporter import SILENT, Reporter, duration, percent
from attractor_ae.baselines import ConvClassifier
from attractor_ae.core.masks import draw_masks
from attractor_ae.core.spaces import Features
from attractor_ae.data import ImageSet
from attractor_ae.data.augmentation import Augmentation, shifted
from attractor_ae.data.info import AugmentationKind
from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.experiment.run import Run, check_claim, claimed, environment
from attractor_ae.training.checkpoint import Checkpoint
from attractor_ae.training.features import with_features
from attractor_ae.training.history import Epoch, history_text, read_history
from attractor_ae.training.objective import (
    build_class_layer,
    build_network,
    build_objective,
    target_sampler,
)
from attractor_ae.training.optimization import build_optimizer, dropout_rate, learning_rate
from attractor_ae.training.preparation import (
    balanced_rows,
    check_trainable,
    trained_on,
    training_augmentation,
    training_part,
)
from attractor_ae.training.self_check import check_network, plateau, validate

_STEPS = 1_080  # of a training with epochs = 0: 30 epochs of 2 250 images
_STEPS_TO_ESTIMATE = 10  # after which the length of the training can be estimated
_LOOKS = (1 / 4, 1 / 2)  # of a training, at which it may be stopped
_LONGER_WARMUP = 3  # factor of the dropout warm-up of a training that starts again


def train(
    config: ExperimentConfig,
    images: ImageSet,
    folder: str | Path,
    *,
    augmentation: AugmentationKind | None = None,
    resume: bool = False,
    validation: Sequence[ImageSet] = (),
    reporter: Reporter = SILENT,
    stop: Callable[[float, int], bool] | None = None,
) -> Run:
    """Train the network of an experiment and make a run folder.

    If an autoencoder has learned nothing by the end of its dropout warm-up, the training starts
    again once, with a longer warm-up. The self-check of the trained network is noted and stored.

    Args:
        images: The training images. Images without a label (-1) are left out, and so is the
            fraction that the config keeps for calibration.
        augmentation: Kind of the images, "grey", "natural" or "cars" (PROTOCOL section 3), which
            determines their augmentation if the config sets ``augment``. By default, colour images
            count as natural, and others as grey.
        resume: Continue an interrupted run from its last checkpoint, to the same weights as without
            the interruption: bitwise on a CPU with the same number of threads. A run without a
            checkpoint starts again, and a finished run is returned unchanged.
        validation: Sets of test images, whose accuracy follows each line of the log, and some
            reconstructions of which are drawn; nothing else depends on them.
        reporter: Receives the progress after every step.
        stop: Return whether to stop, leaving an unfinished run, for the accuracy on the calibration
            images and their number: after a quarter and a half of the training, unless it started
            again.

    Raises:
        AttractorError: If the folder contains a run and ``resume`` is false, or a run of another
            experiment; if there are no training images, or their shape does not fit the network;
            if the loss becomes infinite or NaN.
        KeyboardInterrupt: On Ctrl-C, after a checkpoint of the last finished epoch.
    """
    run = Run(Path(folder))
    with claimed(run):
        return _train(run, config, images, augmentation, resume, validation, reporter, stop)


def _train(
    run: Run,
    config: ExperimentConfig,
    images: ImageSet,
    augmentation: AugmentationKind | None,
    resume: bool,
    validation: Sequence[ImageSet],
    reporter: Reporter,
    stop: Callable[[float, int], bool] | None,
) -> Run:
    images, kept = training_part(config, with_features(config, images, reporter))
    check_trainable(config, images)
    named = (test.take(np.flatnonzero(test.labels >= 0)) for test in validation)
    tests = [with_features(config, test, reporter) for test in named if len(test)]
    started = check_claim(run, config, resume)
    remove_leftovers(run.path)
    if run.finished:
        run.checkpoint_file.unlink(missing_ok=True)  # left if the process was killed at the end
        return run

    # Everything that can fail is built before anything is written.
    device = resolve_device(config.training.device, config.training.gpu)
    precision = mixed_precision(device, config.training.precision)
    augment = training_augmentation(config, augmentation)
    loop = _Loop(config, images, augment, device, precision)
    history: list[Epoch] = []
    if started:
        checkpoint = Checkpoint.read(run.checkpoint_file)
        loop.restore(checkpoint, run.checkpoint_file)
        history = read_history(run.history_file, checkpoint.epoch)
    else:
        write_text(run.config_file, config.to_toml())
        write_json(run.environment_file, environment(str(device), str(precision)))
    run.log(f"training from epoch {len(history) + 1} to {loop.last_epoch} on {device}")

    def note(line: str) -> None:
        run.log(line)
        reporter.note(line)

    def save() -> None:
        # The history first: rows after the checkpoint's epoch are dropped on resuming.
        write_text(run.history_file, history_text(history))
        checkpoint.write(run.checkpoint_file)

    checkpoint = loop.checkpoint(len(history))
    looks = {math.ceil(loop.last_epoch * part) for part in _LOOKS} - {loop.last_epoch}
    try:
        with keep_freed_memory():
            while len(history) < loop.last_epoch:
                for epoch in loop.epochs(len(history) + 1, reporter):
                    history.append(epoch)
                    last = epoch.epoch == loop.last_epoch
                    if logged := last or epoch.epoch % config.training.frequency == 0:
                        run.log(f"epoch {epoch.epoch} of {loop.last_epoch}: {epoch.summary()}")
                    if reason := loop.stuck(epoch.epoch):
                        loop.restart()
                        history.clear()
                        line = f"after epoch {epoch.epoch}, {reason}; training starts again with "
                        line += f"{loop.warmup} steps of dropout warm-up"
                        note(line)
                        break
                    checkpoint = loop.checkpoint(len(history))
                    # Also at the end, in case the disk has no space for the weights.
                    if last or len(history) % config.training.checkpoint_interval == 0:
                        save()
                    for test in tests if logged else ():
                        name = f"validation/{file_name(test.name)}-{epoch.epoch:06}.png"
                        found = validate(config, loop.network, images, test, run.path / name)
                        note(f"epoch {epoch.epoch}, {test.name}: {found}")
                    if stop and len(history) in looks and not loop.restarted:
                        found = check_network(config, loop.network, images, kept)
                        if stop(found.accuracy or 0.0, found.images):
                            run.log(f"stopped after epoch {len(history)}: {found.summary()}")
                            return run
        check = check_network(config, loop.network, images, kept, restarted=loop.restarted)
        write_json(run.self_check_file, check.values())
        write_tensors(run.weights_file, loop.network.state_dict(), trained_on(images))
    except KeyboardInterrupt:
        if history:
            save()
        run.log(f"interrupted after epoch {len(history)}")
        raise
    run.checkpoint_file.unlink(missing_ok=True)
    run.log("training is finished")
    for line in filter(None, (f"self-check on {check.summary()}", run.self_check_failure())):
        note(line)
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
        self._config, self._settings, self._set = config, config.training, images
        self._augmentation, self._device, self._precision = augmentation, device, precision
        self._steps_per_epoch = math.ceil(len(images) / self._settings.batch_size)
        self.last_epoch = self._settings.epochs or math.ceil(_STEPS / self._steps_per_epoch)
        self._steps = self.last_epoch * self._steps_per_epoch
        self.restarted = False
        self._build()
        # A copy: prepared images are a read-only map of a file, and torch needs writable memory.
        self._images = torch.tensor(images.inputs, device=device)  # uint8 (n, c, h, w), or features
        self._labels = torch.from_numpy(images.labels).to(device)  # int64 (n,)
        self._targets = target_sampler(images, self._settings.make_instance_impossible)

    def _build(self) -> None:
        """Build the untrained network and its optimiser."""
        self.network = build_network(self._config, len(self._set.classes))
        # Convolutions are fastest with the channels last, on every device.
        self.network.to(self._device).to(memory_format=torch.channels_last)
        if isinstance(self.network.space, Features):
            self.network.space.fit(torch.from_numpy(self._set.features).to(self._device))
        layer = build_class_layer(self._config, len(self._set.classes))
        # Everything with trainable weights; only the network is stored.
        self._trained = nn.ModuleList(filter(None, (self.network, layer))).to(self._device)
        self._objective = build_objective(self._config, self.network, layer)
        self._optimizer = build_optimizer(self._trained, self._settings)
        enabled = self._precision == torch.float16
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=enabled)

    @property
    def warmup(self) -> int:
        """Steps of the dropout warm-up: at most a third of the training, or two thirds."""
        times, thirds = (_LONGER_WARMUP, 2) if self.restarted else (1, 1)
        return min(times * self._settings.dropout_warmup, thirds * self._steps // 3)

    def stuck(self, epoch: int) -> str:
        """Return why the training must start again after an epoch, or ""."""
        warm = self.warmup
        due = warm and epoch == math.ceil(warm / self._steps_per_epoch)
        if self.restarted or not due or isinstance(self.network, ConvClassifier):
            return ""
        return " and ".join(plateau(self._config, self.network, self._set))

    def restart(self) -> None:
        """Return to the initial weights, with a longer warm-up."""
        self.restarted = True
        self._build()

    def checkpoint(self, epoch: int) -> Checkpoint:
        state = (self._trained, self._optimizer, self._scaler)
        return Checkpoint.take(epoch, self._set.digest, self.restarted, *state)

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        if checkpoint.images != self._set.digest:
            raise AttractorError(
                f"{path}: belongs to a training on other images of data set {self._set.name!r}; "
                "resume on the same images, or choose another --out"
            )
        self.restarted = checkpoint.restarted
        checkpoint.restore(self._trained, self._optimizer, self._scaler, path)

    def epochs(self, first: int, reporter: Reporter) -> Iterator[Epoch]:
        """Train the remaining epochs, and yield the history row of each."""
        settings, labels, count = self._settings, self._set.labels, len(self._labels)
        steps_per_epoch, steps, warmup = self._steps_per_epoch, self._steps, self.warmup
        start, trained = time.perf_counter(), 0
        for epoch in range(first, self.last_epoch + 1):
            # One stream per epoch: resuming at an epoch needs no state of a generator.
            rng = generator(settings.seed, Stream.TRAINING, epoch)
            drawn = balanced_rows(labels, rng) if settings.balanced else rng.permutation(count)
            batches = np.array_split(drawn, range(settings.batch_size, count, settings.batch_size))
            epoch_start, sums, seen, rate = time.perf_counter(), {}, 0, 0.0
            progress = (0, steps, "", 0.0)
            for i, rows in enumerate(batches):
                step = (epoch - 1) * steps_per_epoch + i
                rate = learning_rate(settings, step, steps)
                dropout = dropout_rate(self.network.dropout, step, warmup)
                losses = self._step(rows, rate, dropout, rng)
                if not math.isfinite(losses["loss"]):
                    raise AttractorError(
                        f"the loss is {losses['loss']} in epoch {epoch}; lower "
                        f"training.learning_rate (now {settings.learning_rate:g})"
                    )
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value * len(rows)
                seen, trained = seen + len(rows), trained + len(rows)
                speed = trained / (time.perf_counter() - start)
                left = (self.last_epoch - epoch) * count + count - seen
                accuracy = (
                    f"accuracy {percent(sums['accuracy'] / seen)}, " if "accuracy" in sums else ""
                )
                detail = f"epoch {epoch}/{self.last_epoch}, loss {sums['loss'] / seen:.4g}, "
                detail += f"{accuracy}{speed:.0f} images/s"
                progress = (step + 1, steps, detail, left / speed)
                if epoch == first and i == min(_STEPS_TO_ESTIMATE, len(batches) - 1):
                    what = f"{self.last_epoch} epoch{'s' * (self.last_epoch > 1)}, {steps} steps"
                    time_left = f"about {duration(left / speed)} left"
                    reporter.note(f"training on {count} images: {what} in all, {time_left}")
                if seen < count:
                    reporter.progress("training", *progress)
            yield Epoch.of(epoch, sums, count, rate, time.perf_counter() - epoch_start)
            reporter.progress("training", *progress)  # after the epoch has been recorded

    def _step(
        self, rows: np.ndarray, rate: float, dropout: float, rng: np.random.Generator
    ) -> dict[str, float]:
        """Take one optimiser step on the images at ``rows``, and return the losses."""
        network, optimizer = self.network, self._optimizer
        most = round(self._settings.shift * self._images.shape[-1])
        moves = rng.integers(-most, most + 1, (2, len(rows))) if most else None
        clean = self._batch(rows, moves)
        target = self._batch(self._targets(rows, rng), moves)
        x = clean if self._augmentation is None else self._augmentation(clean, rng)
        x = self.network.space.points(x)
        if self._settings.noise:
            noise = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
            x = x + self._settings.noise * noise.to(self._device)
        masks = None
        if dropout > 0:
            shapes = (network.site_shapes, dropout)
            masks = draw_masks(*shapes, len(rows), rng, self._precision).to(self._device)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        mixed = self._precision != torch.float32
        with torch.autocast(self._device.type, self._precision, enabled=mixed):
            if x.ndim == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            losses = self._objective(x, target, self._labels[rows], masks)
        self._scaler.scale(losses["loss"]).backward()
        self._scaler.step(optimizer)
        self._scaler.update()
        return {name: value.item() for name, value in losses.items()}

    def _batch(self, rows: np.ndarray, moves: np.ndarray | None) -> Tensor:
        images = self._images[torch.from_numpy(rows).to(self._device)]
        return pixels(images if moves is None else shifted(images, moves), self._device)
