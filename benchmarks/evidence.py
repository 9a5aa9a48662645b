"""Measure recipes: train, evaluate every score at every recursion, and keep a line for each.

    python benchmarks/evidence.py --recipes default paper --seeds 0 1 2 \
      --in-datasets mnist fashion gtsrb.npz cifar10.npz

A recipe is a preset, with settings after colons: ``default:training.augment=false``. A D_in is a
name or a path; its D_outs are faces, textures, photos, and the other D_ins. A job is one
recipe, D_in and seed; jobs run in processes of one thread each, and finished ones are skipped, so
that the same command goes on after an interruption. Everything is measured on test images of D_in,
and on that half of the D_outs' test images that nothing was chosen on: every second one. With
``--half choosing`` it is the other half, and as known images those kept for calibration.
`evidence_report.py` makes tables and figures.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from attractor_ae import ImageSet, Run, evaluate, fit_detector, load, train
from attractor_ae._files import write_json
from attractor_ae.core.scores import OOD_SCORE, SCORES
from attractor_ae.data import ImageFormat
from attractor_ae.experiment.config import ExperimentConfig, preset
from attractor_ae.training import training_part, with_features

OUTS = ("faces", "textures", "photos")
T = TypeVar("T")
TRAINED = 250
"""Images of each class that the experiment has."""


@dataclass(frozen=True)
class Job:
    """One training and its evaluation."""

    recipe: str
    in_dataset: str
    others: tuple[str, ...]  # D_outs, in addition to OUTS
    seed: int
    epochs: int  # 0: the recipe's
    per_class: int
    root: Path
    folder: Path
    half: str = "reporting"
    settings: tuple[str, ...] = ()  # of all the recipes

    @property
    def label(self) -> str:
        """The name of D_in without folder and ending."""
        return Path(self.in_dataset).stem

    @property
    def name(self) -> str:
        """A name for its folder and file."""
        recipe = self.recipe.replace(":", "+").replace("/", "_")
        return f"{recipe}-{self.label}-seed{self.seed}" + (
            f"-{self.epochs}epochs" if self.epochs else ""
        )

    @property
    def target(self) -> Path:
        """The file of what is measured."""
        choosing = "-choosing" if self.half == "choosing" else ""
        return self.folder / f"{self.name}{choosing}.json"

    def sets(self, kept: ImageSet, image_format: ImageFormat) -> tuple[ImageSet, list[ImageSet]]:
        """Return the images of D_in and of the D_outs that it is measured on."""
        choosing = self.half == "choosing"
        shared = {"root": self.root, "image_format": image_format}
        outs = [load(name, "test", **shared) for name in OUTS]
        outs += [load(name, "test", per_class=2 * self.per_class, **shared) for name in self.others]
        outs = [out.take(range(0 if choosing else 1, len(out), 2)) for out in outs]
        if choosing:
            return kept, outs
        return load(self.in_dataset, "test", per_class=self.per_class, **shared), outs


def prepared(job: Job) -> tuple[ExperimentConfig, ImageSet, ImageFormat]:
    """Return the config of a job, its images and their format."""
    config = config_of(job)
    chosen = ImageFormat(config.dataset.image_size, config.dataset.channels)
    images = load(job.in_dataset, per_class=TRAINED, root=job.root, image_format=chosen)
    return config, images, chosen


def config_of(job: Job) -> ExperimentConfig:
    """Return the config of a job."""
    name, *overrides = job.recipe.split(":")
    if job.epochs:
        overrides.append(f"training.epochs={job.epochs}")
    return preset(
        name,
        [
            *overrides,
            *job.settings,
            f"dataset.name={job.in_dataset}",
            f"training.seed={job.seed}",
            "training.device=cpu",
        ],
    )


def trained(job: Job, images: ImageSet) -> Run:
    """Return the run of a job, trained on its images if necessary."""
    torch.set_num_threads(1)
    return train(config_of(job), images, job.folder / job.name, resume=True)


def epoch_seconds(run: Run) -> list[float]:
    """Return the seconds of each epoch of a training."""
    with run.history_file.open(encoding="utf-8") as file:
        return [float(row["seconds"]) for row in csv.DictReader(file)]


def training_seconds(run: Run) -> float:
    """Return the seconds of a training, mostly undisturbed.

    Other work on the machine slows some epochs down, or all: the report compares runs.
    """
    epochs = epoch_seconds(run)
    return len(epochs) * float(np.quantile(epochs, 0.25))


def measure(job: Job) -> Path:
    """Train and evaluate; leave a JSON file with one row a D_out, score and recursion."""
    target = job.target
    if target.exists():
        return target
    config, images, image_format = prepared(job)
    run = trained(job, images)
    began = time.perf_counter()
    detector = fit_detector(run.path, images, overrides=job.settings)
    fitted = time.perf_counter() - began
    known, outs = job.sets(training_part(config, images)[1], image_format)
    known, *outs = (with_features(config, some) for some in (known, *outs))
    scores = [name for name in SCORES if name in detector.score_names]
    result = evaluate(detector, known, outs, scores=scores)
    rows = [
        {
            "score": score,
            "recursion": r,
            "out": out.name,
            "auroc": rates.auroc,
            "fpr95": rates.fpr95_in,
        }
        for score in result.score_names
        for r in range(result.recursions)
        for out in result.out_scores
        for rates in [result.rates(out.name, score, r)]
    ]
    correct = [
        result.in_scores.predicted(r) == result.in_scores.labels for r in range(result.recursions)
    ]
    flagged = None
    if OOD_SCORE in result.score_names:
        u = result.in_scores.score(result.recursion, OOD_SCORE)
        flagged = {str(a): float((u > 1 - a).mean()) for a in (0.05, 0.1, 0.2)}
    write_json(
        target,
        {
            "recipe": job.recipe,
            "in_dataset": job.label,
            "seed": job.seed,
            "settings": job.settings,
            "epochs": len(epoch_seconds(run)),
            "recursion": result.recursion,
            "reported": result.score,
            "training_seconds_one_thread": training_seconds(run),
            "fit_seconds_one_thread": fitted,
            "accuracy": [float(np.mean(c)) for c in correct],
            "known_flagged": flagged,
            "self_check": run.self_check(),
            "images": {s.name: len(s.labels) for s in (result.in_scores, *result.out_scores)},
            "rows": rows,
        },
    )
    return target


def shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that determine jobs."""
    parser.add_argument("--in-datasets", nargs="+", default=["mnist5k"], help="names or paths")
    parser.add_argument("--others", nargs="+", help="D_outs; default: the other D_ins")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--per-class", type=int, default=50, help="test images of each class")
    parser.add_argument("--root", type=Path, default=Path(".real"), help="data root")
    parser.add_argument("--out", type=Path, default=Path("build/evidence"), help="trainings")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="of all the recipes and no part of their names, e.g. evaluation.trials=12",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes")


