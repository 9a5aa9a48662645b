"""The report: one HTML file about models and evaluated runs, which needs no other file."""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jinja2 import Environment, FileSystemLoader
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_curve

from attractor_ae import __version__
from attractor_ae._detector import Detector
from attractor_ae._devices import pixels
from attractor_ae._files import write_text
from attractor_ae._reporter import SILENT, Reporter, percent
from attractor_ae.conformal import false_alarm_rate
from attractor_ae.core.detector import AttractorDetector
from attractor_ae.core.scores import OOD_SCORE
from attractor_ae.core.spaces import Features
from attractor_ae.data import ImageSet
from attractor_ae.data.decode import displayed, side_by_side
from attractor_ae.experiment.result import DatasetScores, EvaluationResult
from attractor_ae.experiment.trial_curve import TrialCurve
from attractor_ae.metrics import exact_interval
from attractor_ae.reporting.reconstructions import likely_classes

_ALPHA = 0.05
_STEPS = 60  # of the threshold, from "all rejected" to alpha
_BINS = 40
_MASKS, _APPLICATIONS = 4, 6  # in a strip
_NEAREST, _LIKELY = 4, 5  # training images and classes of an image
_TILES, _TILES_OF_MANY = 6, 3  # images in a gallery, with one part and with several
_CLASSES, _SAMPLES = 12, 8  # rows and columns of the training images
_SIDE = 96  # largest height and width of an image
_MOVED = 0.5  # |x_r - x_0| that is drawn brightest
_POINTS = 150  # of a ROC curve


