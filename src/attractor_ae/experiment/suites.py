"""Suites: D_in, D_outs and the methods of one table; the published ones as data.

An own suite is a TOML file of the same content; see docs/reproduce.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae._files import file_name
from attractor_ae.experiment._validation import read_toml, validated
from attractor_ae.experiment.config import ExperimentConfig, ReportedScore
from attractor_ae.experiment.presets import PRESETS, preset, read_experiment


@dataclass(frozen=True)
class Method:
    """One row of a table: how its networks are trained, and what is read off them.

    Methods whose experiments differ in nothing but the reported score share their runs.

    Attributes
    ----------
    label
        Its name in tables and figures.
    experiment, quick_experiment
        Name of a preset, or path of a TOML config; the second is for a laptop.
    settings
        ``"section.key=value"`` over either.
    full, quick
        Further ones over the first, and over the second alone.
    score
        The score that the row shows.
    ensemble
        Whether the runs of all seeds are the members of one deep ensemble.
    """

    label: str
    experiment: str = "paper"
    quick_experiment: str = "quick"
    settings: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    score: str = "entropy"
    ensemble: bool = False


_CLASSIFIER = (
    "model.type=conv",
    "model.metric=",
    "training.feedback=0",
    "dataset.calibration_fraction=0",
    "evaluation.recursions=1",
    "evaluation.recursion=0",
    "evaluation.score=entropy",
    "evaluation.scores=[]",
)
_MANY = ("evaluation.trials=20", "evaluation.nbr_of_samples_per_class=100")
_FEW_EPOCHS = ("training.epochs=20", "training.learning_rate=1e-3", *_MANY)

METHODS = (
    Method("MC-AE", quick=_MANY),
    Method("MC-AE, fused", experiment="default", quick=_MANY, score="ood_score"),
    Method("MC dropout", settings=_CLASSIFIER, full=("training.epochs=1000",), quick=_FEW_EPOCHS),
    Method(
        "deep ensemble",
        settings=(*_CLASSIFIER, "model.dropout=0"),
        full=("training.epochs=1000",),
        quick=_FEW_EPOCHS,
        ensemble=True,
    ),
)
"""The published three (PROTOCOL section 5), and what the product does by default."""


@dataclass(frozen=True)
class Suite:
    """D_in, D_outs and methods of one table (PROTOCOL section 7).

    Attributes
    ----------
    name
        Its name on the command line, or that of its file.
    in_dataset
        D_in: a name of the catalogue, or a path of own images.
    split
        The split of D_in that is trained on.
    out_datasets
        The D_outs: ``"NAME"``, ``"NAME:FACTOR"`` for one of a set's variations, or a path.
    accuracy_splits
        Further splits of D_in that accuracy is measured on.
    covariate_shift_datasets
        Sets that show the known classes in another guise.
    methods
        The rows of the table.
    """

    name: str
    in_dataset: str
    out_datasets: tuple[str, ...]
    split: str = "train"
    accuracy_splits: tuple[str, ...] = ()
    covariate_shift_datasets: tuple[str, ...] = ()
    methods: tuple[Method, ...] = METHODS

    def experiment(
        self, method: Method, *, quick: bool = False, out_datasets: Sequence[str] | None = None
    ) -> ExperimentConfig:
        """Return the experiment of one method on this suite's data; its seed is the config's.

        Parameters
        ----------
        method
            One of ``methods``.
        quick
            The short form for a laptop.
        out_datasets
            The D_outs that are there; all by default.

        Raises
        ------
        AttractorError
            If a config cannot be read, or a setting is impossible.
        """
        outs = self.out_datasets if out_datasets is None else tuple(out_datasets)
        source = method.quick_experiment if quick else method.experiment
        read = preset if source in PRESETS and method in METHODS else read_experiment
        settings = [
            *method.settings,
            *(method.quick if quick else method.full),
            f"dataset.name={_quoted(self.in_dataset)}",
            f"dataset.split={_quoted(self.split)}",
            f"evaluation.out_datasets={_listed(outs)}",
            f"evaluation.accuracy_splits={_listed(self.accuracy_splits)}",
            f"evaluation.covariate_shift_datasets={_listed(self.covariate_shift_datasets)}",
        ]
        config = read(source, settings)
        wanted = {config.evaluation.score, *config.evaluation.scores, "entropy"}
        if method.score in wanted:
            return config
        more = [*config.evaluation.scores, method.score]
        return read(source, [*settings, f"evaluation.scores={_listed(more)}"])


def _quoted(text: str) -> str:
    return f'"{text}"' if '"' not in text and "\\" not in text else f"'{text}'"


def _listed(names: Sequence[str]) -> str:
    return f"[{', '.join(_quoted(name) for name in names)}]"


_SUITES = (
    Suite(
        "builtin", "mnist5k", ("faces", "textures", "photos"), covariate_shift_datasets=("digits8",)
    ),
    Suite("mnist", "mnist", ("fashion", "omniglot", "cifar10", "svhn")),
    Suite("fashion", "fashion", ("mnist", "omniglot", "cifar10", "svhn")),
    Suite("svhn", "svhn", ("places365", "lsun", "cifar10", "gtsrb")),
    Suite("gtsrb", "gtsrb", ("svhn", "places365", "cifar10", "lsun")),
    Suite(
        "sviro_uncertainty",
        "sviro_uncertainty",
        ("svhn", "places365", "cifar10", "lsun", "gtsrb", "sviro:tesla"),
        split="train-adults",
        accuracy_splits=(
            "test-adults-and-objects",
            "test-adults-and-seats",
            "test-adults-and-seats-and-objects",
            "test-objects",
            "test-seats",
        ),
    ),
)

SUITES: Mapping[str, Suite] = MappingProxyType({suite.name: suite for suite in _SUITES})
"""The published table (PROTOCOL section 7), and one of built-in sets that needs no download."""


def read_suite(source: str | Path) -> Suite:
    """Return a suite by its name, or from a TOML file.

    Parameters
    ----------
    source
        One of ``SUITES``, or the path of a file.

    Raises
    ------
    AttractorError
        If there is no such suite and no such file, or the file says something impossible.
    """
    path = Path(source)
    if str(source) in SUITES and not path.is_file():
        return SUITES[str(source)]
    if path.suffix != ".toml":
        raise unknown_name("suite", str(source), SUITES)
    values = read_toml(path)
    methods = tuple(
        Method(label, **dict(validated(_MethodTable, table, f'{path}: [methods."{label}"]')))
        for label, table in _tables(values.pop("methods", {}), path)
    )
    places = [file_name(method.label).lower() for method in methods]
    for method, place in zip(methods, places, strict=True):
        if places.count(place) > 1:
            raise AttractorError(
                f"{path}: several methods would have the folder {place!r}, one of them "
                f"{method.label!r}; give each a name that differs in letters or numbers"
            )
    stated = validated(_SuiteFile, values, str(path))
    return Suite(name=path.stem, methods=methods or METHODS, **stated.model_dump())


def _tables(methods: object, path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the tables [methods."LABEL"] of a file, in its order."""
    if not isinstance(methods, dict) or not all(isinstance(t, dict) for t in methods.values()):
        raise AttractorError(f'{path}: methods must be tables, e.g. [methods."MC-AE"]')
    return list(methods.items())


class _MethodTable(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    experiment: str = "paper"
    quick_experiment: str = "quick"
    settings: tuple[str, ...] = Field(default=(), strict=False)
    full: tuple[str, ...] = Field(default=(), strict=False)
    quick: tuple[str, ...] = Field(default=(), strict=False)
    score: ReportedScore = "entropy"
    ensemble: bool = False


class _SuiteFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    in_dataset: str
    out_datasets: tuple[str, ...] = Field(min_length=1, strict=False)
    split: str = "train"
    accuracy_splits: tuple[str, ...] = Field(default=(), strict=False)
    covariate_shift_datasets: tuple[str, ...] = Field(default=(), strict=False)
