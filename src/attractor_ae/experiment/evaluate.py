"""Evaluation of finished runs on known and unknown images (``attractor-ae evaluate``)."""

import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from attractor_ae import __version__, reporting
from attractor_ae._detector import Detector
from attractor_ae._devices import mixed_precision
from attractor_ae._errors import AttractorError
from attractor_ae._files import remove_leftovers, temporary_folder, write_json
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.core.detector import AttractorDetector
from attractor_ae.core.scores import OOD_SCORE
from attractor_ae.data import ImageSet
from attractor_ae.experiment import fit as fitting
from attractor_ae.experiment.config import preset
from attractor_ae.experiment.plan import make_plan
from attractor_ae.experiment.report import run_part
from attractor_ae.experiment.result import METRICS_FILE, EvaluationResult, evaluate
from attractor_ae.experiment.run import Run, environment
from attractor_ae.experiment.train import run_training
from attractor_ae.experiment.trial_curve import TRIALS_FILE
from attractor_ae.reporting.report import save_report

ENSEMBLE = "ensemble"
"""Name of the folder of an evaluated ensemble, next to the runs of its members."""
MEMBERS_FILE = "members.json"
"""Name of the file that lists the runs of an ensemble."""


def run_evaluation(
    folder: str | Path,
    *,
    overrides: Sequence[str] = (),
    data_root: str | Path | None = None,
    again: bool = False,
    reporter: Reporter = SILENT,
) -> EvaluationResult:
    """Evaluate a finished run, and write scores, metrics and figures to ``RUN/evaluation``.

    The fitted detector is written to ``RUN/detector.safetensors``. A stored result with the same
    settings, weights and images is reused; any other result is replaced.

    Args:
        overrides: Any number of ``"evaluation.key=value"``.
        data_root: Folder of the data sets' files.
        again: Evaluate again even if there is a result with the same settings.
        reporter: Receives progress and notes.
    """
    run = Run.open(folder)
    return _evaluated_into(run, [run], overrides, data_root, again, reporter)


def run_ensemble_evaluation(
    folders: Sequence[str | Path],
    target: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    data_root: str | Path | None = None,
    again: bool = False,
    reporter: Reporter = SILENT,
) -> EvaluationResult:
    """Evaluate finished runs of classifiers as one deep ensemble; see `run_evaluation`.

    The result is written to ``target``, by default ``ensemble`` next to the first run.
    """
    runs = fitting.open_members(folders)
    home = Run(runs[0].path.parent / ENSEMBLE if target is None else Path(target))
    if home.config_file.exists():
        raise AttractorError(f"{home.path}: is a run; choose another folder for the ensemble")
    return _evaluated_into(home, runs, overrides, data_root, again, reporter)


def run_demo(
    folder: str | Path, *, overrides: Sequence[str] = (), reporter: Reporter = SILENT
) -> EvaluationResult:
    """Train on real digits and detect other images; continue a demo that was interrupted.

    ``overrides``, each ``"section.key=value"``, change the preset ``quick``.
    """
    run = run_training(preset("quick", overrides), folder, resume=True, reporter=reporter)
    # A resumed run keeps its stored config, so these overrides are passed again.
    again = [text for text in overrides if text.startswith(fitting.AFTER_TRAINING)]
    result = run_evaluation(run.path, overrides=again, reporter=reporter)
    part = run_part(result.method, result, run, reporter=reporter)
    save_report(run.path / "report.html", [part], "Demo: real digits", reporter=reporter)
    return result


