"""The run folder and the names of its files.

RUN/
  config.toml              the experiment with all defaults
  environment.json         versions, device, git revision
  history.csv              one row per epoch
  log.txt                  events with times
  checkpoint.safetensors   the state to resume from; removed when training is finished
  weights.safetensors      the trained network; exists when training is finished
  self_check.json          how well the network has learned, and whether that is enough
  detector.safetensors     the fitted detector; exists after the first evaluation
  evaluation/              scores, metrics and figures
  validation/              test images and their reconstructions during training
"""

import json
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from attractor_ae._errors import AttractorError, quoted_command
from attractor_ae._files import cannot_write, one_writer
from attractor_ae.experiment.config import ExperimentConfig


class Run:
    """The run folder ``path``, and the paths of its files."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.toml"
        self.environment_file = self.path / "environment.json"
        self.history_file = self.path / "history.csv"
        self.log_file = self.path / "log.txt"
        self.checkpoint_file = self.path / "checkpoint.safetensors"
        self.weights_file = self.path / "weights.safetensors"
        self.self_check_file = self.path / "self_check.json"
        self.detector_file = self.path / "detector.safetensors"
        self.evaluation_folder = self.path / "evaluation"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def finished(self) -> bool:
        """Whether training has ended."""
        return self.weights_file.is_file()

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open the folder of a finished run.

        Raises:
            AttractorError: If it does not exist, is not a run, or its training is not finished.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise AttractorError(
                f"{path}: no such run folder; to make one, run: attractor-ae train"
            )
        if not run.config_file.is_file():
            raise AttractorError(f"{path}: is not a run folder (it has no {run.config_file.name})")
        if not run.finished:
            raise AttractorError(
                f"{path}: its training is not finished; "
                "to finish it, run: "
                + quoted_command("train", run.config_file, "--out", path, "--resume")
            )
        return run

    def config(self) -> ExperimentConfig:
        """Return the experiment that the run was made with."""
        return ExperimentConfig.from_toml(self.config_file)

    def self_check(self) -> dict[str, Any]:
        """Return the stored self-check of the network; empty for an imported run."""
        try:
            found = json.loads(self.self_check_file.read_text(encoding="utf-8"))
            return {**found, "self_check": str(found["self_check"])}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AttractorError(
                f"{self.self_check_file}: cannot be read ({error}); remove it, or train again"
            ) from None

    def self_check_failure(self) -> str | None:
        """Return one line of warning if the network failed its self-check."""
        found = self.self_check()
        if found.get("self_check") != "failed":
            return None
        reasons = "; ".join(found.get("failures", ()))
        # The name of a folder of `fit`, which removes it, or of a candidate says nothing.
        hidden = any(folder.name.startswith(".") for folder in (self.path, self.path.parent))
        where = "" if hidden else f"{self.path}: "
        return f"warning: {where}self-check failed, perhaps nothing was learned: {reasons}"

    def log(self, line: str) -> None:
        """Append a line with the time to the log."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        try:
            with self.log_file.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{stamp} {line}\n")
        except OSError as error:
            raise cannot_write(self.log_file, error) from None


@contextmanager
def claimed(run: Run) -> Iterator[None]:
    """Create the run folder for this process alone; a new one is removed if it stays empty."""
    made = not run.path.exists()
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(run.path, error) from None
    try:
        with one_writer(run.path):
            yield
    finally:
        if made:
            with suppress(OSError):
                run.path.rmdir()


# Keys that may change when a run is resumed: the weights do not depend on them.
_FREE_ON_RESUME = {"training": {"gpu", "device", "frequency", "checkpoint_interval"}}


def check_claim(run: Run, config: ExperimentConfig, resume: bool) -> bool:
    """Return whether there is a training to continue; raise if the folder must not be written to.

    A training that ended before its first checkpoint starts again.
    """
    there = {path.name for path in run.path.glob("[!.]*")}
    if run.path.is_file() or (there and there.isdisjoint(path.name for path in vars(run).values())):
        raise AttractorError(
            f"{run.path}: is not a run folder, and not empty; choose another folder with --out"
        )
    if not (run.finished or run.checkpoint_file.exists()):
        return False
    if not resume:
        raise AttractorError(
            f"{run.path}: already contains a run; "
            "continue it with --resume, or choose another folder with --out"
        )
    old = run.config().model_dump(exclude={"evaluation"})
    new = config.model_dump(exclude={"evaluation"})
    for section, values in old.items():
        for key, value in values.items():
            if key not in _FREE_ON_RESUME.get(section, ()) and value != new[section][key]:
                raise AttractorError(
                    f"{run.path}: was started with {section}.{key} = {value!r}, not "
                    f"{new[section][key]!r}; resume with the same value, or choose another --out"
                )
    return True


def environment(device: str, precision: str) -> dict[str, Any]:
    """Return versions, device and git revision; ``precision`` is ``str(dtype)``."""
    import torch

    packages = ("attractor-ae", "torch", "torchvision", "numpy", "scikit-learn")
    packages = (*packages, "pytorch-metric-learning")
    versions = {name: metadata.version(name) for name in packages}
    versions["torch"] = torch.__version__  # includes the build, e.g. +cu130
    is_gpu = device.startswith("cuda")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if is_gpu else platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": precision.removeprefix("torch."),
        "git_revision": _git_revision(),
    }


@cache
def _git_revision() -> str | None:
    """Return the git revision of the repository that tracks this file, if any."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # fails inside another project
        return git("describe", "--always", "--dirty", "--abbrev=40") or None
    except (OSError, subprocess.SubprocessError):
        return None
