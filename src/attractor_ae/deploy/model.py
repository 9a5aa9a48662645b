"""A model: a calibrated detector with everything that a verdict on an image file needs."""

import copy
import io
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from attractor_ae import conformal
from attractor_ae._detector import check_images, part_of
from attractor_ae._devices import pixels, resolve_device
from attractor_ae._errors import AttractorError
from attractor_ae._reporter import SILENT, Reporter, percent
from attractor_ae.baselines import stored_detector
from attractor_ae.core.detector import AttractorDetector
from attractor_ae.core.scores import OOD_SCORE, normalised_entropy
from attractor_ae.core.spaces import Features
from attractor_ae.data import ImageFormat, ImageSet
from attractor_ae.data.decode import decoded_or_reason, side_by_side, without_warnings
from attractor_ae.deploy._adaptive import StoppingRule, chosen_stages, sampled, stages
from attractor_ae.deploy._format import read_model, write_model
from attractor_ae.deploy.paths import counted, image_paths
from attractor_ae.deploy.verdicts import KNOWN, UNKNOWN, UNSCORED, Verdict
from attractor_ae.extractors import make_extractor, use_weights

CHUNK = 128
"""Number of files that are decoded while the ones before them are scored."""

Decoded = tuple[str, NDArray[np.uint8] | str]
"""A path with its image, or with the reason why it cannot be read."""

ScoreChunks = Callable[[Iterator[Sequence[str]], dict[str, Any]], Iterator[list[Verdict]]]
"""Yields the verdicts on chunks of paths, with the options of `Model.score`."""

_THUMBNAIL = 64  # pixels
_SHOWN = 10  # largest number of groups listed in the line on the threshold
_TOGETHER = 16  # files that a thread decodes, one after the other
_SAME = 1e-6  # relative rounding difference of a statistic between batches
_EXTRACTOR = "extractor"  # prefix of the extractor's weights in a model file
_MORE_IMAGES = (
    "use a larger alpha, or calibrate on more known images: attractor-ae calibrate MODEL FOLDER"
)


