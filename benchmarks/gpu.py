"""Correctness and speed on a GPU, in a few minutes: `benchmarks/gpu.sh`.

First, scores on the device and on the CPU must agree to 1e-4 in float32, and be the same bits twice
on the device. Then training and scoring are timed against plain PyTorch on the same device, and a
Markdown table is printed. ``--device cpu --quick`` tries whether the script runs.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import plain
import torch
from common import fresh_model, spread
from measurements import Ticks

from attractor_ae import AttractorDetector, ImageSet, load, preset, train
from attractor_ae.core.heads import make_head
from attractor_ae.experiment.config import ExperimentConfig


def main() -> None:
    """Check, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device = torch.device(options.device)
    images = load("mnist5k", per_class=4 if options.quick else 200)
    check(device, images)
    rows = [
        row
        for name in ("default", "paper")
        for row in (
            *training(name, device, images, options),
            *scoring(name, device, images, options),
        )
    ]
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"\n{card}, torch {torch.__version__}; min / **median** / max of {options.repeats}\n")
    print("| preset | work | way | images/s | times as fast as plain | peak memory, MB |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))


def detector_of(name: str, network: torch.nn.Module, precision: str) -> AttractorDetector:
    """Return the detector of a preset around a network."""
    evaluation = preset(name).evaluation
    return AttractorDetector(
        network,  # type: ignore[arg-type]
        recursions=3,
        trials=evaluation.trials,
        mask_scope=evaluation.mask_scope,
        precision=precision,
    )


def check(device: torch.device, images: ImageSet) -> None:
    """Raise unless the device gives the CPU's scores, and its own bits again."""
    some = spread(images, min(200, len(images)))
    for name in ("default", "paper"):
        detector = detector_of(name, fresh_model(), "float32").fit(some.images, some.labels)
        expected = detector.predict_scores(some.images).scores
        detector.to(device)
        first, second = (detector.predict_scores(some.images).scores for _ in range(2))
        for score, values in expected.items():
            assert torch.equal(first[score], second[score]), (name, score)
            if score != "vote_diversity":  # a tie between neighbours can go either way
                torch.testing.assert_close(first[score], values, rtol=1e-4, atol=1e-4)
        print(f"{name}: {len(expected)} scores agree with the CPU to 1e-4, and are repeatable")


def training(
    name: str, device: torch.device, images: ImageSet, options: argparse.Namespace
) -> list[str]:
    """Return rows on training: full batches, with and without 16 bits."""
    epochs, batch = (2, 8) if options.quick else (3, 64)
    images = images.take(range(len(images) // batch * batch))
    count = epochs * len(images)

    def ours(precision: str) -> None:
        config = preset(
            name,
            [
                "dataset.name=mnist5k",
                f"training.epochs={epochs}",
                f"training.batch_size={batch}",
                f"training.device={device}",
                f"training.precision={precision}",
            ],
        )
        config = ExperimentConfig.model_validate(config.model_dump())
        with tempfile.TemporaryDirectory() as folder:
            train(config, images, Path(folder) / "run", reporter=Ticks(lambda: None))

    def plainly(compiled: bool) -> None:
        model = plain.PlainAutoencoder(fresh_model()).to(device)
        step = torch.compile(model) if compiled else model
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        loader = torch.utils.data.DataLoader(plain.AugmentedImages(images), batch, shuffle=True)
        for _ in range(epochs):
            for x, clean, _ in loader:
                optimizer.zero_grad()
                out = step(x.to(device))[0]
                loss = 1 - plain.pytorch_msssim.ssim(out, clean.to(device), data_range=1)
                loss.backward()
                optimizer.step()
                loss.item()

    ways = {
        "plain": lambda: plainly(compiled=False),
        "plain, torch.compile": lambda: plainly(compiled=True),
        "ours, float32": lambda: ours("float32"),
        "ours, auto": lambda: ours("auto"),
    }
    if options.quick:
        del ways["plain, torch.compile"]
    return rows_of(name, "training", ways, count, device, options.repeats)


@torch.no_grad()
def scoring(
    name: str, device: torch.device, images: ImageSet, options: argparse.Namespace
) -> list[str]:
    """Return rows on the uncertainty at recursion 2: the same trials in every way."""
    trials = preset(name).evaluation.trials
    ways: dict[str, Callable[[], object]] = {}
    network = fresh_model()
    for precision in ("float32", "auto"):
        detector = detector_of(name, network, precision).fit(images.images, images.labels)
        ways[f"ours, {precision}"] = functools.partial(detector.to(device).predict, images.images)
    twin = plain.PlainAutoencoder(network).to(device)
    codes = torch.randn(1, len(images), network.latent_dim, device=device)
    labels = torch.from_numpy(images.labels).to(device)
    head = make_head("mlp", "code").fit(codes, labels, int(labels.max()) + 1, 0)

    def plainly(model: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> np.ndarray:
        found = []
        for start in range(0, len(images), plain.BATCH):
            batch = torch.from_numpy(images.images[start : start + plain.BATCH]).to(device) / 255
            p = 0
            for _ in range(trials):
                x, z = batch, None
                with twin.one_mask():
                    for _ in range(3):
                        x, z = model(x)
                p = p + head.predict_proba(z[None], [0])[0] / trials
            found.append(plain.uncertainty(p.cpu().numpy()))
        return np.concatenate(found)

    ways = {"plain": lambda: plainly(twin)} | ways
    return rows_of(name, "scoring", ways, len(images), device, options.repeats)


def rows_of(
    preset_name: str,
    work: str,
    ways: dict[str, Callable[[], object]],
    images: int,
    device: torch.device,
    repeats: int,
) -> list[str]:
    """Time the ways in turn, and return one row of the table for each."""
    cuda = device.type == "cuda"
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    memory = dict.fromkeys(ways, 0.0)
    for repeat in range(repeats + 1):  # the first warms up
        for way, do in ways.items():
            if cuda:
                torch.cuda.reset_peak_memory_stats(device)
                torch.cuda.synchronize(device)
            began = time.perf_counter()
            do()
            if cuda:
                torch.cuda.synchronize(device)
                memory[way] = torch.cuda.max_memory_allocated(device) / 2**20
            if repeat:
                seconds[way].append(time.perf_counter() - began)
    base = np.array(seconds["plain"])
    return [
        f"| {preset_name} | {work} | {way} | {images / np.median(of):.0f} | "
        + " / ".join(
            form.format(value(base / of))
            for form, value in (("{:.2f}", np.min), ("**{:.2f}**", np.median), ("{:.2f}", np.max))
        )
        + f" | {f'{memory[way]:.0f}' if cuda else ''} |"
        for way, of in seconds.items()
    ]


if __name__ == "__main__":
    main()
