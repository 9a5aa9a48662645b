"""Scoring many files against scoring an array of the same images, and the peak of memory.

    python benchmarks/score_files.py MODEL IMAGES [--files 20000] [--array 512] [--repeats 3]
                                                  [--trials 4 20]

The files are links to at most 300 images of a folder. Times per image are those of all threads
(CPU) and of the clock (wall), medians of the repeats, in which the ways take turns. Memory is the
peak above that of a tenth of the files.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from memory import peak_memory

from attractor_ae import load_model
from attractor_ae.data.decode import decode_quietly, without_warnings
from attractor_ae.deploy.paths import image_paths
from attractor_ae.deploy.table import score_to_file

DISTINCT = 300


def main() -> None:
    """Measure, and print a table row per way."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("model", type=Path)
    options.add_argument("images", type=Path)
    options.add_argument("--files", type=int, default=20_000)
    options.add_argument("--array", type=int, default=512, help="Number of images of the array.")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--trials", type=int, nargs="+", help="As for score: 4 20 is adaptive.")
    arguments = options.parse_args()
    trials = arguments.trials
    model = load_model(arguments.model)
    sources = list(itertools.islice(image_paths([arguments.images.resolve()]), DISTINCT))
    with without_warnings():
        few = np.stack([decode_quietly(path, model.image_format) for path in sources])
    array = few[np.arange(arguments.array) % len(few)]

    def decode() -> int:
        with without_warnings():
            for path in sources:
                decode_quietly(path, model.image_format)
        return len(sources)

    def score_array() -> int:
        return len(model.score(array, trials=trials))

    with tempfile.TemporaryDirectory() as home:
        folders = {}
        for count in (max(1, arguments.files // 10), arguments.files):
            folders[count] = Path(home) / str(count)
            folders[count].mkdir()
            for i in range(count):
                source = Path(sources[i % len(sources)])
                (folders[count] / f"{i:07}{source.suffix}").symlink_to(source)

        def score_files(count: int) -> int:
            score_to_file(model, [folders[count]], Path(home) / "v.csv", trials=trials, again=True)
            return count

        least = min(folders)
        score_array()
        score_files(least)
        before = peak_memory()
        ways = {"decoding": decode, "array": score_array, "files": lambda: score_files(least)}
        turns = [[timed(way) for way in ways.values()] for _ in range(arguments.repeats)]
        times = dict(zip(ways, map(list, zip(*turns, strict=True)), strict=True))
        times["all files"] = [timed(lambda: score_files(arguments.files))]
        grown = (peak_memory() - before) / 2**20
    for name, found in times.items():
        cpu, wall = (median(column) * 1000 for column in zip(*found, strict=True))
        print(f"{name}: {cpu:.3f} ms CPU, {wall:.3f} ms per image")
    for clock, name in enumerate(("CPU", "wall")):
        pairs = zip(times["array"], times["files"], strict=True)
        ratio = median(array[clock] / files[clock] for array, files in pairs)
        every = median(found[clock] for found in times["array"]) / times["all files"][0][clock]
        print(f"rate of files / rate of the array, {name}: {ratio:.2f}; of all files: {every:.2f}")
    print(f"peak memory of {arguments.files} files above that of {least}: {grown:.1f} MB")


def timed(way: Callable[[], int]) -> tuple[float, float]:
    """Return the CPU and wall seconds per image of one call, which returns the number of images."""
    cpu, wall = time.process_time(), time.perf_counter()
    count = way()
    return (time.process_time() - cpu) / count, (time.perf_counter() - wall) / count


if __name__ == "__main__":
    main()
