"""Tables and figures of runs that were measured (``attractor-ae table`` and ``figures``)."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attractor_ae.config import ExperimentConfig
from attractor_ae.errors import AttractorError
from attractor_ae.evaluation import SCORES_FILE, EvaluationResult
from attractor_ae.reporting import Comparison, compare, reconstruction_blocks, save_figure
from attractor_ae.runs import Run
from attractor_ae.storage import file_name
from attractor_ae.sweep import find_runs
from attractor_ae.workflows.evaluation import ENSEMBLE, MEMBERS_FILE
from attractor_ae.workflows.images import (
    ImageProgress,
    evaluated,
    evaluated_images,
    silent,
)
from attractor_ae.workflows.suite_figures import (
    MeasuredRun,
    reconstructions,
    suite_figures,
)


def compare_runs(places: Sequence[str | Path], **options: Any) -> Comparison:  # noqa: ANN401
    """Return the table of evaluated runs, sweeps and ensembles (``attractor-ae table``).

    Parameters
    ----------
    places
        Folders, or globs of them; see `measured_runs`.
    options
        As of `attractor_ae.reporting.compare`.

    Raises
    ------
    AttractorError
        If a place holds nothing that was evaluated, or the results do not belong together.
    """
    measured = measured_runs(places)
    return compare(
        {label: [run.result for run in runs] for label, runs in measured.items()}, **options
    )


def draw_runs(
    places: Sequence[str | Path],
    folder: str | Path,
    *,
    data_root: str | Path | None = None,
    on_preparing: ImageProgress = silent,
    on_note: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Draw every figure of evaluated runs, sweeps and ensembles (``attractor-ae figures``).

    Runs on several D_in have a folder each, and a figure of reconstructions side by side.

    Parameters
    ----------
    places
        Folders, or globs of them; see `measured_runs`.
    folder
        Where to write.
    data_root, on_preparing
        As for `run_evaluation`.
    on_note
        Called with a line about what is not drawn.

    Returns
    -------
    list of Path
        The PNG files.

    Raises
    ------
    AttractorError
        As `compare_runs`; if files of the data sets are missing.
    """
    by_in_dataset: dict[str, dict[str, list[MeasuredRun]]] = {}
    for label, runs in measured_runs(places).items():
        name = runs[0].result.in_scores.name
        by_in_dataset.setdefault(name, {})[label] = runs
    drawn, beside = [], []
    for name, measured in by_in_dataset.items():
        first = next(iter(measured.values()))[0].result
        config = ExperimentConfig.from_dict(first.provenance["experiment"], "evaluation")
        images = evaluated_images(
            config, evaluated(config, data_root), data_root=data_root, on_preparing=on_preparing
        )
        alone = len(by_in_dataset) == 1
        place = Path(folder) if alone else Path(folder) / file_name(name)
        drawn += suite_figures(place, measured, images, on_note=on_note)
        beside.append(reconstructions(measured, images[0], images[2]))
    # A row shows the same kind of image under the networks of every D_in.
    blocks = [block for row in zip(*filter(None, beside), strict=True) for block in row]
    if len(by_in_dataset) > 1 and blocks:
        figure = reconstruction_blocks(blocks, per_row=sum(map(bool, beside)))
        drawn.append(save_figure(figure, Path(folder) / "reconstructions")[0])
    return drawn


def measured_runs(places: Sequence[str | Path]) -> dict[str, list[MeasuredRun]]:
    """Return what was measured of runs, by method; runs that differ in the seed alone are seeds.

    Parameters
    ----------
    places
        Run folders, sweep folders, folders of ensembles, and globs of them. Of a sweep whose runs
        were evaluated as an ensemble, that is taken.

    Returns
    -------
    dict
        Name of the method -> its runs. Where a method comes with several experiments, the folder
        stands behind its name.

    Raises
    ------
    AttractorError
        If a run was not evaluated.
    """
    homes = [Run(Path(place)) for place in places if (Path(place) / MEMBERS_FILE).is_file()]
    others = [place for place in places if not (Path(place) / MEMBERS_FILE).is_file()]
    for run in find_runs(*others) if others else ():
        together = run.path.parent / ENSEMBLE
        if (run.evaluation_folder / SCORES_FILE).is_file():
            homes.append(run)
        elif _is_member(run, together):
            homes += [] if Run(together) in homes else [Run(together)]
        else:
            raise AttractorError(
                f"{run.path}: was not evaluated; do so with: attractor-ae evaluate {run.path}"
            )
    experiments: dict[str, list[MeasuredRun]] = {}
    for home in homes:
        measured = MeasuredRun(home, EvaluationResult.load(home.evaluation_folder))
        experiments.setdefault(_without_seed(measured.result), []).append(measured)
    methods = [runs[0].result.method for runs in experiments.values()]
    named = {}
    for method, runs in zip(methods, experiments.values(), strict=True):
        place = runs[0].run.path
        where = place.name if len(runs) == 1 else place.parent.name
        named[method if methods.count(method) == 1 else f"{method} ({where})"] = runs
    return named


def _is_member(run: Run, ensemble: Path) -> bool:
    try:
        members = json.loads((ensemble / MEMBERS_FILE).read_text(encoding="utf-8"))["members"]
    except (OSError, ValueError, KeyError):
        return False
    return run.path.resolve() in [(ensemble / member).resolve() for member in members]


def _without_seed(result: EvaluationResult) -> str:
    experiment = json.loads(json.dumps(result.provenance.get("experiment", {})))
    experiment.get("training", {}).pop("seed", None)
    return json.dumps([result.method, experiment], sort_keys=True)
