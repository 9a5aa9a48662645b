"""Experiments that ship with the package, by name."""

from attractor_ae.experiment.config import PRESETS as PRESETS
from attractor_ae.experiment.config import preset as preset
