"""Tables and figures of evaluated runs (``attractor-ae table`` and ``figures``)."""

import copy
import dataclasses
import glob
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attractor_ae import reporting
from attractor_ae._detector import Detector
from attractor_ae._errors import AttractorError, quoted_command
from attractor_ae._files import file_name
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.baselines import load_detector
from attractor_ae.core.detector import AttractorDetector
from attractor_ae.data import ImageSet
from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.experiment.evaluate import ENSEMBLE, MEMBERS_FILE
from attractor_ae.experiment.plan import make_plan
from attractor_ae.experiment.result import METRICS_FILE, EvaluationResult
from attractor_ae.experiment.run import Run
from attractor_ae.experiment.sweep import find_runs
from attractor_ae.experiment.trial_curve import TRIALS_FILE, TrialCurve, trial_curve

_MOST_SAMPLED = 200
"""Largest number of images per set for the trial curve and the latent map."""


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """The result of a run or an ensemble, or a saved result without a run."""

    path: Path
    result: EvaluationResult
    run: Run | None = None

    def detector(self) -> Detector:
        """Return the fitted detector of the evaluation."""
        assert self.run is not None
        return load_detector(self.run.detector_file)


def compare_runs(places: Sequence[str | Path], **options: Any) -> reporting.Comparison:  # noqa: ANN401
    """Return the table of evaluated runs, sweeps and ensembles (``attractor-ae table``).

    ``places`` are folders or glob patterns; see `measured_runs`. ``options`` are passed to
    `attractor_ae.reporting.compare`.

    Raises:
        AttractorError: If a place contains no evaluated run, or the results cannot be compared.
    """
    measured = measured_runs(places)
    return reporting.compare(
        {label: [run.result for run in runs] for label, runs in measured.items()}, **options
    )


