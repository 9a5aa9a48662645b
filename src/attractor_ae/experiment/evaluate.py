"""Measure finished runs on known and unknown images (``attractor-ae evaluate``)."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attractor_ae import __version__
from attractor_ae._detector import Detector
from attractor_ae._devices import mixed_precision
from attractor_ae._errors import AttractorError
from attractor_ae._files import file_name, write_json
from attractor_ae.core.detector import AttractorDetector
from attractor_ae.data import ImageSet
from attractor_ae.experiment.fit import evaluation_config, fit_detector, fit_ensemble
from attractor_ae.experiment.plan import (
    ImageProgress,
    LeftOut,
    evaluated,
    evaluated_images,
    silent,
    training_images,
)
from attractor_ae.experiment.result import METRICS_FILE, EvaluationResult, evaluate
from attractor_ae.experiment.run import Run, environment
from attractor_ae.reporting import (
    auroc_by_recursion,
    entropy_histogram,
    reconstruction_figure,
    save_figure,
)

ENSEMBLE = "ensemble"
"""Name of the folder, beside its members' runs, that an ensemble is evaluated in."""
MEMBERS_FILE = "members.json"
"""Which runs an ensemble is made of."""
TRIALS_FILE = "trials.safetensors"
"""The curve over the number of trials, which figures leave beside the result."""


def run_evaluation(
    folder: str | Path,
    *,
    overrides: Sequence[str] = (),
    data_root: str | Path | None = None,
    again: bool = False,
    on_progress: ImageProgress = silent,
    on_preparing: ImageProgress = silent,
    on_left_out: LeftOut = lambda _: None,
) -> EvaluationResult:
    """Evaluate a finished run and leave scores, metrics and figures (``attractor-ae evaluate``).

    They are written to ``RUN/evaluation``, and the fitted detector to
    ``RUN/detector.safetensors``. What was measured before with
    the same settings, weights and images is read; another evaluation takes its place.

    Parameters
    ----------
    folder
        The run folder.
    overrides
        Any number of ``"evaluation.key=value"``.
    data_root
        Where the data sets' files are.
    again
        Measure again, also with the same settings.
    on_progress
        Called with the name of a data set and its images that are scored and of all.
    on_preparing
        Called with the name of a data set and its images that are prepared and of all.
    on_left_out
        Called with a data set of which files cannot be used; see `ImageSet.left_out`.

    Raises
    ------
    AttractorError
        On everything that a user can repair.
    """
    run = Run.open(folder)
    return _evaluated_into(
        run, [run], overrides, data_root, again, on_progress, on_preparing, on_left_out
    )


def run_ensemble_evaluation(
    folders: Sequence[str | Path],
    target: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    data_root: str | Path | None = None,
    again: bool = False,
    on_progress: ImageProgress = silent,
    on_preparing: ImageProgress = silent,
    on_left_out: LeftOut = lambda _: None,
) -> EvaluationResult:
    """Evaluate finished runs of classifiers as one deep ensemble.

    What `run_evaluation` leaves for a run is left in one folder, with the names of the members.

    Parameters
    ----------
    folders
        The run folders of the members; see `attractor_ae.fit_ensemble`.
    target
        Where to write; by default the folder ``ensemble`` beside the first run.
    overrides, data_root, again, on_progress, on_preparing, on_left_out
        As for `run_evaluation`.

    Raises
    ------
    AttractorError
        On everything that a user can repair.
    """
    if not folders:
        raise AttractorError("an ensemble needs at least one run; give folders of finished runs")
    runs = [Run.open(folder) for folder in folders]
    home = Run(runs[0].path.parent / ENSEMBLE if target is None else Path(target))
    if home.config_file.exists():
        raise AttractorError(f"{home.path}: is a run; choose another folder for the ensemble")
    return _evaluated_into(
        home, runs, overrides, data_root, again, on_progress, on_preparing, on_left_out
    )


