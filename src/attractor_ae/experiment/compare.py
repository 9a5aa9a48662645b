"""Tables and figures of evaluated runs (``attractor-ae table`` and ``figures``)."""

import copy
import glob
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attractor_ae._errors import AttractorError, quoted_command
from attractor_ae._files import file_name
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.experiment.evaluate import ENSEMBLE, MEMBERS_FILE
from attractor_ae.experiment.figures import (
    MeasuredRun,
    images_of_runs,
    reconstructions,
    suite_figures,
)
from attractor_ae.experiment.result import METRICS_FILE, EvaluationResult
from attractor_ae.experiment.run import Run
from attractor_ae.experiment.sweep import find_runs
from attractor_ae.reporting import Comparison, compare, reconstruction_figure, save_figure


def compare_runs(places: Sequence[str | Path], **options: Any) -> Comparison:  # noqa: ANN401
    """Return the table of evaluated runs, sweeps and ensembles (``attractor-ae table``).

    ``places`` are folders or glob patterns; see `measured_runs`. ``options`` are passed to
    `attractor_ae.reporting.compare`.

    Raises:
        AttractorError: If a place contains no evaluated run, or the results cannot be compared.
    """
    measured = measured_runs(places)
    return compare(
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
        figure = reconstruction_figure(blocks, per_row=sum(map(bool, side_by_side)))
        drawn.append(save_figure(figure, Path(folder) / "reconstructions")[0])
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
