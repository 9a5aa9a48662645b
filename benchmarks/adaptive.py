"""Adaptive sampling: passes saved, verdicts kept and false alarms of model files.

    python benchmarks/adaptive.py mnist.model=mnist parts.model=parts/ --unknown faces textures

The error rate of the rule is chosen on each model's calibration images and every second unknown
image; what is reported is computed from test images of the set after "=" and from the other unknown
images. Known images are divided at random into calibration and test images, many times; for each
division the verdicts with adaptive sampling are compared with those of all trials, with p-values
per predicted class as in `Model.score`.
"""

import argparse
import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attractor_ae import Model, load_model
from attractor_ae.conformal import component_values, is_rejected, p_values_per_class
from attractor_ae.data import Wanted, find_dataset
from attractor_ae.deploy._adaptive import ERROR, StoppingRule, chosen_stages, sampled, stages

HEADER = "n | same verdict, % | times fewer passes | rejected, % | of all trials, %"


Scored = tuple[Tensor, Tensor]
"""T and the predicted class of images at each stage, (stages, n)."""


def statistics(model: Model, name: str, split: str, most: int) -> Scored:
    """Return those of at most ``most`` images of a set."""
    dataset = find_dataset(name)
    split = split or list(dataset.info.splits)[-1]
    wanted = Wanted(250, None, image_format=model.image_format)
    images = dataset.load(split, wanted).images
    images = images[:: -(-len(images) // most)]
    detector, ood = model.detector, model.ood
    r, t, labels = detector.recursion, [], []
    for _, means in sampled(
        detector, model.inputs(images), detector._parts, [r], stages(detector.trials)
    ):
        values = component_values(means, ood.components)
        t.append(ood.statistic(values[:, 0], r))
        labels.append(means[""][0].argmax(-1))
    return torch.stack(t), torch.stack(labels)


def compared(
    model: Model,
    known: Scored,
    others: dict[str, Scored],
    counts: list[int],
    options: argparse.Namespace,
    error: float,
) -> dict[str, NDArray[np.float64]]:
    """Return the columns of the table, (divisions, 4), of known test images and of each other set.

    They are fractions of same verdicts, passes per image, and fractions that are rejected with
    adaptive sampling and with all trials.
    """
    alpha, per_class = options.alpha, model.per_class
    rng, rows = np.random.default_rng(0), {"known": [], **{name: [] for name in others}}
    for _ in range(options.divisions):
        calibration, test = np.array_split(rng.permutation(known[0].shape[1]), 2)
        t, labels = (of[:, calibration] for of in known)
        groups = model.groups(alpha, per_class, labels[-1])
        rule = StoppingRule.of(t, alpha, groups, error)
        stopped, at = rule.applied(t, labels)
        groups_at = model.groups(alpha, per_class, at)
        of_test: Scored = (known[0][:, test], known[1][:, test])
        for name, (values, classes) in {"known": of_test, **others}.items():
            stops = [
                rule.stops(*pair, i) for i, pair in enumerate(zip(values, classes, strict=True))
            ]
            used = torch.stack(stops).int().argmax(0)
            p = p_values_per_class(*rule.applied(values, classes), stopped, groups_at)
            p_all = p_values_per_class(values[-1], classes[-1], t[-1], groups)
            adaptive, full = is_rejected(p, alpha), is_rejected(p_all, alpha)
            columns = (adaptive == full, torch.tensor(counts)[used], adaptive, full)
            rows[name].append([column.double().mean().item() for column in columns])
    return {name: np.array(values) for name, values in rows.items()}


def line(n: int, trials: int, found: NDArray[np.float64]) -> str:
    """Return the cells of a row; ± is the standard error over divisions."""
    mean, error = found.mean(0), found.std(0) / np.sqrt(len(found))
    rates = [f"{100 * mean[i]:.2f} ± {100 * error[i]:.2f}" for i in (2, 3)]
    return f"{n} | {100 * mean[0]:.2f} | {trials / mean[1]:.1f} | {' | '.join(rates)}"


def main() -> None:
    """Print the table of the choice and that of the test images."""
    parser = argparse.ArgumentParser(description="Measure adaptive sampling.")
    parser.add_argument("models", nargs="+", metavar="MODEL=KNOWN")
    parser.add_argument("--unknown", nargs="*", default=[])
    parser.add_argument("--images", type=int, default=1000, help="of each set, at most")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--divisions", type=int, default=200)
    parser.add_argument("--least", type=int, nargs="+", default=[1, 2, 4], help="masks, at least")
    parser.add_argument("--errors", type=float, nargs="+", default=[0.005, 0.01, 0.02, 0.05])
    options = parser.parse_args()
    models = {}
    for text in options.models:
        file, _, known = text.rpartition("=")
        model = load_model(file)
        unknown = {name: statistics(model, name, "", options.images) for name in options.unknown}
        models[file] = (model, statistics(model, known, "test", options.images), unknown)
    print(f"{options.divisions} divisions, alpha {options.alpha:g}\n\nChoice:\n")
    print("| least | error | known: same verdict, %; least | times fewer passes; least ", end="")
    print(
        "| unknown: same verdict, %; least | times fewer passes; least |\n|---|---|---|---|---|---|"
    )
    for least, error in itertools.product(options.least, options.errors):
        rows = []
        for model, _, unknown in models.values():
            trials = model.detector.trials
            at = chosen_stages(trials, (least, trials))
            half = {n: (t[at, ::2], labels[at, ::2]) for n, (t, labels) in unknown.items()}
            known = model._statistics[at], model.predicted[at]
            found = compared(model, known, half, stages(trials)[at], options, error)
            means = [(100 * v[:, 0].mean(), trials / v[:, 1].mean()) for v in found.values()]
            rows.append([*means[0], *np.mean(means[1:], 0), *np.min(means[1:], 0)])
        of_known, of_known_least = np.mean(rows, 0)[:2], np.min(rows, 0)[:2]
        of_unknown, of_unknown_least = np.mean(rows, 0)[2:4], np.min(rows, 0)[4:]
        cells = [
            f"{mean[i]:.{2 - i}f}; {lowest[i]:.{2 - i}f}"
            for mean, lowest in ((of_known, of_known_least), (of_unknown, of_unknown_least))
            for i in range(2)
        ]
        print(f"| {least} | {error:g} | {' | '.join(cells)} |")
    print(f"\nTest images, error {ERROR:g}:\n")
    print(f"| least | model | images | {HEADER} |\n|---|---|---|---|---|---|---|---|")
    for least, (file, (model, known, unknown)) in itertools.product(options.least, models.items()):
        trials = model.detector.trials
        at = chosen_stages(trials, (least, trials))
        half = {n: (t[at, 1::2], labels[at, 1::2]) for n, (t, labels) in unknown.items()}
        of_known = (known[0][at], known[1][at])
        found = compared(model, of_known, half, stages(trials)[at], options, ERROR)
        for name, values in found.items():
            n = (of_known if name == "known" else half[name])[0].shape[1]
            print(f"| {least} | {file} | {name} | {line(n, trials, values)} |")


if __name__ == "__main__":
    main()
