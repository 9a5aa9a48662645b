"""Experiments that ship with the package, by name."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from attractor_ae.config import ExperimentConfig
from attractor_ae.errors import unknown_name

PRESETS = ("default", "paper", "quick")
"""Experiments that ship with the package."""


def preset(name: str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Return an experiment that ships with the package.

    Parameters
    ----------
    name
        ``"default"``, what measured best; ``"paper"``, the published recipe; ``"quick"``, that of
        the demo.
    overrides
        As for `ExperimentConfig.from_toml`.

    Raises
    ------
    AttractorError
        If there is no preset of that name; else as `ExperimentConfig.from_toml`.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    with resources.as_file(resources.files(__name__) / f"{name}.toml") as path:
        return ExperimentConfig.from_toml(path, overrides)


def read_experiment(source: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Return the experiment of a TOML file or, if there is no such file, of a preset by name.

    Parameters
    ----------
    source
        Path of the file, or one of ``PRESETS``.
    overrides
        As for `ExperimentConfig.from_toml`.

    Raises
    ------
    AttractorError
        As `ExperimentConfig.from_toml`.
    """
    path = Path(source)
    if str(source) in PRESETS and not path.is_file():
        return preset(str(source), overrides)
    return ExperimentConfig.from_toml(path, overrides)