class Model:
    """A calibrated detector with class names, image format and threshold.

    `load_model` reads one from a model file; `attractor_ae.fit_model` makes one.

    Args:
        detector: A fitted detector.
        classes: Name of each label 0, 1, ...
        image_format: Format of the images.
        codes: Latent codes of training images without dropout, (m, latent), of length 1.
        nearest: Path of each of these training images.
        alpha: Largest fraction of known images that are rejected, on average over calibrations.
        values: Components of the OOD score of the calibration images at each stage of adaptive
            sampling; the last stage is after all trials.
        predicted: Their predicted classes at each stage, as indices of ``detector.classes_``.
        confidence: Slope and offset of the logit of ``confidence`` as a function of that of
            ``probability``.
        facts: Provenance, as JSON values: training data, self-check, metrics, versions.

    Attributes:
        digest: SHA-256 of the model file, with zeros in its place; "" if it was not written yet.
        bundle: Whether the file contains the weights of the extractor.
        thumbnails: A picture of at most 64 x 64 pixels of each image of ``nearest``, as the bytes
            of a WebP file; or none.
        per_class: Whether images are ranked among the calibration images of their predicted class,
            if there are at least 100 and as many as alpha needs, see `attractor_ae.conformal`.
    """

    def __init__(
        self,
        detector: AttractorDetector,
        classes: Sequence[str],
        image_format: ImageFormat,
        codes: Float[Tensor, "m latent"],
        nearest: Sequence[str],
        alpha: float,
        values: Float[Tensor, "stages components n"],
        predicted: Int[Tensor, "stages n"],
        confidence: tuple[float, float],
        facts: Mapping[str, Any],
    ) -> None:
        self.detector, self.classes, self.image_format = detector, tuple(classes), image_format
        self.codes, self.nearest, self.alpha = codes, tuple(nearest), alpha
        self.values, self.predicted = values, predicted
        self.confidence, self.facts = confidence, dict(facts)
        self.digest, self.bundle, self.per_class = "", False, True
        self.thumbnails: Sequence[bytes] = ()
        self._rankings: dict[Any, tuple[StoppingRule, Tensor, conformal.Groups]] = {}
        conformal.check_alpha(alpha, self.calibration_images, _MORE_IMAGES)

    @property
    def calibration_images(self) -> int:
        """Number of calibration images."""
        return self.values.shape[-1]

    @cached_property
    def _statistics(self) -> Float[Tensor, "stages n"]:
        """T of the calibration images at each stage of adaptive sampling."""
        return torch.stack([self.ood.statistic(of, self.detector.recursion) for of in self.values])

    @property
    def ood(self) -> conformal.OODScore:
        """The combination of scores, and its calibration."""
        return self.detector.ood_

    @property
    def extractor(self) -> dict[str, str] | None:
        """Name, digest and licence of the extractor, if the network works on features."""
        space = self.detector.network.space
        if not isinstance(space, Features):
            return None
        extractor = make_extractor(space.name)
        return {n: str(getattr(extractor, n)) for n in ("name", "digest", "licence")}

    def threshold(self, alpha: float | None = None) -> str:
        """Return one line on the threshold, with the interval of the true false-alarm rate."""
        alpha = self.alpha if alpha is None else alpha
        groups, parts = self.groups(alpha, self.per_class), []
        for group, n in enumerate(groups.sizes.tolist()):
            mean, low, high = map(percent, conformal.false_alarm_rate(alpha, n))
            part = f"{mean} of known images, {low} to {high} in 90 % of calibrations"
            labels = self.detector.classes_[groups.of_class == group].tolist()
            name = self.classes[labels[0]] if len(labels) == 1 else f"{len(labels)} other classes"
            of = f" predicted as {name}" if len(groups.sizes) > 1 else ""
            parts.append(f"{part} with {n} images{of}")
        more = [f"and {len(parts) - _SHOWN} more"] if len(parts) > _SHOWN else []
        return (
            f"alpha {alpha:g}: an image is unknown if its p-value is at most {alpha:g}; expected "
            f"false alarms {'; '.join([*parts[:_SHOWN], *more])}"
        )

    def groups(
        self, alpha: float, per_class: bool, predicted: Int[Tensor, " n"] | None = None
    ) -> conformal.Groups:
        """Return the groups of classes with p-values of their own; one without ``per_class``."""
        predicted = self.predicted[-1] if predicted is None else predicted
        least = _least(alpha, per_class, len(predicted))
        return conformal.Groups.of(predicted, len(self.detector.classes_), least)

    def ranking(
        self, alpha: float, per_class: bool, trials: Sequence[int] | None = None
    ) -> tuple[StoppingRule, Tensor, conformal.Groups]:
        """Return the stopping rule, T of the calibration images when they stop, and the groups."""
        key = (alpha, per_class, None if trials is None else tuple(trials))
        if key not in self._rankings:
            at = self._stages(trials)
            t, labels = self._statistics[at], self.predicted[at]
            rule = StoppingRule.of(t, alpha, self.groups(alpha, per_class, labels[-1]))
            known, stopped = rule.applied(t, labels)
            self._rankings[key] = rule, known, self.groups(alpha, per_class, stopped)
        return self._rankings[key]

    def _stages(self, trials: Sequence[int] | None) -> slice:
        """Return the stages of adaptive sampling; only the last one without it."""
        if trials is None:
            return slice(-1, None)
        if self.detector.mask_scope == "sample" and len(set(trials)) > 1:
            raise AttractorError(
                "the model draws masks per image, by its position among those that are left, so "
                "that images cannot stop early; fit it with --set evaluation.mask_scope=trial"
            )
        return chosen_stages(self.detector.trials, trials)

    # ---- scoring

    def score(
        self,
        images: NDArray[Any] | Tensor,
        *,
        paths: Sequence[str] | None = None,
        alpha: float | None = None,
        per_class: bool | None = None,
        trials: Sequence[int] | None = None,
        inputs: Tensor | None = None,
    ) -> list[Verdict]:
        """Return the verdict on each image.

        Args:
            images: uint8 in 0..255 or floats in [0, 1], shape (n, channels, height, width) of
                ``image_format``.
            paths: Path of each image, for the verdicts.
            alpha: In place of the model's.
            per_class: In place of the model's.
            trials: Smallest and largest number of masks per image: sampling stops when the verdict
                is very unlikely to change. Both must be 1, 2, 4, ... or all; by default, every
                image has all masks.
            inputs: What `inputs` returns for these images, if it was computed before.

        Raises:
            AttractorError: If the images have a wrong dtype, shape or range, alpha needs more
                calibration images, or ``trials`` are not allowed numbers.
        """
        alpha = self.checked_alpha(alpha)
        inputs = self.inputs(images) if inputs is None else inputs
        r = self.detector.recursion
        components, every = self.ood.components, self.detector.trials
        per_class = self.per_class if per_class is None else per_class
        rule, known, groups = self.ranking(alpha, per_class, trials)
        at = self._stages(trials)

        def stops(stage: int, means: dict[str, Tensor]) -> Tensor:
            t = self.ood.statistic(_stacked(means, components), r)
            return rule.stops(t, means[""][0].argmax(-1), stage)

        values = torch.zeros(len(components), len(inputs), dtype=torch.float64)
        p_mean = torch.zeros(len(inputs), len(self.detector.classes_))
        of_members = torch.zeros(len(inputs), dtype=torch.float64)
        names = [*components, "member_entropy"]
        for rows, means in sampled(self.detector, inputs, names, [r], stages(every)[at], stops):
            values[:, rows] = _stacked(means, components)
            p_mean[rows], of_members[rows] = means[""][0], means["member_entropy"][0]
        uncertainty = normalised_entropy(p_mean)
        likely, label = p_mean.max(-1)
        t, ascending = self.ood.statistic(values, r) * (1 - _SAME), known.sort().values
        p = conformal.p_values_per_class(t, label, known, groups)
        pairs = zip(values, self.values[at][-1].sort(-1).values, strict=True)
        of_parts = torch.stack([conformal.p_values(*pair) for pair in pairs])
        slope, offset = self.confidence
        rounded: dict[str, list[Any]] = {
            "probability": _rounded(likely),
            "confidence": _rounded((slope * _logit(likely.double()) + offset).sigmoid()),
            "uncertainty": _rounded(uncertainty),
            "epistemic": _rounded((uncertainty - of_members).clamp_min(0)),
            "ood_score": _rounded(conformal.ood_score(t, ascending), 9),
            "p_value": p.tolist(),
            "statistic": t.tolist(),
        }
        if len(self.classes) == 1:  # meaningless
            for name in ("probability", "confidence", "uncertainty", "epistemic"):
                del rounded[name]
        labels = [self.classes[i] for i in self.detector.classes_[label].tolist()]
        nearest, rejected = self._nearest(inputs), conformal.is_rejected(p, alpha).tolist()
        return [
            Verdict(
                "" if paths is None else paths[i],
                UNKNOWN if rejected[i] else KNOWN,
                labels[i],
                nearest=nearest[i],
                parts=dict(zip(components, _rounded(of_parts[:, i]), strict=True)),
                **{name: column[i] for name, column in rounded.items()},
            )
            for i in range(len(p))
        ]

    def score_files(
        self,
        sources: Sequence[str | Path] | str | Path,
        *,
        alpha: float | None = None,
        per_class: bool | None = None,
        trials: Sequence[int] | None = None,
        reporter: Reporter = SILENT,
    ) -> Iterator[Verdict]:
        """Yield the verdict on each image file, in the order of `image_paths`.

        Files are decoded while others are scored, and memory does not grow with their number. A
        file that cannot be read has the verdict "unscored", with the reason.

        Args:
            sources: Folders, files, patterns, tables of paths, or ``-`` for standard input.
            alpha, per_class, trials: As for `score`.
            reporter: Receives the progress.

        Raises:
            AttractorError: If a source does not exist or contains no images; as `score`.
        """
        listed = [sources] if isinstance(sources, str | Path) else list(sources)
        options = {"alpha": alpha, "per_class": per_class, "trials": trials}
        with counted(listed, image_paths(listed, reporter=reporter)) as (paths, total):
            yield from self.score_paths(paths, total, reporter=reporter, **options)

    def score_paths(
        self,
        paths: Iterable[str],
        total: int | None = None,
        *,
        done: int = 0,
        reporter: Reporter = SILENT,
        score_chunks: ScoreChunks | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Iterator[Verdict]:
        """Yield the verdict on each path; ``done`` of ``total`` files were scored before.

        ``score_chunks``: in place of the method of this name; ``options``: as for `score_files`.
        """
        began, first, paths = time.monotonic(), done, iter(paths)
        chunks = iter(lambda: list(itertools.islice(paths, CHUNK)), [])
        self.checked_alpha(options.get("alpha"))
        for verdicts in (score_chunks or self.score_chunks)(chunks, options):
            done += len(verdicts)
            speed = (done - first) / max(time.monotonic() - began, 1e-6)
            detail = f"{done}/{'?' if total is None else total} images, {speed:.0f} images/s"
            left = None if total is None else (total - done) / speed
            reporter.progress("scoring", done, max(total or 0, done), detail, left)
            yield from verdicts

    def score_chunks(
        self, chunks: Iterator[Sequence[str]], options: dict[str, Any]
    ) -> Iterator[list[Verdict]]:
        """Yield the verdicts on the paths of each chunk, which are scored together."""
        decoded: list[Decoded] = []
        with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
            for paths in itertools.chain(chunks, [()]):  # while the last one is scored, none
                with without_warnings():  # a state of the whole process: not left open at a yield
                    parts = [paths[i : i + _TOGETHER] for i in range(0, len(paths), _TOGETHER)]
                    following = [pool.submit(_decode, some, self.image_format) for some in parts]
                    verdicts = self._verdicts(decoded, options)
                    decoded = [pair for some in following for pair in some.result()]
                if verdicts:
                    yield verdicts

    def _verdicts(self, decoded: Sequence[Decoded], options: dict[str, Any]) -> list[Verdict]:
        read = [(path, image) for path, image in decoded if not isinstance(image, str)]
        scored: Iterator[Verdict] = iter(())
        if read:
            paths, images = zip(*read, strict=True)
            scored = iter(self.score(np.stack(images), paths=paths, **options))
        return [
            Verdict(path, UNSCORED, reason=image) if isinstance(image, str) else next(scored)
            for path, image in decoded
        ]

    def inputs(self, images: NDArray[Any] | Tensor) -> Tensor:
        """Return what the detector is applied to: images, or their features, computed once."""
        checked = check_images(images, self.image_format.shape)
        space = self.detector.network.space
        if not isinstance(space, Features) or not len(checked):
            return checked
        extractor = make_extractor(space.name).to(self.detector.device)
        parts = [extractor(pixels(some, self.detector.device)) for some in checked.split(CHUNK)]
        return torch.cat(parts)

    def checked_alpha(self, alpha: float | None) -> float:
        """Return alpha, or the model's; raise an AttractorError if it needs more images."""
        if alpha is None:
            return self.alpha
        conformal.check_alpha(alpha, self.calibration_images, _MORE_IMAGES)
        return alpha

    def _nearest(self, inputs: Tensor) -> list[str]:
        if not len(self.nearest) or not len(inputs):
            return [""] * len(inputs)
        rows = self.closest(codes_of(self.detector, inputs))
        return [self.nearest[row] for row in rows.tolist()]

    def closest(self, codes: Float[Tensor, "n latent"]) -> Int[Tensor, " n"]:
        """Return the rows of the most similar of the training images' codes."""
        known = self.codes.float().T
        return torch.cat([(some @ known).argmax(-1) for some in codes.split(CHUNK)])

    def thumbnail(self, index: int) -> NDArray[np.uint8]:
        """Return the picture of the training image ``nearest[index]``, (channels, height, width).

        Raises:
            AttractorError: If the model was written without thumbnails.
        """
        if not self.thumbnails:
            raise AttractorError("the model has no pictures of training images; fit --thumbnails")
        image = np.array(Image.open(io.BytesIO(self.thumbnails[index])))  # WebP is always in colour
        return np.ascontiguousarray(np.moveaxis(image, 2, 0)[: self.image_format.channels])

    # ---- calibration

    def calibrated(
        self,
        images: ImageSet,
        alpha: float | None = None,
        *,
        inputs: Tensor | None = None,
        reporter: Reporter = SILENT,
    ) -> "Model":
        """Return a model with this network, calibrated on other known images.

        Args:
            images: Known images that the network was not trained on, in ``image_format``. The
                p-values do not use labels; with labels, ``confidence`` is estimated again.
            alpha: In place of the model's.
            inputs: What `inputs` returns for these images, if it was computed before.
            reporter: Receives the progress.

        Raises:
            AttractorError: If there are too few images for alpha, or a class is not the model's.
        """
        alpha = self.alpha if alpha is None else alpha
        conformal.check_alpha(alpha, len(images), "use a larger alpha, or more images")
        if len(self.classes) == 1:
            images = replace(images, classes=self.classes, labels=np.zeros_like(images.labels))
        if unknown := sorted(set(images.classes) - set(self.classes)):
            raise AttractorError(
                f"{images.name}: class {unknown[0]!r} is not known to the model; calibrate only on "
                f"images of its classes: {', '.join(self.classes)}"
            )
        detector = copy.copy(self.detector)  # this model stays as it is
        inputs = self.inputs(images.images) if inputs is None else inputs
        recursions, r = range(detector.recursions), detector.recursion
        counts, parts = stages(detector.trials), []
        for some in inputs.split(CHUNK):
            found = sampled(detector, some, detector._parts, recursions, counts)
            parts.append([means for _, means in found])
            done = min(CHUNK * len(parts), len(inputs))
            reporter.progress("calibrating", done, len(inputs), f"{done}/{len(inputs)} images")
        of_stages = [
            {name: torch.cat([means[name] for means in of], dim=1) for name in of[0]}
            for of in zip(*parts, strict=True)
        ]
        values = [conformal.component_values(of, self.ood.components)[:, r] for of in of_stages]
        predicted = torch.stack([of[""][r].argmax(-1) for of in of_stages])
        probabilities = of_stages[-1][""][r]
        confidence = self.confidence
        labels = images.relabelled(self.classes).labels
        if (rows := np.flatnonzero(labels >= 0)).size:
            likely, label = probabilities[rows].max(-1)
            right = detector.classes_[label] == torch.from_numpy(labels[rows])
            confidence = fit_confidence(likely, right)
        detector.ood_, detector.score = detector.ood_.calibrated(of_stages[-1]), OOD_SCORE
        t = detector.ood_.statistic(values[-1], r)
        least, p = _least(alpha, self.per_class, len(images)), torch.ones_like(t)
        alone = conformal.are_alone(predicted[-1].bincount(minlength=len(detector.classes_)), least)
        group = torch.where(alone[predicted[-1]], predicted[-1], -1)
        for of in (group == g for g in group.unique()):
            p[of] = conformal.leave_one_out(t[of])
        rejected = images.labels[conformal.is_rejected(p, alpha).numpy() & (images.labels >= 0)]
        counts = np.bincount(rejected, minlength=len(images.classes)).tolist()
        facts = {**self.facts, "calibration": described(images)}
        facts["calibration"]["rejected"] = dict(zip(images.classes, counts, strict=True))
        shared = (self.image_format, self.codes, self.nearest, alpha)
        values = torch.stack(values)
        made = Model(detector, self.classes, *shared, values, predicted, confidence, facts)
        made.bundle, made.per_class, made.thumbnails = self.bundle, self.per_class, self.thumbnails
        return made

    # ---- files

    def save(self, path: str | Path) -> None:
        """Write the model file atomically.

        Raises:
            AttractorError: If the file cannot be written.
        """
        tensors, metadata = self.detector.stored()
        names = ("codes", "values", "predicted")
        tensors |= {f"model.{name}": getattr(self, name) for name in names}
        if self.thumbnails:
            lengths = [len(data) for data in self.thumbnails]
            tensors["thumbnails.lengths"] = torch.tensor(lengths)
            tensors["thumbnails.data"] = torch.frombuffer(
                bytearray(b"".join(self.thumbnails)), dtype=torch.uint8
            )
        if self.bundle and (extractor := self.extractor):
            weights = make_extractor(extractor["name"]).state_dict()
            tensors |= {f"{_EXTRACTOR}.{name}": weight for name, weight in weights.items()}
        facts = {
            **self.facts,
            "classes": self.classes,
            "image_format": asdict(self.image_format),
            "nearest": self.nearest,
            "alpha": self.alpha,
            "per_class": self.per_class,
            "confidence": self.confidence,
            "extractor": self.extractor,
        }
        self.digest = write_model(Path(path), tensors, metadata, facts)


def load_model(path: str | Path, *, device: str = "auto") -> Model:
    """Load a model file.

    Raises:
        AttractorError: If the file is missing, damaged in any byte, not a model file, or written by
            a newer version; if the extractor is missing or has other weights; if the device cannot
            be used.
    """
    path = Path(path)
    tensors, metadata, facts, digest = read_model(path)
    weights = part_of(tensors, _EXTRACTOR)
    if extractor := facts.get("extractor"):
        if weights:
            use_weights(extractor["name"], weights)
        found = make_extractor(extractor["name"]).digest
        if found != extractor["digest"]:
            raise AttractorError(
                f"{path}: needs the extractor {extractor['name']!r} with the weights "
                f"{extractor['digest'][:12]}, but those here are {found[:12]}; install the version "
                "that it was trained with, or fit again"
            )
    detector = cast("AttractorDetector", stored_detector(tensors, metadata, path))
    per_class = facts.pop("per_class", False)  # before version 3, only if asked for
    model = Model(
        detector.to(resolve_device(device)),
        facts.pop("classes"),
        ImageFormat(**facts.pop("image_format")),
        tensors["model.codes"],
        facts.pop("nearest"),
        facts.pop("alpha"),
        tensors["model.values"],
        tensors["model.predicted"].expand(len(tensors["model.values"]), -1),  # one in old files
        tuple(facts.pop("confidence")),
        facts,
    )
    model.digest, model.bundle, model.per_class = digest, bool(weights), per_class
    if thumbnails := part_of(tensors, "thumbnails"):
        parts = thumbnails["data"].split(thumbnails["lengths"].tolist())
        model.thumbnails = [part.numpy().tobytes() for part in parts]
    return model


def codes_of(detector: AttractorDetector, inputs: Tensor) -> Float[Tensor, "n latent"]:
    """Return the latent codes of images or features without dropout, of length 1, on the CPU."""
    network, parts = detector.network, []
    with torch.no_grad():
        for some in inputs.split(CHUNK):
            x = network.space.points(pixels(some, detector.device))
            parts.append(F.normalize(network.encode(x), dim=-1).cpu())
    return torch.cat(parts)


def make_thumbnails(images: NDArray[np.uint8]) -> list[bytes]:
    """Return images (n, channels, height, width) as WebP files of at most 64 x 64 pixels."""
    made = []
    for image in images:
        picture = side_by_side([image])
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=75)
        made.append(buffer.getvalue())
    return made


