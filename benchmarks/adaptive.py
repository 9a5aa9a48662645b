"""Adaptive sampling: passes saved, verdicts kept and false alarms of model files.

    python benchmarks/adaptive.py mnist.model=mnist parts.model=parts/ --unknown faces textures

The error rate of the rule is chosen on each model's calibration images and every second unknown
image; what is reported is computed from test images of the set after "=" and from the other unknown
images. Known images are divided at random into calibration and test images, many times; for each
division the verdicts with adaptive sampling are compared with those of all trials.
"""

import argparse
import itertools

import numpy as np
import torch
from numpy.typing import NDArray

from attractor_ae import Model, load_model
from attractor_ae.conformal import component_values, is_rejected, p_values
from attractor_ae.data import Wanted, find_dataset
from attractor_ae.deploy._adaptive import ERROR, StoppingRule, chosen_stages, sampled, stages

HEADER = "n | same verdict, % | times fewer passes | rejected, % | of all trials, %"


def statistics(model: Model, name: str, split: str, most: int) -> NDArray[np.float64]:
    """Return T of at most ``most`` images of a set at each stage, (stages, n)."""
    dataset = find_dataset(name)
    split = split or list(dataset.info.splits)[-1]
    wanted = Wanted(250, None, image_format=model.image_format)
    images = dataset.load(split, wanted).images
    images = images[:: -(-len(images) // most)]
    detector, ood = model.detector, model.ood
    r, parts = detector.recursion, []
    for _, means in sampled(
        detector, model.inputs(images), detector._parts, [r], stages(detector.trials)
    ):
        values = component_values({k: v for k, v in means.items() if k}, ood.components)
        parts.append(ood.statistic(values[:, 0], r))
    return torch.stack(parts).numpy()


def compared(
    known: NDArray[np.float64],
    others: dict[str, NDArray[np.float64]],
    counts: list[int],
    options: argparse.Namespace,
    error: float,
) -> dict[str, NDArray[np.float64]]:
    """Return the columns of the table, (divisions, 4), of known test images and of each other set.

    They are fractions of same verdicts, passes per image, and fractions that are rejected with
    adaptive sampling and with all trials.
    """
    rng, rows = np.random.default_rng(0), {"known": [], **{name: [] for name in others}}
    for _ in range(options.divisions):
        calibration, test = np.array_split(rng.permutation(known.shape[1]), 2)
        t = torch.tensor(known[:, calibration])
        rule = StoppingRule.of(t, options.alpha, error)
        stopped, every = rule.applied(t).sort().values, t[-1].sort().values
        for name, values in {"known": known[:, test], **others}.items():
            some = torch.from_numpy(np.ascontiguousarray(values))
            used = torch.stack([rule.stops(v, i) for i, v in enumerate(some)]).int().argmax(0)
            adaptive = is_rejected(
                p_values(rule.applied(some).contiguous(), stopped), options.alpha
            )
            full = is_rejected(p_values(some[-1].contiguous(), every), options.alpha)
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
            half = {name: values[at, ::2] for name, values in unknown.items()}
            known = model._statistics[at].numpy()
            found = compared(known, half, stages(trials)[at], options, error)
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
        half = {name: values[at, 1::2] for name, values in unknown.items()}
        found = compared(known[at], half, stages(trials)[at], options, ERROR)
        for name, values in found.items():
            n = known.shape[1] if name == "known" else half[name].shape[1]
            print(f"| {least} | {file} | {name} | {line(n, trials, values)} |")


if __name__ == "__main__":
    main()
