"""Adaptive sampling: passes saved, verdicts kept, false alarms, for a detector that has a run.

    python benchmarks/adaptive.py demo/detector.safetensors mnist5k digits8 faces textures

Known test images are divided at random into calibration and test images, many times; for each
division the verdict with adaptive sampling is compared with that of all trials.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from attractor_ae import load_detector
from attractor_ae.conformal import component_values, p_values
from attractor_ae.data import ImageFormat, Wanted, find_dataset
from attractor_ae.deploy._adaptive import ERROR, StoppingRule, sampled, stages


def main() -> None:
    """Print the table for each error rate of the rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("detector", type=Path)
    parser.add_argument("known", help="data set whose test images are known")
    parser.add_argument("unknown", nargs="*")
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--images", type=int, default=300, help="of each unknown set, at most")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--divisions", type=int, default=200)
    parser.add_argument("--errors", type=float, nargs="+", default=[ERROR])
    options = parser.parse_args()
    detector = load_detector(options.detector)
    channels, size, _ = detector.image_shape
    r, counts = detector.recursion, stages(detector.trials)

    def statistics(name: str) -> np.ndarray:
        dataset = find_dataset(name)
        split = list(dataset.info.splits)[-1]
        form = ImageFormat(size, channels)
        images = dataset.load(split, Wanted(options.per_class, None, image_format=form)).images
        if name != options.known:
            images = images[: options.images]
        found = sampled(detector, torch.tensor(images), detector._parts, [r], counts)
        of_stages = [
            component_values({k: v for k, v in means.items() if k}, detector.ood_.components)
            for _, means in found
        ]
        return torch.stack([detector.ood_.statistic(of[:, 0], r) for of in of_stages]).numpy()

    t = {name: statistics(name) for name in (options.known, *options.unknown)}
    for error in options.errors:
        rng, rows = np.random.default_rng(0), {name: [] for name in t}
        for _ in range(options.divisions):
            order = rng.permutation(t[options.known].shape[1])
            calibration, others = np.array_split(order, 2)
            known = torch.tensor(t[options.known][:, calibration].copy())
            rule = StoppingRule.of(known, options.alpha, error)
            stopped, every = rule.applied(known).sort().values, known[-1].sort().values
            for name, values in t.items():
                some = torch.tensor(values[:, others].copy() if name == options.known else values)
                stages_used = (
                    torch.stack([rule.stops(v, i) for i, v in enumerate(some)]).int().argmax(0)
                )
                adaptive = p_values(rule.applied(some), stopped) <= options.alpha + 1e-9
                full = p_values(some[-1], every) <= options.alpha + 1e-9
                passes = np.array(counts)[stages_used.numpy()].mean()
                agree = (adaptive == full).double().mean().item()
                rows[name].append((agree, passes, adaptive.double().mean(), full.double().mean()))
        print(
            f"{options.divisions} divisions, alpha {options.alpha:g}, error {error:g}, "
            f"all trials: {counts[-1]}\n"
        )
        print(
            "| images | n | same verdict, % | passes | times fewer | rejected, % "
            "| of all trials, % |"
        )
        print("|---|---|---|---|---|---|---|")
        for name, found in rows.items():
            mean, error = np.mean(found, 0), np.std(found, 0) / np.sqrt(len(found))
            print(
                f"| {name} | {t[name].shape[1]} | {100 * mean[0]:.2f} | {mean[1]:.2f} | "
                f"{counts[-1] / mean[1]:.1f} | {100 * mean[2]:.2f} ± {100 * error[2]:.2f} | "
                f"{100 * mean[3]:.2f} ± {100 * error[3]:.2f} |"
            )


if __name__ == "__main__":
    main()
