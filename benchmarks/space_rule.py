"""Check the rule that chooses a space: accuracy on calibration and on test images, and its choice.

The training on pixels is repeated up to a quarter, where the rule may stop it.

    python benchmarks/space_rule.py --in-datasets mnist fashion gtsrb.npz cifar10.npz --seeds 0 1
    python benchmarks/space_rule.py --in-datasets gtsrb.npz cifar10.npz scenes --channels 3

Trainings are those of `peers.py` and `feature_peers.py`, made if they are missing; accuracies on
test images are read from their files. Prints a table in Markdown.
"""

import argparse
import json
import tempfile
from dataclasses import replace

from evidence import Job, jobs_of, prepared, shared_arguments, trained
from peers import CELLS, Cell

from attractor_ae import train
from attractor_ae.experiment.choose import features_are_better, features_will_be_better
from attractor_ae.training import with_features


def calibration_accuracy(job: Job) -> tuple[float, int]:
    """Return the accuracy on the calibration images, and their number."""
    config, images, _ = prepared(job)
    check = trained(job, with_features(config, images)).self_check()
    return check["accuracy"], check["images"]


def quarter_accuracy(job: Job) -> float:
    """Return the accuracy on the calibration images after a quarter of the training."""
    config, images, _ = prepared(job)
    found: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train(config, images, folder, stop=lambda accuracy, _: not found.append(accuracy))
    return found[0]


def test_accuracy(cell: Cell) -> float:
    """Return the accuracy in the file of a cell."""
    return json.loads(cell.target.read_text("utf-8"))["rows"][0]["accuracy"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared_arguments(parser)
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    a = parser.parse_args()
    colour = "grey" if a.channels == 1 else "RGB"
    names = "calibration: pixels | after a quarter | features | choice | stopped"
    print(f"| D_in, seed | {names} | test: pixels | features |")
    print("|---|---|---|---|---|---|---|---|")
    for job in jobs_of(a):
        pixels = Cell(job, a.channels, "attractors", CELLS)
        recipe = "photographs" + (":dataset.channels=1" if a.channels == 1 else "")
        features = Cell(replace(job, recipe=recipe), a.channels, "features", CELLS / "features")
        if not pixels.target.exists() or not features.target.exists():
            continue
        of_pixels, count = calibration_accuracy(pixels.default)
        of_features, _ = calibration_accuracy(features.job)
        choice = "features" if features_are_better(of_features, of_pixels, count) else "pixels"
        early = quarter_accuracy(pixels.default)
        stopped = "yes" if features_will_be_better(of_features, early, count) else "no"
        known = [of_pixels, early, of_features, test_accuracy(pixels), test_accuracy(features)]
        shown = [f"{100 * value:.1f}" for value in known]
        cells = [f"{job.label}, {colour}, {job.seed}", *shown[:3], choice, stopped, *shown[3:]]
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
