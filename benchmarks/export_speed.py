"""Compare an exported model with the library: outputs on real images, and speed on one core.

    python benchmarks/export_speed.py MODEL FOLDER [--images 1000] [--repeats 3]

FOLDER has known and unknown images. First, all ways take turns with one thread, and the CPU time
per image is printed: min / **median** / max over the repeats. Then the outputs of onnxruntime and
torch.export are compared with those of the library in float32: the largest differences, the numbers
of images whose p-value is another rank or whose verdict is another one, and among the latter the
number of those whose p-value is not next to alpha.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from attractor_ae import Model, export_model, load_model
from attractor_ae.data.decode import decode
from attractor_ae.deploy.export import OUTPUTS
from attractor_ae.deploy.paths import image_paths

Way = Callable[[np.ndarray], dict[str, np.ndarray]]
_FEWEST = 8  # images per repeat


def pictures(folder: str, model: Model, count: int) -> np.ndarray:
    """Return ``count`` images from all over a folder, uint8 in the model's format."""
    paths = list(image_paths([folder]))
    rows = np.unique(np.arange(count) * len(paths) // count)
    return np.stack([decode(paths[row], model.image_format) for row in rows])


def with_onnx(path: Path) -> Way:
    """Return the way of onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["attractor_ae"])
    shared = {**np.load(path.with_name(facts["masks"])), "alpha": np.array(facts["alpha"])}
    return lambda x: dict(zip(OUTPUTS, session.run(OUTPUTS, {**shared, "images": x}), strict=True))


def with_torch(path: Path) -> Way:
    """Return the way of torch.export."""
    files = {"attractor_ae": ""}
    module = torch.export.load(path, extra_files=files).module()
    facts = json.loads(files["attractor_ae"])
    stored = np.load(path.with_name(facts["masks"]))
    masks = [torch.from_numpy(stored[f"mask_{i}"]) for i in range(len(stored))]
    alpha = torch.tensor(facts["alpha"], dtype=torch.float64)

    @torch.no_grad()
    def way(x: np.ndarray) -> dict[str, np.ndarray]:
        found = module(torch.from_numpy(x), alpha, *masks)
        return dict(zip(OUTPUTS, (tensor.numpy() for tensor in found), strict=True))

    return way


def with_library(file: str, precision: str) -> Way:
    """Return the way of the library in a precision."""
    model = load_model(file, device="cpu")
    model.detector.precision = precision

    def way(x: np.ndarray) -> dict[str, np.ndarray]:
        verdicts = model.score(x)
        names = ("probability", "uncertainty", "ood_score", "p_value")
        found = {name: np.array([getattr(v, name) or 0 for v in verdicts]) for name in names}
        return {**found, "unknown": np.array([v.verdict == "unknown" for v in verdicts])}

    return way


def compared(found: dict[str, np.ndarray], own: dict[str, np.ndarray], alpha: float) -> str:
    """Return a line of a table: largest differences, and verdicts that differ."""
    step = np.abs(found["p_value"] - own["p_value"])
    other = found["unknown"] != own["unknown"]
    near = np.abs(own["p_value"] - alpha) <= step + 1e-9  # the p-value of a neighbouring rank
    cells = [
        f"{np.abs(found['probabilities'].max(1) - own['probability']).max():.1e}",
        f"{np.abs(found['uncertainty'] - own['uncertainty']).max():.1e}",
        f"{step.max():.1e}",
        f"{(step > 1e-4).sum()}",
        f"{other.sum()}",
        f"{(other & ~near).sum()}",
    ]
    return " | ".join(cells)


def milliseconds(ways: dict[str, Way], x: np.ndarray, size: int, repeats: int) -> dict[str, str]:
    """Return the CPU time per image of each way, which take turns, in batches of ``size``."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    batches = [x[i : i + size] for i in range(0, max(size, _FEWEST), size)]
    for repeat, (name, way) in itertools.product(range(repeats + 1), ways.items()):
        began = time.process_time()
        for batch in batches:
            way(batch)
        if repeat:  # the first one is a warm-up
            spent = time.process_time() - began
            found[name].append(1000 * spent / sum(map(len, batches)))
    return {n: f"{min(t):.1f} / **{np.median(t):.1f}** / {max(t):.1f}" for n, t in found.items()}


def main() -> None:
    """Measure, then compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(options.model, device="cpu")
    x = pictures(options.folder, model, options.images)
    with tempfile.TemporaryDirectory() as folder:
        paths = {"onnx": Path(folder, "a.onnx"), "torch": Path(folder, "b.pt2")}
        for form, path in paths.items():
            export_model(options.model, path, form=form)
        graphs = {
            "onnxruntime": with_onnx(paths["onnx"]),
            "torch.export": with_torch(paths["torch"]),
        }
    library = with_library(options.model, "float32")
    ways = graphs | {
        "library, float32": library,
        "library, auto": with_library(options.model, "auto"),
    }
    columns = {size: milliseconds(ways, x, size, options.repeats) for size in (1, 8, 32)}
    print("CPU time per image in ms, one thread\n")
    print("| |", *(f"{size} at once |" for size in columns))
    print("|---" * (1 + len(columns)) + "|")
    for name in ways:
        print("|", name, *(f"| {column[name]}" for column in columns.values()), "|", flush=True)

    def every(way: Way) -> dict[str, np.ndarray]:
        parts = [way(x[i : i + 32]) for i in range(0, len(x), 32)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    own = every(library)
    print(f"\n{len(x)} images, {own['unknown'].sum()} of them unknown\n")
    print("| | probability | uncertainty | p-value | other ranks | other verdicts | not near |")
    print("|---|---|---|---|---|---|---|")
    for name, way in graphs.items():
        print(f"| {name} | {compared(every(way), own, model.alpha)} |", flush=True)


if __name__ == "__main__":
    main()