def _evaluated_into(
    home: Run,
    runs: Sequence[Run],
    overrides: Sequence[str],
    data_root: str | Path | None,
    again: bool,
    on_progress: ImageProgress,
    on_preparing: ImageProgress,
    on_left_out: LeftOut,
) -> EvaluationResult:
    """Evaluate one run, or several as an ensemble, and leave the results in ``home``."""
    config = evaluation_config(runs[0], overrides)
    # Everything is loaded before anything is computed, so that a missing set is told at once.
    every = evaluated(config, data_root)
    known, shifted, unknown = evaluated_images(
        config, every, data_root=data_root, on_preparing=on_preparing
    )
    sets = [known, *shifted, *unknown]
    trained = training_images(config, data_root=data_root, on_preparing=on_preparing)
    # What a result depends on; the rest of its provenance tells how it came about.
    basis = {
        "version": __version__,
        "experiment": config.model_dump(mode="json"),
        "weights": [_digest(_content(run.weights_file)) for run in runs],
        "images": {images.name: images.digest for images in sets},
        "training_images": trained.digest,
    }
    if not again and (stored := stored_result(home, basis)) is not None:
        return stored
    home.path.mkdir(parents=True, exist_ok=True)
    for images in sets:
        if images.left_out:
            home.log(f"left out of {images.name} ({images.split}): {len(images.left_out)} files")
            on_left_out(images)
    natural = every.known.info.natural
    if home in runs:
        detector = fit_detector(home.path, trained, overrides=overrides, natural=natural)
    else:
        folders = [run.path for run in runs]
        detector = fit_ensemble(folders, trained, overrides=overrides, natural=natural)
    precision = mixed_precision(detector.device, detector.precision)
    result = evaluate(
        detector,
        known,
        unknown,
        shifted,
        # Of a classifier there are fewer: it has no reconstructions and no latent codes.
        scores=[name for name in config.evaluation.scores if name in detector.score_names],
        provenance={**environment(str(detector.device), str(precision)), **basis},
        on_progress=on_progress,
    )
    # Only now, with all at hand, does the result that was there go: first what says that the folder
    # is complete, which comes back last.
    for name in (METRICS_FILE, TRIALS_FILE):
        (home.evaluation_folder / name).unlink(missing_ok=True)
    if home not in runs:
        members = [os.path.relpath(run.path, home.path) for run in runs]
        write_json(home.path / MEMBERS_FILE, {"members": members})
    detector.save(home.detector_file)
    _write_figures(home.evaluation_folder, result, detector, sets)
    result.save(home.evaluation_folder)  # last: what it says is there, is there
    home.log(f"evaluated on {', '.join(images.name for images in sets)}")
    return result


def stored_result(home: Run, basis: Mapping[str, Any]) -> EvaluationResult | None:
    """Return the result that a folder holds, if it was made of ``basis``, else None.

    Parameters
    ----------
    home
        A run, or the folder of an ensemble.
    basis
        What the result's provenance must say.
    """
    complete = (home.evaluation_folder / METRICS_FILE, home.detector_file)
    if not all(path.is_file() for path in complete):
        return None
    try:
        result = EvaluationResult.load(home.evaluation_folder)
    except AttractorError:  # damaged: it is made again
        return None
    same = all(result.provenance.get(key) == value for key, value in basis.items())
    return result if same else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AttractorError(f"{path}: cannot be read ({error.strerror}); train again") from None


def _write_figures(
    folder: Path,
    result: EvaluationResult,
    detector: Detector,
    sets: Sequence[ImageSet],
) -> None:
    # Those of sets that an earlier evaluation looked at would be taken for results of this one.
    for stale in (*folder.glob("reconstructions-*"), *folder.glob("recursions.*")):
        stale.unlink()
    save_figure(entropy_histogram(result), folder / "entropy")
    if result.recursions > 1:
        save_figure(auroc_by_recursion(result), folder / "recursions")
    if not isinstance(detector, AttractorDetector):
        return  # a classifier reconstructs nothing
    # The middle image of each set: neither chosen for its looks nor by its score.
    middle = np.stack([images.images[len(images) // 2] for images in sets])
    trajectories = detector.trajectory(middle)[:4]
    inputs = torch.from_numpy(middle).float() / 255
    names = [images.name for images in sets]
    figure = reconstruction_figure(inputs, trajectories, names, per_row=3)
    save_figure(figure, folder / "reconstructions")
    for i, name in enumerate(names):
        save_figure(
            reconstruction_figure(inputs[i : i + 1], [t.image(i) for t in trajectories], [name]),
            folder / f"reconstructions-{file_name(name)}",
        )
