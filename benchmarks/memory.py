"""The peak of memory of one kind of work, in a process of its own.

    python benchmarks/memory.py "scoring, ours" [--images N ...]

Printed as JSON, in megabytes: the peak above that of the imports, and the size of the images.
"""

import dataclasses
import functools
import json
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import plain
import torch
from common import fresh_model, image_files, new_detector, spread, training_config
from sizes import Sizes, parser, sizes_of

from attractor_ae import evaluate, load, train
from attractor_ae.core.heads import MLPHead


def main() -> None:
    """Do the work that is named, and print its peak."""
    options = parser(__doc__)
    options.add_argument("kind", choices=list(KINDS), metavar="KIND")
    arguments = options.parse_args()
    sizes = sizes_of(arguments)
    torch.set_num_threads(sizes.threads)
    with tempfile.TemporaryDirectory() as folder:
        before = peak_memory()
        given = KINDS[arguments.kind](sizes, Path(folder)) or 0
        print(json.dumps({"peak": (peak_memory() - before) / 2**20, "images": given / 2**20}))


def training(sizes: Sizes, folder: Path, ours: bool) -> None:
    """Train for four steps."""
    images = spread(load("mnist5k"), 4 * sizes.batch_size)
    if ours:
        train(training_config(sizes, 1), images, folder / "run")
    else:
        model = plain.PlainAutoencoder(fresh_model())
        plain.train(model, images, 1, lambda: None, batch_size=sizes.batch_size, workers=0)


def scoring(sizes: Sizes, folder: Path, ours: bool, times: int = 1, outs: int = 0) -> int:
    """Score images, or evaluate a D_in and D_outs of as many; return the bytes of the images."""
    model = fresh_model()
    few = spread(load("mnist5k"), 20)
    one = spread(load("mnist5k", "test"), times * sizes.memory_images)
    sets = [
        dataclasses.replace(one, name=f"set {i}", images=one.images.copy()) for i in range(1 + outs)
    ]
    del one
    if ours:
        detector = new_detector(sizes, model, sizes.recursions, sizes.trials)
        detector.fit(few.images, few.labels)
        if outs:
            evaluate(detector, sets[0], sets[1:]).metrics()
        else:
            detector.predict(sets[0].images)
    else:
        twin = plain.PlainAutoencoder(model)
        if outs:
            settings = {"recursions": sizes.recursions, "trials": sizes.trials, "recursion": 0}
            plain.evaluate(twin, few, sets[0], sets[1:], **settings)
        else:
            heads = plain.fit_heads(plain.latents(twin, few, sizes.recursions), few.labels)
            plain.score(twin, heads, sets[0].images, sizes.trials)
    return sum(images.images.nbytes for images in sets)


def heads(sizes: Sizes, folder: Path, ours: bool) -> None:
    """Fit heads on random codes."""
    rng = np.random.default_rng(sizes.seed)
    count = 10 * sizes.per_class
    labels = np.arange(count) % 10
    codes = rng.standard_normal((sizes.recursions, count, 64), dtype=np.float32)
    codes[..., 0] += labels  # something to learn
    if ours:
        MLPHead().fit(torch.from_numpy(codes), torch.from_numpy(labels), 10, sizes.seed)
    else:
        plain.fit_heads(codes, labels)


def preparing(sizes: Sizes, folder: Path, ours: bool) -> None:
    """Prepare image files."""
    files = image_files(folder / "files", sizes.files)
    if ours:
        load(str(folder / "files"), "all", cache=folder / "cold")
    else:
        plain.prepare(files)


KINDS: dict[str, Callable[[Sizes, Path], int | None]] = {
    f"{kind}, {way}": functools.partial(work, ours=way == "ours")
    for kind, work in {
        "training": training,
        "scoring": scoring,
        "evaluation": functools.partial(scoring, outs=1),
        "evaluation of 4 times the images": functools.partial(scoring, times=4, outs=1),
        "heads": heads,
        "preparing": preparing,
    }.items()
    for way in ("plain", "ours")
}


def peak_memory() -> int:
    """Return the most bytes that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():
        # What getrusage says is inherited: a child of a large process would begin at its size.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main()
