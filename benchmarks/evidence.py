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
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from attractor_ae import ImageSet, Run, evaluate, fit_detector, load, train
from attractor_ae._files import write_json
from attractor_ae.core.scores import OOD_SCORE, SCORES
from attractor_ae.data import ImageFormat
from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.experiment.presets import preset
from attractor_ae.training import training_part

OUTS = ("faces", "textures", "photos")
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
    name, *overrides = job.recipe.split(":")
    if job.epochs:
        overrides.append(f"training.epochs={job.epochs}")
    config = preset(
        name,
        [
            *overrides,
            *job.settings,
            f"dataset.name={job.in_dataset}",
            f"training.seed={job.seed}",
            "training.device=cpu",
        ],
    )
    chosen = ImageFormat(config.dataset.image_size, config.dataset.channels)
    images = load(job.in_dataset, per_class=TRAINED, root=job.root, image_format=chosen)
    return config, images, chosen


def trained(job: Job) -> tuple[Run, ImageSet, ImageFormat]:
    """Return the run of a job, trained if necessary, its images and their format."""
    torch.set_num_threads(1)
    config, images, chosen = prepared(job)
    return train(config, images, job.folder / job.name, resume=True), images, chosen


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


def run(job: Job) -> Path:
    """Train and evaluate; leave a JSON file with one row a D_out, score and recursion."""
    target = job.target
    if target.exists():
        return target
    finished, images, image_format = trained(job)
    epochs = len(epoch_seconds(finished))
    began = time.perf_counter()
    detector = fit_detector(finished.path, images, overrides=job.settings)
    fitted = time.perf_counter() - began
    known, outs = job.sets(training_part(finished.config(), images)[1], image_format)
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
            "epochs": epochs,
            "recursion": result.recursion,
            "reported": result.score,
            "training_seconds_one_thread": training_seconds(finished),
            "fit_seconds_one_thread": fitted,
            "accuracy": [float(np.mean(c)) for c in correct],
            "known_flagged": flagged,
            "self_check": finished.self_check(),
            "images": {s.name: len(s.labels) for s in (result.in_scores, *result.out_scores)},
            "rows": rows,
        },
    )
    return target


def main() -> None:
    """Run the jobs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", default=["default"])
    parser.add_argument("--in-datasets", nargs="+", default=["mnist5k"], help="names or paths")
    parser.add_argument("--others", nargs="+", help="D_outs; default: the other D_ins")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", nargs="+", type=int, default=[0], help="0: the recipe's")
    parser.add_argument("--per-class", type=int, default=50, help="test images of each class")
    parser.add_argument("--root", type=Path, default=Path(".real"), help="data root")
    parser.add_argument("--out", type=Path, default=Path("build/evidence"))
    parser.add_argument("--half", choices=("reporting", "choosing"), default="reporting")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="of all the recipes and no part of their names, e.g. evaluation.trials=12",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    a = parser.parse_args()
    others = a.in_datasets if a.others is None else a.others
    jobs = [
        Job(
            recipe,
            name,
            tuple(other for other in others if other != name),
            seed,
            epochs,
            a.per_class,
            a.root,
            a.out,
            a.half,
            tuple(a.set),
        )
        for epochs in a.epochs
        for recipe in a.recipes
        for seed in a.seeds
        for name in a.in_datasets
    ]
    began = time.perf_counter()
    # Fresh processes: a forked one would inherit PyTorch's threads.
    with ProcessPoolExecutor(a.jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        for done, future in enumerate(as_completed(futures), start=1):
            found = json.loads(future.result().read_text())
            print(
                f"{done} of {len(jobs)} after {time.perf_counter() - began:.0f} s: "
                f"{future.result().name}, accuracy {found['accuracy'][found['recursion']]:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
