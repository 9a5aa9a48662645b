"""Experiments that ship with the package, by name."""

from collections.abc import Sequence

from attractor_ae._errors import check_known
from attractor_ae.experiment.config import PRESETS, ExperimentConfig, override, preset_values

__all__ = ["PRESETS", "preset"]


def preset(name: str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Return an experiment that ships with the package.

    ``"default"`` is the recommended recipe, ``"paper"`` the published one, ``"quick"`` the recipe
    of the demo, and ``"photographs"`` works on the features of a pretrained network; ``overrides``
    are as for `ExperimentConfig.from_toml`.

    Raises:
        AttractorError: If there is no preset of that name; otherwise as for
            `ExperimentConfig.from_toml`.
    """
    check_known("preset", name, PRESETS)
    # A mistake is in the overrides, not in the package's file.
    return ExperimentConfig.from_dict(override(preset_values(name), overrides), f"preset {name}")
