"""Measure what preparing images takes, and what opening them again takes.

    python benchmarks/prepare.py DATA_ROOT FOLDER

DATA_ROOT holds the IDX files of Fashion-MNIST; its 60 000 training images are written to FOLDER as
PNG files, one sub-folder a class, unless they are there. Prepared are the array of the IDX file,
and the PNG files. Each step is a process of its own: seconds, and by how much the peak of its
memory exceeds that of an interpreter that has imported the same.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from attractor_ae.data.decoding import ImageFormat
from attractor_ae.data.idx import read_idx
from attractor_ae.data.own import find_images
from attractor_ae.data.prepare import prepare, prepare_arrays

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
    print("| source | prepare, s | open, s | ratio | memory above the imports, MB |")
    print("|---|---|---|---|---|")
    for kind in ("array", "files"):
        with tempfile.TemporaryDirectory() as cache:
            first = step(kind, arguments.root, arguments.folder, Path(cache))
            again = [
                step(kind, arguments.root, arguments.folder, Path(cache))["seconds"]
                for _ in range(REPEATS)
            ]
        opened = sorted(again)[REPEATS // 2]
        print(
            f"| {kind} | {first['seconds']:.2f} | {opened:.4f} | {first['seconds'] / opened:.0f} | "
            f"{(first['peak'] - nothing) / 1024:.0f} |",
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
    items = find_images(folder).items("all") if name == "files" else []
    began = time.perf_counter()
    if name == "array":
        prepare_arrays(
            "fashion",
            "train",
            (read_idx(file) for file in files[:1]),
            lambda: read_idx(files[1]).astype("int64"),
            CLASSES,
            ImageFormat(),
            source_files=files,
            cache=cache,
        )
    elif name == "files":
        prepare("fashion", "train", items, CLASSES, ImageFormat(), cache=cache)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak": peak}))


def write_files(raw: Path, folder: Path) -> None:
    """Write the images as PNG files, one folder a class."""
    images = read_idx(raw / "train-images-idx3-ubyte")
    labels = read_idx(raw / "train-labels-idx1-ubyte")
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folder / str(label) / f"{i:05}.png")


if __name__ == "__main__":
    main()