def fit_confidence(
    probability: Float[Tensor, " n"], right: Tensor, most: float = 10.0
) -> tuple[float, float]:
    """Return slope and offset of the logit of P(right) as a function of that of ``probability``.

    A logistic regression with Platt's targets, which are not 0 and 1, so that n right predictions
    do not mean certainty (Platt, "Probabilistic outputs for support vector machines", 1999). The
    slope is in [0, ``most``].
    """
    from sklearn.linear_model import LogisticRegression

    hits = right.cpu().numpy().astype(bool)
    x, good, bad = _logit(probability.cpu().double()).numpy(), hits.sum(), (~hits).sum()
    target = np.where(hits, (good + 1) / (good + 2), 1 / (bad + 2))
    weights, answers = np.concatenate([target, 1 - target]), np.repeat([1, 0], len(x))
    fitted = LogisticRegression(C=1e6).fit(np.concatenate([x, x])[:, None], answers, weights)
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if 0 <= slope <= most:
        return slope, offset
    mean = float(target.mean())
    return 0.0, math.log(mean / (1 - mean))


def described(images: ImageSet) -> dict[str, Any]:
    """Return the facts about a set of images that a model file has: counts and fingerprint."""
    counts = np.bincount(images.labels[images.labels >= 0], minlength=len(images.classes))
    return {
        "images": len(images),
        "per_class": dict(zip(images.classes, counts.tolist(), strict=True)),
        "sha256": images.digest,
    }


def _decode(paths: Sequence[str], form: ImageFormat) -> list[Decoded]:
    """Return paths with the decoded files, or with the reasons why they cannot be read."""
    return [(path, decoded_or_reason(path, form)) for path in paths]


def _least(alpha: float, per_class: bool, n: int) -> int:
    """Return the number of calibration images that a class needs to be ranked alone."""
    if not per_class:
        return n + 1
    return max(conformal.LEAST_PER_CLASS, conformal.least_calibration(alpha) + 1)


def _stacked(means: Mapping[str, Tensor], components: Sequence[str]) -> Tensor:
    return torch.stack([means[name][0] for name in components])  # (components, n)


def _logit(p: Tensor) -> Tensor:
    return torch.logit(p, eps=1e-6)


def _rounded(values: Tensor, digits: int = 6) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values.tolist()]