@dataclass(frozen=True, eq=False)
class Trained:
    """Training images, in the order in which a detector was fitted on them; one is read by row."""

    labels: NDArray[np.int64]
    classes: Sequence[str]
    picture: Callable[[int], NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class Part:
    """A model or a run in a report; missing parts are left out.

    Attributes:
        title: Heading.
        facts: Facts about the model and its training, by name.
        check: The self-check, with the keys of ``self_check.json``.
        detector: The fitted detector.
        result: Scores of data sets.
        judged: Whether the first set of ``result`` is known, so that there are rates.
        images: Images of each set of ``result``, in its order.
        trained: Training images.
        nearest: Path of each training image.
        trials: AUROC by number of trials.
        alpha: The threshold at first.
        per_class: Whether verdicts rank images per class, unlike the threshold.
        table: Caption, heads, and rows of a further table.
        figures: Captions of image files, by path.
        notes: Lines below the heading.
    """

    title: str
    facts: Mapping[str, str]
    check: Mapping[str, Any] = field(default_factory=dict)
    detector: Detector | None = None
    result: EvaluationResult | None = None
    judged: bool = True
    images: Sequence[ImageSet] = ()
    trained: Trained | None = None
    nearest: Sequence[str] = ()
    trials: TrialCurve | None = None
    alpha: float = _ALPHA
    per_class: bool = False
    table: tuple[str, Sequence[str], Sequence[Sequence[str]]] | None = None
    figures: Mapping[Path, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def calibration_images(self) -> int:
        """Number of calibration images of the score; 0 if it is not a calibrated OOD score."""
        statistics = getattr(getattr(self.detector, "ood_", None), "statistics", None)
        shown = self.result is None or self.result.score == OOD_SCORE
        return 0 if statistics is None or not shown else statistics.shape[1]


def save_report(
    path: str | Path, parts: Sequence[Part], title: str, *, reporter: Reporter = SILENT
) -> Path:
    """Write the report on models and runs as one HTML file, atomically; return its path."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    views = []
    for i, part in enumerate(parts, start=1):
        views.append(_view(part, f"part{i}", _TILES if len(parts) == 1 else _TILES_OF_MANY))
        reporter.progress("drawing", i, len(parts), f"report: {i}/{len(parts)} parts")
    template = environment.get_template("report.html")
    text = template.render(title=title, parts=views, version=__version__).lstrip()
    write_text(Path(path), text.replace(" %", "\N{NO-BREAK SPACE}%"))
    return Path(path)


def _view(part: Part, key: str, tiles: int) -> dict[str, Any]:
    """Return what the template shows of a part."""
    view: dict[str, Any] = {"key": key, "part": part, "samples": _samples(part.trained)}
    view["threshold"] = _threshold(part)
    view["figures"] = [(t, _uri(p.suffix[1:], p.read_bytes())) for p, t in part.figures.items()]
    result = part.result
    if result is not None and part.judged and (result.out_scores or result.covariate_shift_scores):
        others = (*result.covariate_shift_scores, *result.out_scores)
        view["rates"] = [(_role(s), s.name, result.rates(s.name)) for s in others]
        view["charts"] = _charts(part, result)
    if result is not None and part.images:
        view["galleries"], view["details"] = _galleries(part, result, key, tiles)
    return view


def _role(scores: DatasetScores) -> str:
    return {"in": "known", "covariate_shift": "covariate shift", "out": "unknown"}[scores.role]


# ---- threshold ---------------------------------------------------------------------------------


def positions(scores: NDArray[np.float64], calibration: int) -> NDArray[np.float64]:
    """Return the positions of scores on the axis of thresholds: -log10 p, or the score itself.

    p is the p-value of an OOD score, without the small term that ranks equal ones (`conformal`),
    and ``calibration`` the number of its calibration images; 0 for another score.
    """
    n = calibration + 1
    return -np.log10(np.round((1 - scores) * n) / n) if calibration else scores


def _threshold(part: Part) -> dict[str, Any] | None:
    """Return histograms, and the decisions at every step of the threshold."""
    result, n = part.result, part.calibration_images
    sets = () if result is None else result.sets
    if not sets and not n:
        return None
    found = [positions(s.score(result.recursion, result.score), n) for s in sets]  # type: ignore[union-attr]
    of_p = n > 0
    low = 0.0 if of_p else min(0.0, *(float(x.min()) for x in found))
    most = max([math.log10(n + 1) if of_p else low + 1e-9, *(float(x.max()) for x in found)])
    start = -math.log10(part.alpha) if of_p else float(np.quantile(found[0], 0.95))
    unit = (start - low) / _STEPS if start > low else (most - low) / _STEPS
    at = low + unit * np.arange(math.ceil((most - low) / unit - 1e-9) + 1)
    most = float(at[-1])
    rows = []
    for scores, x in zip(sets, found, strict=True):
        rejected = len(x) - np.searchsorted(np.sort(x), at - 1e-9)
        wrong = len(x) - rejected if scores.role == "out" and part.judged else rejected
        rates = (wrong / len(x), *exact_interval(wrong, len(x)))  # in thousandths
        thousandths = [np.round(1000 * rate).astype(int).tolist() for rate in rates]
        steps = list(zip(rejected.tolist(), *thousandths, strict=True))
        bars = (np.histogram(x, _BINS, (low, most))[0] / len(x)).tolist()
        role = _role(scores) if part.judged else ""
        rows.append({"name": scores.name, "role": role, "n": len(x), "bars": bars, "steps": steps})
    alphas = [float(10**-x) if of_p else float(x) for x in at]
    expected = [""] * len(at)
    if of_p:
        rates = [false_alarm_rate(min(alpha, 1 - 1e-9), n) for alpha in alphas]
        expected = ["{} ({} to {})".format(*map(percent, rate)) for rate in rates]
    ticks = [10.0**-k for k in range(5)] if of_p else list(np.linspace(low, most, 5))
    places = [(-math.log10(t) if of_p else t, f"{t:.4g}") for t in ticks]
    return {
        "sets": rows,
        "steps": [f"{alpha:.3g}" for alpha in alphas],
        "expected": expected,
        "start": min(_STEPS, len(at) - 1),
        "ticks": [((x - low) / (most - low), text) for x, text in places if x <= most + 1e-9],
        "calibration": n,
    }


# ---- curves ------------------------------------------------------------------------------------


def _charts(part: Part, result: EvaluationResult) -> list[dict[str, Any]]:
    """Return ROC, AUROC by recursion, and AUROC by trials, in data coordinates."""
    known = result.in_scores.score(result.recursion, result.score)
    outs = result.out_scores or result.covariate_shift_scores
    curves = []
    for scores in outs:
        values = np.concatenate([known, scores.score(result.recursion, result.score)])
        fpr, tpr, _ = roc_curve(np.arange(len(values)) < len(known), -values)
        few = np.unique(np.linspace(0, len(fpr) - 1, _POINTS).astype(int))
        label = f"{scores.name} {percent(result.rates(scores.name).auroc)}"
        curves.append((label, list(zip(fpr[few].tolist(), tpr[few].tolist(), strict=True))))
    name = result.in_scores.name
    charts = [_chart("ROC and AUROC", "unknown accepted", curves, 0.0, f"{name} accepted")]
    if (count := result.recursions) > 1:
        by_r = [(s.name, [result.rates(s.name, None, r).auroc for r in range(count)]) for s in outs]
        accuracy = [result.accuracy(None, r) for r in range(count)]
        by_r += [] if math.isnan(accuracy[0]) else [(f"accuracy on {name}", accuracy)]
        charts.append(_by_number("AUROC by recursion", "recursion", by_r, 0))
    if (curve := part.trials) is not None and curve.auroc.shape[1] > 1:
        by_t = list(zip(curve.out_datasets, curve.auroc.tolist(), strict=True))
        charts.append(_by_number("AUROC of the entropy by trials", "trials (masks)", by_t, 1))
    return charts


def _by_number(
    title: str, xlabel: str, curves: Sequence[tuple[str, Sequence[float]]], first: int
) -> dict[str, Any]:
    bottom = min(0.9, math.floor(10 * min(min(y) for _, y in curves)) / 10)
    points = [(name, list(enumerate(y, first))) for name, y in curves]
    return _chart(title, xlabel, points, bottom)


def _chart(
    title: str, xlabel: str, curves: Sequence[tuple[str, Any]], bottom: float, ylabel: str = ""
) -> dict[str, Any]:
    first, last = curves[0][1][0][0], curves[0][1][-1][0]
    count = last - first
    xticks = np.linspace(first, last, 6 if count <= 1 or count > 9 else int(count) + 1)
    return {
        "title": title,
        "xlabel": xlabel,
        "ylabel": ylabel,
        "x": (first, last),
        "y": (bottom, 1.0),
        "xticks": [(float(t), f"{t:.2g}") for t in xticks],
        "yticks": [(float(t), f"{100 * t:.0f} %") for t in np.linspace(bottom, 1, 6)],
        "curves": curves,
    }


# ---- images ------------------------------------------------------------------------------------


def _galleries(
    part: Part, result: EvaluationResult, key: str, count: int
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return keys of images by set and group, and the details of each image by key."""
    galleries, r = [], result.recursion
    details: dict[str, dict[str, Any]] = {}
    inputs = []
    for place, scores in enumerate(result.sets):
        order = np.argsort(scores.score(r, result.score), kind="stable")
        groups = {"most certain": order[:count], "most uncertain": order[::-1][:count]}
        if scores.role != "out" and scores.probabilities.shape[-1]:
            wrong = np.flatnonzero((scores.predicted(r) != scores.labels) & (scores.labels != -1))
            sure = scores.probabilities[r, wrong].max(-1)
            groups["confident mistakes"] = wrong[np.argsort(-sure, kind="stable")][:count]
        keys = [
            (name, [f"{key}-{place}-{row}" for row in rows.tolist()])
            for name, rows in groups.items()
        ]
        role = _role(scores) if part.judged else ""
        galleries.append({"name": scores.name, "role": role, "groups": keys})
        for row in dict.fromkeys(np.concatenate(list(groups.values())).tolist()):
            details[f"{key}-{place}-{row}"] = _detail(part, result, place, row)
            inputs.append(part.images[place].inputs[row])
    if isinstance(part.detector, AttractorDetector):
        strips = _strips(part, part.detector, np.stack(inputs), result.classes)
        for shown, strip in zip(details.values(), strips, strict=True):
            shown.update(strip)
    return galleries, details


def _detail(part: Part, result: EvaluationResult, place: int, row: int) -> dict[str, Any]:
    """Return an image with its classes and score."""
    r, scores, images = result.recursion, result.sets[place], part.images[place]
    p, label = scores.probabilities[r, row], int(scores.labels[row])
    likely = np.argsort(-p, kind="stable")[:_LIKELY]
    (at,) = positions(scores.score(r, result.score)[[row]], part.calibration_images)
    path = Path(*Path(images.paths[row]).parts[-2:]) if images.paths else f"image {row}"
    return {
        "set": scores.name,
        "picture": _encoded(images.images[[row]]),
        "path": displayed(path),  # with the folder, which is often the class
        "label": result.classes[label] if label >= 0 else "",
        "likely": [(result.classes[c], float(p[c])) for c in likely if len(p) > 1],
        "score": f"p-value {10**-at:.2g}"
        if part.calibration_images
        else f"{result.score} {at:.2g}",
    }


def _strips(
    part: Part, detector: AttractorDetector, inputs: NDArray[Any], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Return how images are iterated under several masks, and the nearest training images."""
    space, last = detector.network.space, detector.recursions
    x = torch.from_numpy(inputs)
    paths = detector.trajectory(x, max(last, _APPLICATIONS), min(_MASKS, detector.trials))
    likely = likely_classes(detector, [path.latents[:last] for path in paths])
    with torch.no_grad():
        x0 = space.points(pixels(x, detector.device)).cpu()
    points = torch.stack([torch.stack([x0, *path.reconstructions.cpu()]) for path in paths])
    points = points.nan_to_num(nan=0.0)  # (masks, 1 + applications, n, ...)
    moved = (points - x0).abs()
    rmse = moved.square().flatten(3).mean(3).sqrt().mean(0)  # (1 + applications, n)
    z = torch.stack([path.latents[0].cpu() for path in paths]).nan_to_num(0.0, 0.0, 0.0)
    alike = F.normalize(z, dim=-1).mean(0) @ detector.known_[0].directions.cpu().T
    near = alike.topk(min(_NEAREST, alike.shape[1]))
    drawn = not isinstance(space, Features)
    strips = []
    for i in range(len(x)):
        masks = []
        for t in range(len(paths)):
            pairs = zip(*(values[:, t, i].tolist() for values in likely), strict=True)
            strip = _strip(points[t, :, i]) if drawn else ""
            masks.append((strip, [(classes[c], value) for value, c in pairs]))
        nearest = []
        for row, value in zip(near.indices[i].tolist(), near.values[i].tolist(), strict=True):
            name, picture = part.nearest[row] if part.nearest else f"image {row}", ""
            if (known := part.trained) is not None:
                if known.classes and not part.nearest:
                    name = known.classes[int(known.labels[row])]
                picture = _encoded(known.picture(row)[None])
            nearest.append((name, picture, value))
        heat = _heat(moved[:, :, i].mean((0, 2))) if drawn else ""
        distance = [f"{value:.2f}" for value in rmse[:, i].tolist()]
        strips.append({"masks": masks, "moved": heat, "distance": distance, "nearest": nearest})
    return strips


def _samples(trained: Trained | None) -> list[tuple[str, int, str]]:
    """Return name, number and a strip of the first images of each class."""
    if trained is None:
        return []
    samples = []
    for c, name in enumerate(trained.classes[:_CLASSES]):
        if len(rows := np.flatnonzero(trained.labels == c)):
            few = np.stack([trained.picture(row) for row in rows[:_SAMPLES].tolist()])
            samples.append((name, len(rows), _encoded(few)))
    return samples


def _strip(images: torch.Tensor) -> str:
    """Return images (k, c, h, w), values in [0, 1], side by side as a data URI."""
    return _encoded((images.clamp(0, 1) * 255).round().byte().numpy())


def _heat(moved: torch.Tensor) -> str:
    """Return maps (k, h, w) of distances side by side as a data URI, the same scale for all."""
    colours = colormaps["inferno"]((moved / _MOVED).clamp(0, 1).numpy(), bytes=True)
    return _encoded(np.moveaxis(colours[..., :3], -1, 1))


def _encoded(images: NDArray[np.uint8]) -> str:
    """Return images (k, c, h, w) side by side as a data URI."""
    picture = side_by_side(list(images))
    if (side := images.shape[-2]) > _SIDE:
        size = round(picture.width * _SIDE / side), _SIDE
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=75)
    return _uri("webp", buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