def jobs_of(
    a: argparse.Namespace,
    recipes: Sequence[str] = ("default",),
    epochs: Sequence[int] = (0,),
    half: str = "reporting",
) -> list[Job]:
    """Return a job per number of epochs, recipe, seed and D_in of the parsed options."""
    others = a.in_datasets if a.others is None else a.others
    return [
        Job(
            recipe,
            name,
            tuple(other for other in others if other != name),
            seed,
            count,
            a.per_class,
            a.root,
            a.out,
            half,
            tuple(a.set),
        )
        for count in epochs
        for recipe in recipes
        for seed in a.seeds
        for name in a.in_datasets
    ]


def finished(work: Callable[[T], Path], items: Sequence[T], jobs: int) -> Iterator[Path]:
    """Do work in processes, print how many items are done, and yield each file that is made."""
    began = time.perf_counter()
    # Fresh processes: a forked one would inherit PyTorch's threads.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(work, item) for item in items]
        for done, future in enumerate(as_completed(futures), start=1):
            path = future.result()
            seconds = time.perf_counter() - began
            print(f"{done} of {len(items)} after {seconds:.0f} s: {path.name}", flush=True)
            yield path


def main() -> None:
    """Run the jobs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared_arguments(parser)
    parser.add_argument("--recipes", nargs="+", default=["default"])
    parser.add_argument("--epochs", nargs="+", type=int, default=[0], help="0: the recipe's")
    parser.add_argument("--half", choices=("reporting", "choosing"), default="reporting")
    a = parser.parse_args()
    for path in finished(measure, jobs_of(a, a.recipes, a.epochs, a.half), a.jobs):
        found = json.loads(path.read_text())
        print(f"accuracy {found['accuracy'][found['recursion']]:.3f}", flush=True)


if __name__ == "__main__":
    main()
