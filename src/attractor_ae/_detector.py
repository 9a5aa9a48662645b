"""The interface of all detectors, and their plumbing: checks, batches, devices, files."""

import copy
import itertools
import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from attractor_ae._devices import mixed_precision, pixels
from attractor_ae._errors import AttractorError, check_at_least, check_known, unknown_name
from attractor_ae._files import write_tensors
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae._strata import stratified_masks
from attractor_ae.conformal import OODScore, check_enough, halves, parse_component
from attractor_ae.core.dynamics import Trajectory
from attractor_ae.core.masks import DropoutMasks, sample_masks, trial_masks
from attractor_ae.core.scores import DISTRIBUTION_SCORES, OOD_SCORE, mean_distribution, prediction

TRIAL_MASKS = {"trial": trial_masks, "stratified": stratified_masks}
MASK_SCOPES = (*TRIAL_MASKS, "sample")
"""Scope of a dropout mask: shared by all images of a trial, or drawn per image."""

_TOGETHER = 16  # images, each under its own mask, in a pass
_STANDARDISING = 256  # training images that standardise the components of the OOD score

Images = Tensor | NDArray[Any]
Batches = Iterable[tuple[Tensor, Tensor]]
D = TypeVar("D", bound="Detector")


@dataclass(frozen=True, eq=False)
class ScoredImages:
    """Class distributions and scores of images at some recursions.

    Attributes:
        probabilities: The members' mean class distributions, float32.
        scores: Score name -> values, float64, (recursions, n); larger is more out of distribution.
    """

    probabilities: Float[Tensor, "recursions n classes"]
    scores: dict[str, Tensor]


@dataclass(frozen=True)
class Requests:
    """Requested scores with their recursions, and recursions of requested distributions."""

    scores: Mapping[str, Sequence[int]]
    distributions: Sequence[int]

    @property
    def recursions(self) -> int:
        """Number of recursions to iterate."""
        return 1 + max((*self.distributions, *(r for rs in self.scores.values() for r in rs)))


Scored = tuple[dict[str, Tensor], Float[Tensor, "recursions trials n classes"]]
"""Scores of a batch, (recursions, n), and its class distributions."""


