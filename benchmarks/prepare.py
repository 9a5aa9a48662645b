"""Measure what preparing images takes, and what opening them again takes.

    python benchmarks/prepare.py DATA_ROOT FOLDER

DATA_ROOT holds the IDX files of Fashion-MNIST; its 60 000 training images are written to FOLDER as
PNG files, one sub-folder per class, unless they are there. Prepared are the array of the IDX file,
and the PNG files. Each step is a process of its own: seconds to find the files, to prepare them,
and to open what was prepared (the files are found in it, too), and by how much the peak of its
memory exceeds that of an
interpreter that has imported the same. What opening takes has a floor: asking the system for the
size and time of every file, and nothing else, is measured beside it, in the same process.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from PIL import Image

from attractor_ae import load
from attractor_ae.data.sources.own import find_images
from attractor_ae.data.sources.torchvision import read_idx

CLASSES = tuple("0123456789")
REPEATS = 5


def main() -> None:
    """Print a table, or do one step of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="data root")
    parser.add_argument("folder", type=Path, help="where the PNG files are, or are to be written")
    parser.add_argument("--step", choices=["nothing", "array", "files"], help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    raw = arguments.root / "FashionMNIST" / "raw"
    if arguments.step:
        measure(arguments.step, raw, arguments.folder, arguments.cache)
        return
    if not arguments.folder.exists():
        write_files(raw, arguments.folder)
    nothing = step("nothing", arguments.root, arguments.folder, Path())["peak"]
    print("| source | prepare, s | find, s | open, s | floor, s | prepare / open | memory, MB |")
    print("|---|---|---|---|---|---|---|")
    for kind in ("array", "files"):
        with tempfile.TemporaryDirectory() as cache:
            first = step(kind, arguments.root, arguments.folder, Path(cache))
            again = [
                step(kind, arguments.root, arguments.folder, Path(cache)) for _ in range(REPEATS)
            ]
        found, opened, floor = (
            median(one[key] for one in again) for key in ("find", "seconds", "floor")
        )
        print(
            f"| {kind} | {first['seconds']:.2f} | {found:.3f} | {opened:.4f} | {floor:.4f} | "
            f"{first['seconds'] / opened:.0f} | {(first['peak'] - nothing) / 1024:.0f} |",
            flush=True,
        )


def step(name: str, root: Path, folder: Path, cache: Path) -> dict[str, float]:
    """Do one step in a process of its own."""
    command = [sys.executable, __file__, str(root), str(folder), "--step", name]
    done = subprocess.run([*command, "--cache", str(cache)], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def measure(name: str, raw: Path, folder: Path, cache: Path) -> None:
    """Do a step, and print its seconds and the peak of memory in kB."""
    files = [raw / f"train-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
    began = time.perf_counter()
    paths = find_images(folder).found.paths if name == "files" else ()
    find = time.perf_counter() - began
    began = time.perf_counter()
    if name == "array":
        load("fashion", "train", root=raw.parents[1], cache=cache)
    elif name == "files":
        load(str(folder), "all", cache=cache)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    for path in paths or map(os.fspath, files):
        os.stat(path)  # noqa: PTH116
    floor = time.perf_counter() - began
    print(json.dumps({"find": find, "seconds": seconds, "floor": floor, "peak": peak}))


def write_files(raw: Path, folder: Path) -> None:
    """Write the images as PNG files, one folder per class."""
    images = read_idx(raw / "train-images-idx3-ubyte")
    labels = read_idx(raw / "train-labels-idx1-ubyte")
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folder / str(label) / f"{i:05}.png")


if __name__ == "__main__":
    main()
