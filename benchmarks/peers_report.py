"""Generate docs/peers.md from the files that `peers.py` has left.

python benchmarks/peers_report.py > docs/peers.md
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from evidence_report import cell
from peers import CELLS, GROUPS, MEMBERS

OURS = "MC-AE, ood_score"
NEAR_OURS = "MC-AE on features, ood_score"
GREY_ONLY = ("faces", "textures", "mnist", "fashion")
"""Data sets without colour."""

Rows = dict[tuple[str, str], list[dict]]
"""(D_in, method) -> a row per seed."""

INTRODUCTION = f"""# Against other methods

Every method sees the same images: up to 250 per class, of which 225 train the network, with the
same seeds. The classifier takes two steps for each step of the autoencoder, and two thirds of its
time on one core (the last table of each section). `MC-AE, ood_score` is the default recipe of
this package, with the same settings for every D_in, and `MC-AE, entropy` has the score of the paper
on the same networks. The detectors of [pytorch-ood](https://pytorch-ood.readthedocs.io) and MC
dropout share one convolutional classifier; the ensemble's {MEMBERS} members are trained for as
many epochs. *Image statistics* use no network: they are the Mahalanobis distance of mean, contrast,
total variation and compressed size of an image. A method that does not exceed it has learned
nothing useful for these data sets.

`gtsrb` has ten classes of traffic signs, `scenes` eight classes of photographs with 90 training
images each. D_outs are faces, textures, photos and the others of MNIST, Fashion-MNIST, traffic
signs and CIFAR-10. Rates are for test images, percent, mean ± standard deviation (population) over
the seeds; *worst* is the D_out with the smallest AUROC. Methods are sorted by mean AUROC over the
D_ins. Each training is a file in `benchmarks/peers/`, and `benchmarks/peers_report.py` makes this
page from them. The same commands add seeds and D_ins that are still missing, and skip finished
files:

    make test-real    # downloads MNIST and Fashion-MNIST to .real/
    python benchmarks/peers.py --in-datasets mnist fashion gtsrb.npz cifar10.npz scenes \\
      --others mnist fashion gtsrb.npz cifar10.npz
    python benchmarks/peers.py --in-datasets gtsrb.npz cifar10.npz scenes --channels 3 \\
      --others mnist fashion gtsrb.npz cifar10.npz
    python benchmarks/peers_report.py > docs/peers.md"""

FEATURES = """
## On the features of a pretrained network

All methods see the same standardised features of EfficientNet-Lite0 at 160 pixels
([features.md](features.md)), of the same images as above: MC-AE with the preset `photographs`, the
detectors of pytorch-ood that need no feature maps on a linear head (logistic regression), the
residual of principal components, and FRE, a linear autoencoder. The files are made by

    python benchmarks/feature_peers.py --in-datasets mnist fashion gtsrb.npz cifar10.npz scenes \\
      --others mnist fashion gtsrb.npz cifar10.npz
    python benchmarks/feature_peers.py --in-datasets gtsrb.npz cifar10.npz scenes --channels 3 \\
      --others mnist fashion gtsrb.npz cifar10.npz"""

NEAR = """
## Near unknowns

Of the ten classes of D_in, six are known and the others unknown, in five fixed open-set splits
([reproduce.md](reproduce.md#near-unknowns-open-set-splits)); *scenes* has all its eight classes
against photographs of eight further kinds of scenes. Rates are for test images of known classes and
every second test image of unknown ones, mean ± standard deviation over the splits. MC-AE on pixels
has the preset `default`, on features `photographs`, and *on both* is the mean of the components of
both OOD scores; the other methods see the same features. The files are made by

    python benchmarks/open_set.py --in-datasets mnist fashion gtsrb.npz cifar10.npz
    python benchmarks/open_set.py --in-datasets gtsrb.npz cifar10.npz --channels 3
    python benchmarks/open_set.py --in-datasets scenes --channels 3 --unknown other-scenes \\
      --seeds 0"""

NEAREST = """## Published figures

We know of no figure published for 250 images per class and minutes on a CPU. The nearest ones are
for Fashion-MNIST against MNIST with all 60 000 training images: AUROC 77 for MSP, 84 for an
ensemble, 99.6 for Mahalanobis and FSSD, 99 for likelihood regret."""


def mean(rates: dict[str, float]) -> float:
    """Return the mean over the D_outs."""
    return float(np.mean(list(rates.values())))


def worst(rates: dict[str, float]) -> float:
    """Return the smallest over the D_outs."""
    return min(rates.values())


Measures = dict[str, Callable[[dict], float]]

MEASURES: Measures = {
    "mean AUROC": lambda row: mean(row["auroc"]),
    "worst AUROC": lambda row: worst(row["auroc"]),
    "mean FPR95": lambda row: mean(row["fpr95"]),
}


def print_table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table in Markdown."""
    lines = [list(heads), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    for line in lines:
        print("| " + " | ".join(line) + " |")


def average(rows: list[dict], measure: Callable[[dict], float]) -> float:
    """Return the mean over the seeds."""
    return float(np.mean([measure(row) for row in rows]))


def print_rates(
    found: Rows, title: str, measures: Measures = MEASURES, ours: str = OURS, n: str = "n"
) -> None:
    """Print a table for each measure, and where another method is better than ours."""
    sets = list(dict.fromkeys(name for name, _ in found))
    methods = list(dict.fromkeys(method for _, method in found))
    auroc = MEASURES["mean AUROC"]
    methods = [m for m in methods if all((name, m) in found for name in sets)]
    methods.sort(key=lambda m: -np.mean([average(found[name, m], auroc) for name in sets]))
    for label, measure in measures.items():
        print(f"\n**{title}: {label}**\n")
        rows = []
        for method in methods:
            values = [[measure(row) for row in found[name, method]] for name in sets]
            rows.append([method, *map(cell, values)])
        seeds = [len(found[name, methods[0]]) for name in sets]
        heads = [f"D_in {name}, {n} = {count}" for name, count in zip(sets, seeds, strict=True)]
        print_table(["method", *heads], rows)
    print()
    for name in sets:
        reached = average(found[name, ours], auroc)
        better = {m: average(found[name, m], auroc) for m in methods}
        better = {m: value for m, value in better.items() if value > reached}
        listed = ", ".join(
            f"{m} ({100 * value:.1f})" for m, value in sorted(better.items(), key=lambda x: -x[1])
        )
        print(f"* {name}: {ours} is {f'exceeded by {listed}' if listed else 'best'}.")


def coloured(found: Rows) -> Rows:
    """Return the rates of the D_outs in colour."""

    def part(row: dict) -> dict:
        kept = {key: row[key] for key in ("auroc", "fpr95")}
        return {
            key: {out: rate for out, rate in rates.items() if out not in GREY_ONLY}
            for key, rates in kept.items()
        }

    return {key: [part(row) for row in rows] for key, rows in found.items()}


def print_costs(cells: list[dict]) -> None:
    """Print accuracy, training time and passes of each kind of training."""
    print("\n**Accuracy, cost, and known images flagged at 5 %**\n")
    first: dict[tuple[str, str], list[tuple[dict, dict]]] = defaultdict(list)
    for one in cells:
        for row in {row["passes"]: row for row in reversed(one["rows"])}.values():
            kind = row["method"].split(",")[0].replace("MSP (pytorch-ood)", "classifier")
            first[one["in_dataset"], kind].append((one, row))
    rows = []
    for (name, kind), pairs in first.items():
        if pairs[0][1]["accuracy"] is None:
            continue
        flagged = [row["flagged"] for _, row in pairs if row["flagged"] is not None]
        seconds = min(one["training_seconds_one_thread"] for one, _ in pairs)
        accuracy = cell([row["accuracy"] for _, row in pairs])
        passes = f"{pairs[0][1]['passes']:.0f}"
        more = cell(flagged) if flagged else ""
        rows.append([name, kind, accuracy, f"{seconds:.0f}", passes, more])
    print_table(
        ["D_in", "method", "accuracy", "training, s", "passes per image", "known flagged"], rows
    )


def complete(cells: list[dict]) -> list[dict]:
    """Return the files of each D_in and seed of which there are all, by D_in, seed and group."""
    groups: dict[tuple[str, int], set[str]] = defaultdict(set)
    for one in cells:
        groups[one["in_dataset"], one["seed"]].add(one["group"])
    return [one for one in cells if groups[one["in_dataset"], one["seed"]] == set(GROUPS)]


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=CELLS)
    folder = parser.parse_args().folder
    print(INTRODUCTION)
    for colour, title in (("grey", "Grey"), ("rgb", "Colour")):
        print_section(complete(cells_in(folder / colour)), title, colour == "rgb")
    print(FEATURES)
    for colour, title in (("grey", "Features, grey"), ("rgb", "Features, colour")):
        print_section(cells_in(folder / "features" / colour), title, colour == "rgb")
    print(NEAR)
    near = {"AUROC": MEASURES["mean AUROC"], "FPR95": MEASURES["mean FPR95"]}
    for colour, title in (("grey", "Near unknowns, grey"), ("rgb", "Near unknowns, colour")):
        if found := rows_of(cells_in(folder / "open-set" / colour)):
            print_rates(found, title, near, NEAR_OURS, "splits")
    print(f"\n{NEAREST}")


def cells_in(folder: Path) -> list[dict]:
    """Return the files of a folder, by D_in and seed."""
    found = [json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")]
    return sorted(found, key=lambda one: (one["in_dataset"], one["seed"], one["group"]))


def rows_of(cells: list[dict]) -> Rows:
    """Return the rows of files by D_in and method."""
    found: Rows = defaultdict(list)
    for one in cells:
        for row in one["rows"]:
            found[one["in_dataset"], row["method"]].append(row)
    return found


def print_section(cells: list[dict], title: str, colour: bool) -> None:
    """Print the tables of files."""
    if not cells:
        return
    found = rows_of(cells)
    print(f"\n## {title}")
    print_rates(found, f"{title}, all D_outs")
    if colour:
        print_rates(coloured(found), f"{title}, D_outs in colour alone")
    print_costs(cells)


if __name__ == "__main__":
    main()