class Detector(ABC):
    """An out-of-distribution detector: an ensemble of members that classify each image.

    Images are uint8 in 0..255 or floats in [0, 1], shape (n, channels, height, width), NumPy arrays
    or tensors; results are tensors on the CPU. `predict` returns the uncertainty, or the OOD score
    once `calibrate` was called; larger is more out of distribution.

    Attributes:
        classes_: The distinct fitted labels, ascending, int64, shape (classes,).
        ood_: The combination of scores; calibrated after `calibrate`.
        score: Name of the score that `predict` returns.
    """

    method: ClassVar[str]
    """Name of the method in tables and files."""
    reference: ClassVar[str]
    """Citation of the method's paper."""
    components: tuple[str, ...] = tuple(DISTRIBUTION_SCORES)
    """Components of the OOD score, see `attractor_ae.conformal`."""
    member_scores: tuple[str, ...] = tuple(DISTRIBUTION_SCORES)
    network_class: ClassVar[Callable[..., Any]]
    settings: ClassVar[tuple[str, ...]] = ()
    """Constructor arguments that are saved in addition to those common to all detectors."""

    classes_: Tensor
    ood_: OODScore
    score: str = "entropy"
    mask_scope: str = "trial"
    holds_out: bool = False
    """Whether some statistics are fitted without the images that standardise the components."""

    def __init__(
        self,
        networks: Sequence[Any],
        seed: int,
        batch_size: int,
        precision: str,
        trials: int,
        recursions: int = 1,
        recursion: int = 0,
        mask_scope: str = "trial",
    ) -> None:
        check_at_least(1, batch_size=batch_size, trials=trials, recursions=recursions)
        if not 0 <= recursion < recursions:
            raise AttractorError(f"recursion must be in 0..{recursions - 1}, got {recursion}")
        check_known("mask scope", mask_scope, MASK_SCOPES)
        mixed_precision(torch.device("cpu"), precision)  # raises if it is unknown
        for network in networks:
            if not all(bool(weights.isfinite().all()) for weights in network.parameters()):
                raise AttractorError("the network contains NaN or infinite weights; train it again")
        self.networks: tuple[Any, ...] = tuple(
            copy.deepcopy(network)
            .requires_grad_(False)
            .eval()
            .to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for network in networks
        )
        self.seed, self.batch_size, self.precision = seed, batch_size, precision
        self.trials, self.recursions, self.recursion = trials, recursions, recursion
        self.mask_scope = mask_scope
        self._first_trial = 0
        self._drawn: dict[tuple[object, ...], dict[int, DropoutMasks]] = {}

    # ---- implemented by each method

    @abstractmethod
    def _fit(self, images: Tensor, targets: Tensor, classes: int) -> None:
        """Fit on checked images with targets in 0 .. classes - 1; an error changes nothing."""

    @abstractmethod
    def _calibrate_heads(self, images: Tensor, targets: Tensor) -> None:
        """Calibrate the class probabilities on known images."""

    @abstractmethod
    def _score(self, x: Tensor, first: int, wanted: Requests) -> Scored:
        """Return the scores of images; ``first`` is the index of the first image."""

    @abstractmethod
    def _state(self) -> dict[str, Tensor]:
        """Return the fitted tensors."""

    @abstractmethod
    def _restore(self, state: dict[str, Tensor]) -> None:
        """Restore the tensors that `_state` returned."""

    # ---- fit, calibrate, predict

    def fit(
        self: D,
        data: Images | Batches,
        labels: Tensor | NDArray[Any] | None = None,
        *,
        least_classes: int = 2,
    ) -> D:
        """Fit on labelled images and return self; the networks are not trained.

        Args:
            data: Images, or a loader of batches (images, labels).
            labels: Integers, shape (n,), if ``data`` contains images. Images with labels below zero
                are ignored.
            least_classes: Smallest number of classes. With one class, every image has the
                probability 1 and the uncertainty 0.

        Raises:
            AttractorError: If images or labels have a wrong dtype, shape or range, or there are
                fewer than ``least_classes``; the detector is then unchanged.
        """
        images, labels = gather(data, labels, self._shapes, least_classes)
        classes, targets = torch.unique(labels, return_inverse=True)
        with torch.no_grad():
            self._fit(images, targets, len(classes))
        self.classes_ = classes
        if self.score == OOD_SCORE:
            self.score = "entropy"
        some = images[self.standardising(len(images))]
        self.ood_ = OODScore.fit(self._parts_of(some), self.components)
        return self

    def standardising(self, n: int) -> Tensor:
        """Return the rows of n images whose scores standardise the components."""
        count = min(_STANDARDISING, max(1, n // 3) if self.holds_out else n)
        return torch.arange(count) * n // count

    def calibrate(
        self: D, images: Images, labels: Tensor | NDArray[Any], reporter: Reporter = SILENT
    ) -> D:
        """Calibrate on known images that were not used for training or fitting, and return self.

        Afterwards `predict` returns the OOD score. Arguments are those of `fit`, except that a
        loader is not accepted; one class suffices.

        Raises:
            AttractorError: If images or labels have a wrong dtype, shape or range, or are too few.
        """
        self._check_fitted()
        known = check_images(images, *self._shapes)
        targets = check_labels(labels, len(known))
        known, targets = known[targets >= 0], targets[targets >= 0]
        strange = targets[~torch.isin(targets, self.classes_)]
        if len(strange):
            raise AttractorError(
                f"label {int(strange[0])} is not among the labels that were fitted; use only those"
            )
        check_enough(len(known))
        first = second = torch.arange(len(known))
        if any(name in DISTRIBUTION_SCORES for name in self._parts):
            # Ranks need other images than those that the temperature is fitted on.
            first, second = halves(len(known), self.seed)
        with torch.no_grad():
            self._calibrate_heads(known[first], torch.searchsorted(self.classes_, targets[first]))
        self.ood_ = self.ood_.calibrated(self._parts_of(known[second], reporter))
        self.score = OOD_SCORE
        return self

    def predict(self, x: Images) -> Float[Tensor, " n"]:
        """Return the chosen ``score`` of each image, float64, larger = more out of distribution.

        It is not the label, which `predict_label` returns.

        Raises:
            AttractorError: If the images have a wrong dtype, shape or range, or nothing was fitted.
        """
        found = self._scores(x, [self.score], [self.recursion], distributions=False)
        return found.scores[self.score][0]

    def predict_label(self, x: Images) -> Int[Tensor, " n"]:
        """Return the predicted label of each image, int64, one of ``classes_``."""
        predicted = prediction(self.predict_proba(x))
        return self.classes_[predicted]

    def predict_confidence(self, x: Images) -> Float[Tensor, " n"]:
        """Return the probability that the predicted label is right.

        Whether an image is of a known kind is another question, which `predict` answers.
        """
        return self.predict_proba(x).amax(-1)

    def predict_proba(self, x: Images) -> Float[Tensor, "n classes"]:
        """Return the members' mean class distribution at the reported recursion."""
        return self._scores(x, (), [self.recursion]).probabilities[0]

    def predict_scores(
        self,
        x: Images,
        names: Sequence[str] | None = None,
        recursions: Sequence[int] | None = None,
        *,
        reporter: Reporter = SILENT,
        task: str = "scoring",
    ) -> ScoredImages:
        """Return class distributions and scores at some recursions, from one pass.

        Args:
            x: Images.
            names: Some of ``score_names``, also as ``name@r``: always at recursion r; all of them
                by default.
            recursions: Recursions of the result; every recursion by default.
            reporter, task: Receiver of progress reports, and the name of the task in them.

        Raises:
            AttractorError: As `predict`; also if a score is unknown, or the OOD score is requested
                before `calibrate`.
        """
        wanted = self.score_names if names is None else names
        every = range(self.recursions) if recursions is None else recursions
        return self._scores(x, wanted, every, reporter=reporter, task=task)

    def sample_proba(self, x: Images) -> Float[Tensor, "trials n classes"]:
        """Return the class distribution of every member at the reported recursion."""
        self._check_fitted()
        wanted = Requests({}, [self.recursion])
        with torch.no_grad():
            parts = [self._score(b, i, wanted)[1][0].cpu() for b, i in self._batches(x)]
        return torch.cat([torch.zeros(self.trials, 0, len(self.classes_)), *parts], dim=1)

    @property
    def score_names(self) -> tuple[str, ...]:
        """The scores of this detector; the OOD score only after `calibrate`."""
        calibrated = hasattr(self, "ood_") and self.ood_.statistics is not None
        return (*self.member_scores, *((OOD_SCORE,) if calibrated else ()))

    @property
    def _parts(self) -> list[str]:
        """The scores that the OOD score combines."""
        return list(dict.fromkeys(parse_component(c, 0)[0] for c in self.components))

    def _parts_of(self, x: Tensor, reporter: Reporter = SILENT) -> dict[str, Tensor]:
        """Return the values of these scores at every recursion."""
        every, more = range(self.recursions), {"reporter": reporter, "task": "calibrating"}
        return self._scores(x, self._parts, every, distributions=False, **more).scores

    @torch.no_grad()
    def _scores(
        self,
        x: Images,
        names: Sequence[str],
        recursions: Sequence[int],
        *,
        distributions: bool = True,
        reporter: Reporter = SILENT,
        task: str = "scoring",
    ) -> ScoredImages:
        """Compute only the requested recursions and scores."""
        self._check_fitted()
        needed: defaultdict[str, set[int]] = defaultdict(set)
        for name in names:
            if name == OOD_SCORE and OOD_SCORE not in self.score_names:
                raise AttractorError(
                    "OOD score is available only after calibration; call calibrate first"
                )
            if parse_component(name, 0)[0] not in self.score_names:
                raise unknown_name("score", name, self.score_names)
            for part in self.ood_.components if name == OOD_SCORE else (name,):
                for r in recursions:
                    base, at = parse_component(part, r)
                    needed[base].add(at)
        of_members = {name: needed.pop(name) for name in DISTRIBUTION_SCORES if name in needed}
        at = sorted(set(recursions if distributions else ()).union(*of_members.values()))
        wanted = Requests({name: sorted(rs) for name, rs in needed.items()}, at)
        # Name of a score, or "" for the distribution, and recursion -> values of each batch.
        found: defaultdict[tuple[str, int], list[Tensor]] = defaultdict(list)
        for batch, first in self._batches(x, reporter, task):
            scores, members = self._score(batch, first, wanted)
            for name, rs in wanted.scores.items():
                for r, values in zip(rs, scores[name], strict=True):
                    found[name, r].append(values.cpu().double())
            for r, p in zip(at, members, strict=True):
                found["", r].append(mean_distribution(p).cpu())
                for name in (name for name, rs in of_members.items() if r in rs):
                    found[name, r].append(DISTRIBUTION_SCORES[name](p).cpu())

        nothing = torch.zeros(0, dtype=torch.float64)  # the scores of no images

        def value(name: str, r: int) -> Tensor:
            return torch.cat([nothing, *found[parse_component(name, r)]])

        def score(name: str, r: int) -> Tensor:
            if name != OOD_SCORE:
                return value(name, r)
            return self.ood_(torch.stack([value(c, r) for c in self.ood_.components]), r)

        empty = torch.zeros(0, len(self.classes_))
        p = [torch.cat([empty, *found["", r]]) for r in recursions if distributions]
        scores = {name: torch.stack([score(name, r) for r in recursions]) for name in names}
        return ScoredImages(torch.stack(p) if p else empty[None][:0], scores)

    def _pixels(self, x: Images) -> Tensor:
        return pixels(check_images(x, *self._shapes), self.device)

    def some_trials(self: D, first: int, count: int) -> D:
        """Return this detector with ``count`` trials from ``first`` on; weights are shared."""
        some = copy.copy(self)
        some._first_trial, some.trials = first, count
        return some

    def _masks(
        self, first: int, count: int, dtype: torch.dtype | None = None
    ) -> Iterator[DropoutMasks]:
        """Yield the masks of each trial for the images first .. first + count - 1."""
        dtype = self._dtype if dtype is None else dtype
        of = (self.networks[0].site_shapes, self.networks[0].dropout, self.seed)
        trials = range(self._first_trial, self._first_trial + self.trials)
        if self.mask_scope == "sample":
            for t in trials:
                yield sample_masks(*of, t, first, count, dtype=dtype).to(self.device)
            return
        key = (self.seed, self.mask_scope, dtype, self.device)
        if key not in self._drawn:
            self._drawn.clear()
            self._drawn[key] = {}
        drawn = self._drawn[key]  # shared with detectors of some of the trials
        for t in trials:
            if t not in drawn:
                drawn[t] = TRIAL_MASKS[self.mask_scope](*of, t, dtype).to(self.device)
            yield drawn[t]

    def _batches(
        self, x: Images, reporter: Reporter = SILENT, task: str = "scoring"
    ) -> Iterator[tuple[Tensor, int]]:
        """Yield batches of images in [0, 1] on the device, each with its first index."""
        images = check_images(x, *self._shapes)
        for start in range(0, len(images), self.batch_size):
            batch = pixels(images[start : start + self.batch_size], self.device)
            yield batch, start
            reporter.progress(task, start + len(batch), len(images))

    # ---- devices

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Image shape (channels, height, width)."""
        return self.networks[0].image_shape

    @property
    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of an image, and of its features if the network works on them."""
        count = getattr(self.networks[0].space, "count", None)
        return (self.image_shape,) if count is None else (self.image_shape, (count,))

    @property
    def device(self) -> torch.device:
        """The device of the computation."""
        return next(self.networks[0].parameters()).device

    def to(self: D, device: torch.device | str) -> D:
        """Move the computation to another device and return self."""
        for network in self.networks:
            network.to(device)
        if hasattr(self, "classes_"):
            self._restore({k: t.to(device) for k, t in self._state().items()})
        return self

    @property
    def _dtype(self) -> torch.dtype:
        return mixed_precision(self.device, self.precision)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32)

    # ---- files

    def save(self, path: str | Path) -> None:
        """Write the fitted detector to one safetensors file, atomically.

        Raises:
            AttractorError: If nothing was fitted, or the file cannot be written.
        """
        write_tensors(Path(path), *self.stored())

    def stored(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the tensors and metadata that `save` writes and `load_detector` reads."""
        self._check_fitted()
        names = (*self.settings, "seed", "batch_size", "precision")
        metadata = {
            "method": self.method,
            "settings": json.dumps({name: getattr(self, name) for name in names}),
            "networks": json.dumps([network.arguments for network in self.networks]),
            "score": self.score,
            "components": json.dumps(self.ood_.components),
        }
        parts = {f"network.{i}": n.state_dict() for i, n in enumerate(self.networks)}
        parts["fitted"] = {**self._state(), "classes": self.classes_}
        parts["ood"] = {k: t for k, t in vars(self.ood_).items() if isinstance(t, Tensor)}
        tensors = {f"{part}.{name}": t for part, held in parts.items() for name, t in held.items()}
        return tensors, metadata

    def _check_fitted(self) -> None:
        if not hasattr(self, "classes_"):
            raise AttractorError(
                f"this {type(self).__name__} is not fitted; call fit with labelled images first"
            )


def part_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors named ``NAME.KEY`` as a dictionary KEY -> tensor."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def passes(x: Tensor, masks: Iterable[DropoutMasks]) -> Iterator[tuple[Tensor, DropoutMasks, int]]:
    """Yield the points and masks of each pass through a network, and its number of trials.

    Vectors and small batches pass under several masks together, as few rows take as long as many.
    """
    masks = iter(masks)
    together = None if x.ndim == 2 else max(_TOGETHER // len(x), 1)
    while some := list(itertools.islice(masks, together)):
        points, joined = x, some[0]
        if len(some) > 1:
            rows = [[site.expand(len(x), *site.shape[1:]) for site in mask.sites] for mask in some]
            joined = DropoutMasks(tuple(torch.cat(site) for site in zip(*rows, strict=True)))
            points = torch.cat([x] * len(some))
        if x.ndim > 2:
            points = points.contiguous(memory_format=torch.channels_last)
        yield points, joined, len(some)


def of_trials(path: Trajectory, trials: int) -> Iterator[Trajectory]:
    """Yield the trajectory of each trial of a pass, in float32."""
    parts = (part.float().unflatten(1, (trials, -1)).unbind(1) for part in vars(path).values())
    yield from map(Trajectory, *parts)


# ---- checks


def check_images(x: Images, *shapes: tuple[int, ...]) -> Tensor:
    """Return images, or features, as a tensor after a check of dtype, shape and range."""
    if not isinstance(x, np.ndarray | Tensor):
        raise AttractorError(f"images must be a NumPy array or a tensor, got {type(x).__name__}")
    if isinstance(x, np.ndarray):
        if x.dtype.kind not in "fu" or x.dtype.itemsize > 8:
            raise _wrong_dtype(x.dtype)
        # PyTorch does not accept reversed, byte-swapped or read-only arrays; copy them.
        native = np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("="))
        images = torch.from_numpy(native if native.flags.writeable else native.copy())
    else:
        images = x
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise _wrong_dtype(x.dtype)
    if tuple(images.shape[1:]) not in shapes or not images.ndim:
        allowed = " or ".join(f"(n, {str(shape)[1:]}".replace(",)", ")") for shape in shapes)
        raise AttractorError(f"images have shape {tuple(images.shape)}; give {allowed}")
    if images.ndim == 4 and images.is_floating_point() and images.numel():
        low, high = images.min().item(), images.max().item()
        if not (low >= 0 and high <= 1):  # also catches NaN
            # Every digit, as 1.0000001 is too large.
            found = "..".join(repr(value).removesuffix(".0") for value in (low, high))
            raise AttractorError(
                f"float images must be in [0, 1], got {found}; rescale them, or give uint8"
            )
    return images


def _wrong_dtype(dtype: object) -> AttractorError:
    return AttractorError(f"images have dtype {dtype}; give uint8 in 0..255 or float in [0, 1]")


def check_labels(labels: Tensor | NDArray[Any], count: int) -> Tensor:
    """Return labels as int64 on the CPU, after a check of dtype and shape (count,)."""
    values = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.dtype.kind not in "iu" or values.shape != (count,):
        raise AttractorError(
            f"labels must be integers of shape ({count},), got {values.dtype} {values.shape}"
        )
    return torch.from_numpy(values.astype(np.int64))


def gather(
    data: Images | Batches,
    labels: Tensor | NDArray[Any] | None,
    shapes: tuple[tuple[int, ...], ...],
    least_classes: int = 2,
) -> tuple[Tensor, Tensor]:
    """Return the images and labels of `Detector.fit`, without those labelled below zero."""
    if labels is not None:
        images = check_images(data, *shapes)  # type: ignore[arg-type]
        targets = check_labels(labels, len(images))
    elif isinstance(data, np.ndarray | Tensor):
        raise AttractorError("fit needs labels: fit(images, labels), or a loader of both")
    else:
        batches = []
        for batch in data:
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise AttractorError(
                    f"fit needs a loader of pairs (images, labels), got a {type(batch).__name__}"
                )
            x = check_images(batch[0], *shapes)
            batches.append((x, check_labels(batch[1], len(x))))
        if not batches:
            raise AttractorError("fit got an empty loader; give one that yields labelled images")
        images, targets = (torch.cat(column) for column in zip(*batches, strict=True))
    known = targets >= 0
    if len(torch.unique(targets[known])) < least_classes:
        raise AttractorError(
            f"fit needs images of at least {least_classes} classes with labels of 0 or more"
        )
    return images[known], targets[known]
