"""Measure how much AUROC varies with the seed of the masks, for several ways of drawing them.

    python benchmarks/mask_scatter.py RUN...    # about ten minutes per run on two cores

The heads of each run are fitted once. Then the AUROC of the entropy against the built-in D_outs is
computed for each of several seeds. Ways of drawing: one mask per trial, shared by all images, and
drawn independently, in antithetic pairs or stratified; and one mask per image and trial. A row has,
at each recursion, the mean AUROC and its standard deviation over the seeds (mean over runs and
D_outs), and the CPU time of scoring relative to the first row.
"""

import argparse
import time

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from attractor_ae import AttractorDetector, ImageSet, Run, fit_detector, load
from attractor_ae._random import Stream, generator
from attractor_ae.core.masks import DropoutMasks

OUTS = ("faces", "textures", "photos")
WAYS = [
    ("independent", 1.0),
    ("antithetic", 1.0),
    ("stratified", 1.0),
    ("independent", 2.0),
    ("stratified", 2.0),
    ("own", 1.0),
]
"""Ways of drawing, each with the factor of the number of trials."""


def antithetic_masks(detector: AttractorDetector, trial: int) -> DropoutMasks:
    """Draw the masks of a trial from seed and trial alone, of every second with 1 - u for u."""
    rng = generator(detector.seed, Stream.TRIAL_MASKS, trial // 2)
    rate, sites = detector.network.dropout, []
    for shape in detector.network.site_shapes:
        u = rng.random(shape)
        u = 1 - u if trial % 2 else u
        mask = torch.from_numpy((u >= rate) / (1 - rate)).to(detector._dtype)[None]
        if mask.ndim == 4:
            mask = mask.contiguous(memory_format=torch.channels_last)
        sites.append(mask)
    return DropoutMasks(tuple(sites))


def aurocs(detector: AttractorDetector, known: ImageSet, outs: list[ImageSet]) -> np.ndarray:
    """Return the AUROC of the entropy in percent, shape (recursions, D_outs)."""
    inside, *outside = (
        detector.predict_scores(s.images, ["entropy"]).scores["entropy"].numpy()
        for s in (known, *outs)
    )
    found = [
        [roc_auc_score([0] * len(a) + [1] * len(b[r]), np.concatenate((a, b[r]))) for b in outside]
        for r, a in enumerate(inside)
    ]
    return 100 * np.array(found)


def measure(
    detector: AttractorDetector, known: ImageSet, outs: list[ImageSet], seeds: int
) -> list[tuple[np.ndarray, float]]:
    """Return for each of ``WAYS`` the AUROCs, (seeds, recursions, D_outs), and the seconds."""
    trials, results = detector.trials, []
    for way, factor in WAYS:
        detector.trials = round(trials * factor)
        detector.mask_scope = {"own": "sample", "stratified": "stratified"}.get(way, "trial")
        found, seconds = [], 0.0
        for seed in range(seeds):
            detector.seed = seed
            vars(detector).pop("_masks", None)
            if way == "antithetic":
                masks = [antithetic_masks(detector, t) for t in range(detector.trials)]
                detector._masks = lambda first, count, dtype=None, masks=masks: iter(masks)
            began = time.process_time()
            found.append(aurocs(detector, known, outs))
            seconds += time.process_time() - began
        results.append((np.array(found), seconds))
    vars(detector).pop("_masks", None)
    return results


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of finished runs")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--recursions", type=int, default=3)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--per-class", type=int, default=20, help="test images of each class")
    arguments = parser.parse_args()
    tables = []
    for folder in arguments.runs:
        dataset = Run.open(folder).config().dataset
        train = load(dataset.name, per_class=dataset.nbr_of_samples_per_class)
        known, *outs = (
            load(n, "test", per_class=arguments.per_class) for n in (dataset.name, *OUTS)
        )
        overrides = [
            f"evaluation.recursions={arguments.recursions}",
            "evaluation.recursion=0",
            f"evaluation.trials={arguments.trials}",
            "evaluation.score=entropy",
        ]
        detector = fit_detector(folder, train, overrides=overrides)
        if not isinstance(detector, AttractorDetector):
            raise SystemExit(f"{folder}: not a run of an autoencoder")
        tables.append(measure(detector, known, outs, arguments.seeds))
    columns = [f"recursion {r}" for r in range(arguments.recursions)]
    print("| masks | trials |", " | ".join([*columns, "time"]), "|")
    print("|---|---|" + "---|" * (len(columns) + 1))
    first = sum(table[0][1] for table in tables)
    for i, (way, factor) in enumerate(WAYS):
        values = np.stack([table[i][0] for table in tables])  # (runs, seeds, recursions, D_outs)
        means, deviations = values.mean((0, 1, 3)), values.std(1).mean((0, 2))
        cells = [f"{m:.1f} ± {d:.2f}" for m, d in zip(means, deviations, strict=True)]
        seconds = sum(table[i][1] for table in tables)
        trials = round(arguments.trials * factor)
        print(f"| {way} | {trials} |", " | ".join([*cells, f"{seconds / first:.2f}"]), "|")


if __name__ == "__main__":
    main()
