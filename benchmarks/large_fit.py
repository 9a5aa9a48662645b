"""`fit` on many images or classes: seconds, peak of memory, and size of the model file.

    python benchmarks/large_fit.py --images 100000 --classes 20
    python benchmarks/large_fit.py --images 3000 --classes 1000

Images are 16 x 16 pixels: each class is a pattern, and each image has noise of its own. The
training is one epoch, so that what else `fit` does can be seen: audit, fit, calibration, report.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from memory import peak_memory

from attractor_ae import fit_model

SETTINGS = ("model.space=pixels", "training.epochs=1", "dataset.image_size=16")


def main() -> None:
    """Fit a model in a temporary folder, and print a table row."""
    parser = argparse.ArgumentParser(description="Measure fit.")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=20)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    labels = np.arange(options.images) % options.classes
    patterns = rng.integers(0, 256, (options.classes, 16, 16))
    noise = rng.normal(0, 40, (options.images, 16, 16))
    images = (patterns[labels] + noise).clip(0, 255).astype(np.uint8)
    with tempfile.TemporaryDirectory() as home:
        np.savez(Path(home) / "set.npz", images=images, labels=labels)
        del noise, images
        began, out = time.perf_counter(), Path(home) / "set.model"
        model = fit_model(Path(home) / "set.npz", out, overrides=SETTINGS)
        seconds, size = time.perf_counter() - began, out.stat().st_size
    print("| images | classes | calibration | seconds | peak of memory, GB | model file, MB |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {options.images} | {options.classes} | {model.calibration_images} | {seconds:.0f} "
        f"| {peak_memory() / 2**30:.1f} | {size / 1e6:.1f} |"
    )


if __name__ == "__main__":
    main()
