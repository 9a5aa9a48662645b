"""The folder of a sweep, and how runs are found again.

PARENT/
  sweep.json   which runs there are and how they stand
  seed0/       a run folder each, see `attractor_ae.experiment.run`
  seed1/
"""

import glob
import json
import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from attractor_ae._errors import AttractorError
from attractor_ae._files import write_json
from attractor_ae.experiment.run import Run

SWEEP_FILE = "sweep.json"


def write_states(errors: Mapping[Path, str]) -> None:
    """Write ``sweep.json`` above run folders, and keep what it says of other runs.

    A run is ``"finished"``, ``"failed"`` with an ``"error"``, or ``"unfinished"``.

    Parameters
    ----------
    errors
        For each run folder the line that it failed with, or an empty one.

    Raises
    ------
    AttractorError
        If a file cannot be written, or the one that is there cannot be read.
    """
    for parent in {folder.parent for folder in errors}:
        path = parent / SWEEP_FILE
        states = _read_states(path) if path.exists() else {}
        for folder, error in errors.items():
            if folder.parent == parent:
                state = "finished" if Run(folder).finished else "failed" if error else "unfinished"
                states[folder.name] = {"state": state} | ({"error": error} if error else {})
        write_json(path, {"runs": {name: states[name] for name in sorted(states, key=_natural)}})


def find_runs(*places: str | Path) -> list[Run]:
    """Return the finished runs of any number of places, each once and in natural order.

    Natural is seed2 before seed10, whatever the order in which they are named.

    Parameters
    ----------
    places
        Run folders, folders of sweeps, and globs such as ``"runs/*/seed[0-4]"`` that name them.

    Raises
    ------
    AttractorError
        If a place names no run, or one whose training is not finished.
    """
    if not places:
        raise AttractorError("name at least one run folder, sweep folder or glob")
    runs = {run.path.resolve(): run for run in chain.from_iterable(map(_runs_at, places))}
    return sorted(runs.values(), key=lambda run: _natural(str(run.path)))


def _runs_at(place: str | Path) -> list[Run]:
    path = Path(place)
    if path.exists():
        if not (_is_run(path) or _is_sweep(path)) and path.is_dir():
            raise AttractorError(
                f"{path}: is neither a run nor a sweep (it has no config.toml and no "
                f"{SWEEP_FILE}); to take the runs in it, name '{path}/*'"
            )
        return _runs_in(path)
    if not glob.has_magic(str(place)):
        raise AttractorError(f"{place}: no such run folder; make runs with: attractor-ae sweep")
    matches = [Path(name) for name in glob.glob(str(place), recursive=True)]  # noqa: PTH207
    # What else lies beside the runs was not meant.
    matches = [match for match in matches if _is_run(match) or _is_sweep(match)]
    if not matches:
        raise AttractorError(f"{place}: matches no run; make runs with: attractor-ae sweep")
    return [run for match in matches for run in _runs_in(match)]


def _runs_in(path: Path) -> list[Run]:
    """Return the run of a run folder, or those of a sweep's."""
    if _is_run(path) or not _is_sweep(path):
        return [Run.open(path)]
    states = _read_states(path / SWEEP_FILE)
    runs = [Run(path / name) for name in states]
    for run in runs:
        if not run.finished:
            error = states[run.path.name].get("error", "")
            raise AttractorError(
                f"{run.path}: its training is not finished{error and f' ({error})'}; call the "
                "sweep again, or name the finished runs alone"
            )
    if not runs:
        raise AttractorError(f"{path}: the sweep has no runs; call it again")
    return runs


def _is_run(path: Path) -> bool:
    return Run(path).config_file.is_file()


def _is_sweep(path: Path) -> bool:
    return (path / SWEEP_FILE).is_file()


def _read_states(path: Path) -> dict[str, dict[str, str]]:
    try:
        states = json.loads(path.read_text(encoding="utf-8"))["runs"]
        return {str(name): dict(state) for name, state in states.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise AttractorError(f"{path}: cannot be read as a sweep; remove it") from None


def _natural(text: str) -> list[str | int]:
    # Text and numbers take turns, so they are never compared with each other.
    parts = re.split("([0-9]+)", text)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]