def draw_runs(
    places: Sequence[str | Path],
    folder: str | Path,
    *,
    reference: str | None = None,
    data_root: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> list[Path]:
    """Draw every figure of evaluated runs, sweeps and ensembles; return the PNG files.

    With several D_in, the runs on each have their own folder, and one figure shows the
    reconstructions side by side. ``places`` are folders or glob patterns; see `measured_runs`.
    ``reference`` is that of `entropy_histogram`.

    Raises:
        AttractorError: As for `compare_runs`, or if files of the data sets are missing.
    """
    by_in_dataset: dict[str, dict[str, list[MeasuredRun]]] = {}
    for label, runs in measured_runs(places).items():
        name = runs[0].result.in_scores.name
        by_in_dataset.setdefault(name, {})[label] = runs
    drawn, side_by_side = [], []
    images = images_of_runs(data_root, reporter)
    for name, measured in by_in_dataset.items():
        alone = len(by_in_dataset) == 1
        place = Path(folder) if alone else Path(folder) / file_name(name)
        drawn += suite_figures(
            place, measured, images, reference=reference, on_note=reporter.note, reporter=reporter
        )
        if not alone:
            side_by_side.append(reconstructions(measured, images))
    # A row shows the same kind of image under the networks of every D_in.
    blocks = [block for row in zip(*filter(None, side_by_side), strict=True) for block in row]
    if blocks:
        figure = reporting.reconstruction_figure(blocks, per_row=sum(map(bool, side_by_side)))
        drawn.append(reporting.save_figure(figure, Path(folder) / "reconstructions")[0])
    return drawn


def measured_runs(places: Sequence[str | Path]) -> dict[str, list[MeasuredRun]]:
    """Return results by method; runs that differ only in the seed belong to one method.

    ``places``: run folders, sweep folders, folders of ensembles or of saved results
    (`EvaluationResult.save`), and glob patterns. If the runs of a sweep were evaluated as an
    ensemble, the ensemble is used. If a method has several experiments, the folder is added to
    its name.
    """
    found: dict[Path, MeasuredRun] = {}
    others = []
    for place in places:
        matches = sorted(map(Path, glob.glob(str(place)))) or [Path(place)]  # noqa: PTH207
        results = [match for match in matches if _is_complete(match)]
        ensembles = [match for match in matches if (match / MEMBERS_FILE).is_file()]
        for match in results:
            found[match.resolve()] = MeasuredRun(match, EvaluationResult.load(match))
        for match in ensembles:
            found[match.resolve()] = _measured(Run(match))
        if not results and not ensembles:
            others.append(place)
    for run in find_runs(*others) if others else ():
        together = Run(run.path.parent / ENSEMBLE)
        member = _is_member(run, together) and _is_complete(together.evaluation_folder)
        home = together if member else run
        if not _is_complete(home.evaluation_folder):
            raise AttractorError(
                f"{run.path}: was not evaluated; run: " + quoted_command("evaluate", run.path)
            )
        if home.path.resolve() not in found:
            found[home.path.resolve()] = _measured(home)
    experiments: dict[str, list[MeasuredRun]] = {}
    for measured in found.values():
        # Copied, so that the result keeps its seed.
        experiment = copy.deepcopy(measured.result.provenance.get("experiment", {}))
        experiment.get("training", {}).pop("seed", None)
        key = json.dumps([measured.result.method, experiment], sort_keys=True)
        experiments.setdefault(key, []).append(measured)
    return dict(zip(_labels(list(experiments.values())), experiments.values(), strict=True))


def _measured(run: Run) -> MeasuredRun:
    return MeasuredRun(run.path, EvaluationResult.load(run.evaluation_folder), run)


def _labels(experiments: Sequence[Sequence[MeasuredRun]]) -> list[str]:
    """Return a unique name per experiment: the method, with part of the folder if needed."""
    named = []
    for first, *others in experiments:
        path = first.path.resolve()
        named.append((first.result.method, path.parent if others else path))
    labels = []
    for method, folder in named:
        rivals = [other for name, other in named if name == method]
        if rivals.count(folder) > 1:
            raise AttractorError(
                f"{folder}: contains runs of several experiments; compare each separately"
            )
        where = folder.relative_to(os.path.commonpath([rival.parent for rival in rivals]))
        labels.append(method if len(rivals) == 1 else f"{method} ({where.as_posix()})")
    return labels


def _is_complete(folder: Path) -> bool:
    # Written last: if it is missing, the evaluation was interrupted.
    return (folder / METRICS_FILE).is_file()


def _is_member(run: Run, ensemble: Run) -> bool:
    try:
        members = json.loads((ensemble.path / MEMBERS_FILE).read_text(encoding="utf-8"))["members"]
        return run.path.resolve() in [(ensemble.path / member).resolve() for member in members]
    except (OSError, ValueError, KeyError, TypeError):
        return False


# ---- figures -----------------------------------------------------------------------------------

RunImages = Callable[[MeasuredRun], tuple[ImageSet, list[ImageSet]]]
"""Function that returns D_in and the D_outs of a run's evaluation."""


def images_of_runs(data_root: str | Path | None = None, reporter: Reporter = SILENT) -> RunImages:
    """Return a function that loads the images of runs and caches them."""
    loaded: dict[str, tuple[ImageSet, list[ImageSet]]] = {}

    def images(run: MeasuredRun) -> tuple[ImageSet, list[ImageSet]]:
        experiment = run.result.provenance.get("experiment")
        if experiment is None:
            raise AttractorError(
                f"{run.path}: the result lacks its experiment; evaluate the run again"
            )
        config = ExperimentConfig.from_dict(experiment, str(run.path))
        key = config.dataset.model_dump_json() + config.evaluation.model_dump_json(
            include={"nbr_of_samples_per_class", "out_samples_per_class", "out_datasets"}
        )
        if key not in loaded:
            plan = make_plan(config, data_root)
            known = plan.load(plan.in_dataset, reporter)
            loaded[key] = (known, [plan.load(planned, reporter) for planned in plan.out])
        return loaded[key]

    return images


def suite_figures(
    folder: Path,
    measured: Mapping[str, Sequence[MeasuredRun]],
    images: RunImages,
    *,
    reference: str | None = None,
    on_note: Callable[[str], None] = lambda _: None,
    reporter: Reporter = SILENT,
) -> list[Path]:
    """Draw every figure of runs on one D_in; return the PNG files.

    ``measured``: runs by label of their method. ``images`` returns the images of a run;
    ``on_note`` receives a line per figure that is not drawn, ``reporter`` the progress.
    """
    results = {label: [run.result for run in runs] for label, runs in measured.items()}
    drawn: list[Path] = []
    attractors = list(_attractors(measured))
    recursive = any(found[0].recursions > 1 for found in results.values())
    total = len(results) + 4 + recursive + any(_with_runs(measured)) + 2 * len(attractors)

    def save(name: str, figure: object) -> None:
        drawn.append(reporting.save_figure(figure, folder / name)[0])  # type: ignore[arg-type]
        reporter.progress("drawing", len(drawn), total, f"{len(drawn)}/{total} figures")

    for label, found in results.items():
        name = f"{found[0].score}-{file_name(label)}"
        save(name, reporting.entropy_histogram(found, reference=reference))
    if recursive:
        save("recursions", reporting.auroc_by_recursion(results))
    save("roc", reporting.roc_figure(results))
    save("precision-recall", reporting.precision_recall_figure(results))
    if all(len(result.known_scores().labels) for found in results.values() for result in found):
        save("rejection", reporting.accuracy_rejection_figure(results))
        save("reliability", reporting.reliability_diagram(results))
    else:
        on_note("not drawn: rejection and reliability: no image of D_in has a label")
    curves = {
        label: [_trial_curve(run, *images(run)) for run in runs]
        for label, runs in _with_runs(measured)
    }
    if curves:
        save("trials", reporting.auroc_by_trials(curves))
    for label, run, detector in attractors:
        known, unknown = images(run)
        blocks = reporting.middle_blocks(detector, [known, *unknown])
        if blocks:
            figure = reporting.reconstruction_figure(blocks, per_row=2)
            save(f"reconstructions-{file_name(label)}", figure)
        try:
            save(f"latent-{file_name(label)}", _latent_map(detector, label, known, unknown))
        except AttractorError as error:
            on_note(f"not drawn: latent-{file_name(label)}: {error}")
    return drawn


def _with_runs(
    measured: Mapping[str, Sequence[MeasuredRun]],
) -> Iterator[tuple[str, Sequence[MeasuredRun]]]:
    """Yield the methods that have runs; of methods with the same runs, only the first."""
    seen = set()
    for label, runs in measured.items():
        places = tuple(run.path for run in runs)
        if places not in seen and all(run.run for run in runs):
            seen.add(places)
            yield label, runs


def _attractors(
    measured: Mapping[str, Sequence[MeasuredRun]],
) -> Iterator[tuple[str, MeasuredRun, AttractorDetector]]:
    """Yield the methods that have attractors, with the first run and its detector."""
    for label, runs in _with_runs(measured):
        detector = runs[0].detector()
        if isinstance(detector, AttractorDetector):
            yield label, runs[0], detector


def _trial_curve(measured: MeasuredRun, known: ImageSet, unknown: Sequence[ImageSet]) -> TrialCurve:
    """Read the curve over the trials, or compute it; a new evaluation removes the file."""
    assert measured.run is not None
    path = measured.run.evaluation_folder / TRIALS_FILE
    if path.is_file():
        return TrialCurve.load(path)
    inside, *outside = (images.at_most(_MOST_SAMPLED) for images in (known, *unknown))
    curve = trial_curve(measured.detector(), inside, outside)
    curve.save(path)
    return curve


def reconstructions(
    measured: Mapping[str, Sequence[MeasuredRun]], images: RunImages
) -> list[reporting.ReconstructionBlock]:
    """Return the reconstructions of D_in and one D_out by the first method with attractors.

    The titles name D_in, to distinguish the blocks in a figure with several.
    """
    for _, run, detector in _attractors(measured):
        known, unknown = images(run)
        blocks = reporting.middle_blocks(detector, [known, *unknown[:1]])
        return [
            dataclasses.replace(block, title=f"trained on {known.name}: {block.title}")
            for block in blocks
        ]
    return []


def _latent_map(
    detector: AttractorDetector, label: str, known: ImageSet, unknown: Sequence[ImageSet]
) -> object:
    """Draw z_r under the first mask; the mean over masks is not a code of any masked network."""
    shown = known if len(known) <= 1000 else known.at_most(_MOST_SAMPLED)
    r = detector.recursion

    def codes(images: ImageSet) -> np.ndarray:
        (trajectory,) = detector.trajectory(images.inputs, r + 1, trials=1)
        return trajectory.latents[r].cpu().numpy()

    return reporting.latent_map(
        codes(shown),
        shown.labels,
        shown.classes,
        {out.name: codes(out.at_most(_MOST_SAMPLED)) for out in unknown},
        title=f"{label} on {known.name}, recursion {r}",
        seed=detector.seed,
    )
