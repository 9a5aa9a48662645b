"""Suites: D_in, D_outs and methods of one table; suites.toml has those of the package.

Your own suite is a TOML file with the same keys; see docs/reproduce.md. The files of configs/ are
generated from the published suites (`make configs`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomli_w
from pydantic import Field

from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae._files import file_name
from attractor_ae.experiment._validation import Table, read_toml, validated
from attractor_ae.experiment.config import (
    PRESETS,
    ExperimentConfig,
    Names,
    ReportedScore,
    override,
    preset,
)
from attractor_ae.experiment.run import Run


class Method(Table):
    """One row of a table. Methods whose experiments differ only in the score share their runs.

    ``label`` is the name in tables; ``experiment`` is a preset, published experiment or TOML
    config, and ``quick_experiment`` its short form for a laptop. ``settings``, each
    ``"section.key=value"``, change both; ``full`` changes only ``experiment``, ``quick`` only
    ``quick_experiment``. The members of an ``ensemble`` are the runs of all seeds.
    """

    label: str
    experiment: str = "paper"
    quick_experiment: str = "quick"
    settings: Names = ()
    full: Names = ()
    quick: Names = ()
    score: ReportedScore = "entropy"
    ensemble: bool = False


class Suite(Table):
    """D_in, D_outs and methods of one table (PROTOCOL section 7).

    ``in_dataset`` is the name or path of D_in, and ``split`` its training split; ``out_datasets``
    are the D_outs: ``"NAME"``, ``"NAME:FACTOR"``, or a path. ``accuracy_splits`` and
    ``covariate_shift_datasets`` are further splits of D_in, and other sets of its classes.
    ``open_set``: whether the seed of each run divides the classes of D_in into known and unknown.
    """

    name: str
    in_dataset: str
    out_datasets: Names = Field(min_length=1)
    split: str = "train"
    accuracy_splits: Names = ()
    covariate_shift_datasets: Names = ()
    open_set: bool = False
    methods: tuple[Method, ...] = Field(min_length=1)

    def experiment(
        self,
        method: Method,
        *,
        quick: bool = False,
        out_datasets: Sequence[str] | None = None,
        overrides: Sequence[str] = (),
    ) -> ExperimentConfig:
        """Return the experiment of one of ``methods`` on this suite's data.

        ``quick`` selects the short form for a laptop; ``out_datasets`` are the D_outs that are
        present; ``overrides``, each ``"section.key=value"``, are applied last.
        """
        outs = self.out_datasets if out_datasets is None else tuple(out_datasets)
        dataset: dict[str, Any] = {"name": self.in_dataset, "split": self.split}
        if self.open_set:
            dataset["open_set_split"] = 0  # each run has that of its seed
        evaluation = {
            "out_datasets": outs,
            "accuracy_splits": self.accuracy_splits,
            "covariate_shift_datasets": self.covariate_shift_datasets,
        }
        source = method.quick_experiment if quick else method.experiment
        read = preset if source in PRESETS and method in _SHIPPED else read_experiment
        settings = [
            *method.settings,
            *(method.quick if quick else method.full),
            *as_overrides("dataset", dataset),
            *as_overrides("evaluation", evaluation),
            *overrides,
        ]
        config = read(source, settings)
        scores = config.evaluation.scores
        if method.score in {config.evaluation.score, *scores, "entropy"}:
            return config
        more = as_overrides("evaluation", {"scores": (*scores, method.score)})
        return read(source, [*settings, *more])


def as_overrides(section: str, values: Mapping[str, Any]) -> list[str]:
    """Return the values of a section as texts ``"section.key=value"``."""
    return [f"{section}.{tomli_w.dumps({key: value})}" for key, value in values.items()]


def _methods(tables: Any, source: str) -> tuple[Method, ...]:  # noqa: ANN401
    """Return the methods of a suite from their tables, by label."""
    if not isinstance(tables, dict) or not all(isinstance(t, dict) for t in tables.values()):
        raise AttractorError(f'{source}: methods must be tables, e.g. [methods."MC-AE"]')
    methods = tuple(
        validated(Method, {"label": label, **table}, f'{source}: [methods."{label}"]')
        for label, table in tables.items()
    )
    places = [file_name(method.label).lower() for method in methods]
    for method, place in zip(methods, places, strict=True):
        if places.count(place) > 1:
            raise AttractorError(
                f"{source}: several methods would have the folder {place!r}, one of them "
                f"{method.label!r}; choose labels that differ in letters or digits"
            )
    return methods


def _suite(name: str, values: Mapping[str, Any], source: str) -> Suite:
    """Return a suite from the tables of a TOML file."""
    methods = _methods(values.get("methods", {}), source) or METHODS
    return validated(Suite, {**values, "name": name, "methods": methods}, source)


_TABLES = read_toml(Path(__file__).with_suffix(".toml"))
METHODS = _methods(_TABLES["methods"], "suites.toml")
"""The three published methods (PROTOCOL section 5), and the package's default."""
_PUBLISHED = [_suite(name, table, name) for name, table in _TABLES["published"].items()]
_BUILT_IN = [_suite(name, table, name) for name, table in _TABLES["builtin"].items()]
SUITES: Mapping[str, Suite] = MappingProxyType({s.name: s for s in (*_BUILT_IN, *_PUBLISHED)})
"""The suites of the published table (PROTOCOL section 7), and two that need no download."""
_SHIPPED = [method for suite in SUITES.values() for method in suite.methods]

