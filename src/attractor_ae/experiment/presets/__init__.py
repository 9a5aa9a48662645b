"""Experiments that ship with the package, by name."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from attractor_ae._errors import unknown_name
from attractor_ae.experiment._validation import read_toml
from attractor_ae.experiment.config import ExperimentConfig, override

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
        values = read_toml(path)
    # A mistake is one of the overrides: nobody should go and edit the package's file.
    return ExperimentConfig.from_dict(override(values, overrides), f"preset {name}")


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
        If a name without an ending is neither; else as `ExperimentConfig.from_toml`.
    """
    path = Path(source)
    if path.name == str(source) and not path.suffix and not path.is_file():
        if str(source) not in PRESETS:
            raise unknown_name("preset or TOML file", str(source), PRESETS)
        return preset(str(source), overrides)
    return ExperimentConfig.from_toml(path, overrides)