def _evaluated_into(
    home: Run,
    runs: Sequence[Run],
    overrides: Sequence[str],
    data_root: str | Path | None,
    again: bool,
    reporter: Reporter,
) -> EvaluationResult:
    """Evaluate one run, or several as an ensemble, and write the result to ``home``."""
    configs = [fitting.evaluation_config(run, overrides) for run in runs]
    config = configs[0]
    plan = make_plan(config, data_root)
    plan.check()
    # Everything is loaded before anything is computed, so that a missing set is reported at once.
    known = plan.load(plan.in_dataset, reporter)
    shifted = [plan.load(planned, reporter) for planned in plan.covariate_shift]
    unknown = [plan.load(planned, reporter) for planned in plan.out]
    trained = plan.load_training(reporter)
    sets = [known, *shifted, *unknown]
    # Everything that a result depends on; the rest of its provenance is only a record.
    basis = {
        "version": __version__,
        "experiment": config.model_dump(mode="json"),
        "weights": [sha256(run.weights_file.read_bytes()).hexdigest() for run in runs],
        "images": {images.name: images.digest for images in sets},
        "training_images": trained.digest,
    }
    if not again and (stored := stored_result(home, basis)) is not None:
        fitting.note_failures(runs, reporter)
        return stored
    if home.detector_file.exists() and not again:
        reporter.note(
            f"{home.path}: replacing the result and detector made with other settings or images"
        )
    home.path.mkdir(parents=True, exist_ok=True)
    remove_leftovers(home.path, seconds=3600.0)  # not of another evaluation that is running
    for images in sets:
        if images.left_out:
            home.log(f"files left out of {images.name} ({images.split}): {len(images.left_out)}")
    if home in runs:
        detector = fitting.detector_of(home, config, trained, plan.augmentation, reporter)
    else:
        detector = fitting.ensemble_of(runs, configs, trained, reporter)
    precision = mixed_precision(detector.device, detector.precision)
    made = {**environment(str(detector.device), str(precision)), **basis}
    made["self_checks"] = [run.self_check() for run in runs]
    # A classifier has fewer scores: no reconstructions and no latent codes.
    scores = [name for name in config.evaluation.scores if name in detector.score_names]
    result = evaluate(
        detector, known, unknown, shifted, scores=scores, provenance=made, reporter=reporter
    )
    # Everything is written to a temporary folder first, so that an error keeps the old result.
    with temporary_folder(home.evaluation_folder) as new:
        detector.save(new / home.detector_file.name)
        _write_figures(new, result, detector, sets)
        result.save(new)
        _replace_result(home, new)
        if home not in runs:
            members = [os.path.relpath(run.path, home.path) for run in runs]
            write_json(home.path / MEMBERS_FILE, {"members": members})
    home.log(f"evaluated on {', '.join(images.name for images in sets)}")
    fitting.note_failures(runs, reporter)
    return result


def stored_result(home: Run, basis: Mapping[str, Any]) -> EvaluationResult | None:
    """Return the result of a run or ensemble folder if its provenance contains ``basis``."""
    complete = (home.evaluation_folder / METRICS_FILE, home.detector_file)
    if not all(path.is_file() for path in complete):
        return None
    try:
        result = EvaluationResult.load(home.evaluation_folder)
    except AttractorError:  # damaged: evaluate again
        return None
    same = all(result.provenance.get(key) == value for key, value in basis.items())
    return result if same else None


def _replace_result(home: Run, new: Path) -> None:
    """Move the files of a new result into an evaluated folder, in place of the old result."""
    folder = home.evaluation_folder
    folder.mkdir(exist_ok=True)
    # Figures of other sets would be mistaken for those of the new result. The file that marks a
    # result as complete is removed first and written last.
    figures = ("reconstructions-*", "recursions.*", "*entropy.*", f"{OOD_SCORE}.*")
    stale = [path for pattern in figures for path in folder.glob(pattern)]
    for path in (folder / METRICS_FILE, folder / TRIALS_FILE, *stale):
        path.unlink(missing_ok=True)
    (new / home.detector_file.name).replace(home.detector_file)
    for path in sorted(new.iterdir(), key=lambda path: path.name == METRICS_FILE):
        path.replace(folder / path.name)


def _write_figures(
    folder: Path, result: EvaluationResult, detector: Detector, sets: Sequence[ImageSet]
) -> None:
    reporting.save_figure(reporting.entropy_histogram(result), folder / result.score)
    if result.recursions > 1:
        reporting.save_figure(reporting.auroc_by_recursion(result), folder / "recursions")
    if not isinstance(detector, AttractorDetector):
        return  # a classifier does not reconstruct
    blocks = reporting.middle_blocks(detector, sets)
    if blocks:
        reporting.save_figure(
            reporting.reconstruction_figure(blocks, per_row=3), folder / "reconstructions"
        )
