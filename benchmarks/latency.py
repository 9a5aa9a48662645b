"""Latency of a single image, next to the throughput of many.

    python benchmarks/latency.py MODEL FOLDER [--images 200]

Each image is decoded and scored alone, in wall time; then all are scored together.
"""

import argparse
import itertools
import time

import numpy as np
import torch

from attractor_ae import load_model
from attractor_ae.deploy.paths import image_paths


def main() -> None:
    """Print a table row: with all masks, and with adaptive sampling from four masks on."""
    parser = argparse.ArgumentParser(description="Measure the latency of one image.")
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    model = load_model(options.model)
    paths = list(itertools.islice(image_paths([options.folder]), options.images))
    print(f"{len(paths)} images, {torch.get_num_threads()} threads\n")
    print("| masks | median, ms | 99th percentile, ms | together, images/s |\n|---|---|---|---|")
    every = model.detector.trials
    for name, trials in ((f"{every}", None), (f"4 to {every}", (4, every))):
        seconds = []
        for path in paths:
            began = time.perf_counter()
            list(model.score_files(path, trials=trials))
            seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        list(model.score_files(paths, trials=trials))
        rate = len(paths) / (time.perf_counter() - began)
        median, high = 1000 * np.percentile(seconds[5:], [50, 99])  # the first ones warm up
        print(f"| {name} | {median:.0f} | {high:.0f} | {rate:.0f} |")


if __name__ == "__main__":
    main()
