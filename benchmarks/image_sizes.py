"""Measure training and scoring for other sizes and colours: time of an image, and peak memory.

    python benchmarks/image_sizes.py --sizes 64 128 --channels 1 3

Each row is a process of its own, which trains the default recipe for some steps on images of the
built-in set ``specimens``, fits a detector and scores images. The table is printed as Markdown.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from evidence import epoch_seconds
from memory import peak_memory

from attractor_ae import fit_detector, load, preset, train
from attractor_ae.data import ImageFormat


def measure(size: int, channels: int, epochs: int) -> dict[str, float]:
    """Return milliseconds per image and the peak of memory in megabytes."""
    settings = ["dataset.name=specimens", f"dataset.image_size={size}"]
    settings += [f"dataset.channels={channels}", f"training.epochs={epochs}"]
    settings += ["training.dropout_warmup=0"]  # as in most of a training
    config = preset("default", [*settings, "evaluation.recursions=2", "training.device=cpu"])
    images = load("specimens", image_format=ImageFormat(size, channels))
    with tempfile.TemporaryDirectory() as folder:
        run = train(config, images, Path(folder) / "run")
        seconds, trained = min(epoch_seconds(run)), peak_memory()
        detector = fit_detector(run.path, images)
        began = time.perf_counter()
        detector.predict(images.images)
        scoring = time.perf_counter() - began
    return {
        "training, ms per image": 1000 * seconds / (0.9 * len(images)),
        "scoring, ms per image": 1000 * scoring / len(images),
        "peak of training, MB": trained / 2**20,
        "peak of both, MB": peak_memory() / 2**20,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="pixels")
    parser.add_argument("--channels", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--epochs", type=int, default=4, help="the fastest one counts")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one:
        print(json.dumps(measure(*a.one, a.epochs)))
        return
    rows = []
    for size in a.sizes:
        for channels in a.channels:
            command = [sys.executable, "-W", "ignore", __file__, "--epochs", str(a.epochs)]
            command += ["--one", str(size), str(channels)]
            found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
            rows.append({"pixels": size, "channels": channels, **found})
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(f"{value:.4g}" for value in row.values()) + " |")


if __name__ == "__main__":
    main()