_ENDINGS = {"MC-AE": "", "MC dropout": "-mc-dropout", "deep ensemble": "-ensemble"}


def published() -> dict[str, ExperimentConfig]:
    """Return the published experiments by name, e.g. "mnist", "mnist-ensemble"."""
    return {
        suite.name + _ENDINGS[method.label]: suite.experiment(method)
        for suite in _PUBLISHED
        for method in METHODS
        if method.label in _ENDINGS
    }


def read_experiment(source: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Return a preset, a published experiment, or that of a TOML file or a folder of images.

    A folder stands for the preset ``default`` with the folder as data set. If it has
    the name of a preset or published experiment, give its absolute path.

    Raises:
        AttractorError: If a name without a file extension is none of these; otherwise as for
            `ExperimentConfig.from_toml`.
    """
    path, name = Path(source), str(source)
    if is_folder_of_images(source):
        if Run(path).config_file.is_file():
            raise AttractorError(f"{path}: is a run; give a config, or a folder of images")
        return preset("default", [*as_overrides("dataset", {"name": name}), *overrides])
    if path.name != name or path.suffix or path.is_file():
        return ExperimentConfig.from_toml(path, overrides)
    if name in PRESETS:
        return preset(name, overrides)
    experiments = published()
    if name not in experiments:
        raise unknown_name("folder, TOML file or preset", name, (*PRESETS, *experiments))
    values = override(experiments[name].model_dump(), overrides)
    return ExperimentConfig.from_dict(values, f"experiment {name}")


def is_folder_of_images(source: str | Path) -> bool:
    """Return whether a source is a folder, and not the name of a preset or experiment."""
    name = str(source)
    return Path(source).is_dir() and name not in PRESETS and name not in published()


def run_name(source: str | Path, experiment: ExperimentConfig) -> str:
    """Return the name of the runs of an experiment: data set and recipe.

    Examples:
        >>> config = preset("default")
        >>> run_name("default", config), run_name("configs/mnist5k-ensemble.toml", config)
        ('mnist5k-default', 'mnist5k-ensemble')
    """
    path = Path(experiment.dataset.name)
    data = file_name(path.resolve().name if path.is_dir() else path.stem)
    recipe = "default" if is_folder_of_images(source) else file_name(Path(source).stem)
    return recipe if recipe.startswith(data) else f"{data}-{recipe}"


def read_suite(source: str | Path) -> Suite:
    """Return a suite by its name in ``SUITES``, or from a TOML file.

    The file describes a suite, with the key ``in_dataset``, or a single experiment, with the
    section ``[dataset]``: then the suite has this one method, and the published D_outs of its D_in
    unless the file names others.
    """
    path = Path(source)
    if str(source) in SUITES and not path.is_file():
        return SUITES[str(source)]
    if path.suffix != ".toml":
        raise unknown_name("suite", str(source), SUITES)
    values = read_toml(path)
    if ("dataset" in values) == ("in_dataset" in values):
        raise AttractorError(
            f"{path}: must have either the section [dataset], as a config, or the key in_dataset, "
            "as a suite"
        )
    if "dataset" in values:
        return _suite_of(ExperimentConfig.from_toml(path), path)
    return _suite(path.stem, values, str(path))


def _suite_of(config: ExperimentConfig, path: Path) -> Suite:
    """Return the suite of a single experiment."""
    dataset, evaluation, model = config.dataset, config.evaluation, config.model
    names = {suite.in_dataset: suite for suite in _PUBLISHED}
    known = names.get(dataset.name.lower(), SUITES["builtin"])
    ensemble = model.type == "conv" and not model.dropout
    label = "deep ensemble" if ensemble else "MC dropout" if model.type == "conv" else "MC-AE"
    experiments = dict.fromkeys(("experiment", "quick_experiment"), str(path))
    method = Method(label=label, score=evaluation.score, ensemble=ensemble, **experiments)
    outs = tuple(name for name in known.out_datasets if name != dataset.name)
    return Suite(
        name=path.stem,
        in_dataset=dataset.name,
        split=dataset.split,
        out_datasets=evaluation.out_datasets or outs,
        accuracy_splits=evaluation.accuracy_splits or known.accuracy_splits,
        covariate_shift_datasets=evaluation.covariate_shift_datasets,
        methods=(method,),
    )
