"""The paper's own method: attractors of a dropout autoencoder, read by a classifier (MC-AE)."""

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor

from attractor_ae.config import MaskScope, Precision
from attractor_ae.data.augmentation import Augmentation
from attractor_ae.devices import mixed_precision
from attractor_ae.dynamics import Trajectory, iterate, iterate_latents
from attractor_ae.errors import AttractorError, unknown_name
from attractor_ae.estimators.base import (
    Batches,
    Images,
    ScoredImages,
    UncertaintyEstimator,
    check_images,
    gather,
    to_unit_range,
)
from attractor_ae.estimators.heads import head_class
from attractor_ae.fusion import DEFAULT_COMPONENTS, FusedScore
from attractor_ae.models.autoencoder import Autoencoder, initialised_from
from attractor_ae.models.masks import DropoutMasks, sample_masks, trial_masks
from attractor_ae.randomness import Stream, generator
from attractor_ae.scores import (
    DISTRIBUTION_SCORES,
    FUSED,
    IMAGE_SCORES,
    LATENT_SCORES,
    KnownLatents,
    distribution_scores,
    image_distances,
)
from attractor_ae.storage import load_weights, read_tensors, write_tensors

MASK_SCOPES: tuple[str, ...] = get_args(MaskScope)
PRECISIONS: tuple[str, ...] = get_args(Precision)

# A code beyond this belongs to a trajectory that has left the images for good.
_LARGEST_CODE = 1e6


class AttractorEstimator(UncertaintyEstimator):
    """Uncertainty of a dropout autoencoder's attractors (PROTOCOL section 1).

    Each trial keeps one dropout mask for all recursions: one dynamical system. A head reads a class
    distribution off the latent code of each recursion; the mean over the trials gives the class
    probabilities, and its normalised entropy the uncertainty. A member under which an image
    diverges says nothing about it: its distribution is uniform.

    Parameters
    ----------
    model
        A trained autoencoder. It is copied: the given module is left as it is.
    recursions
        How many recursions are evaluated: 0 .. recursions - 1.
    recursion
        The one that `predict` reports.
    trials
        Number of masks.
    head
        ``"mlp"`` or ``"knn"``.
    head_masks
        Number of masks for each training image that the heads are fitted on; the original uses 1.
    mask_scope
        ``"trial"``: the images of a trial share its mask. ``"sample"``: each image has its own,
        derived from its index in what `predict` is given. Either way an image's score does not
        depend on its batch.
    augmentation
        How training images are augmented for the fit of the heads; none fits on clean images.
    seed
        What masks and fit are derived from.
    batch_size
        Images computed at once.
    precision
        What convolutions are computed in: ``"float32"``, ``"bfloat16"``, ``"float16"``, or
        ``"auto"``, a 16-bit type where the device has instructions for it. Codes and everything
        after them are float32.

    Attributes
    ----------
    classes_
        The distinct labels that were fitted, ascending, int64 of shape (classes,).
    head_
        The fitted head.

    Raises
    ------
    AttractorError
        If a setting is out of range or unknown.

    Examples
    --------
    >>> import torch
    >>> images, labels = torch.rand(8, 1, 64, 64), torch.arange(8) % 2
    >>> estimator = AttractorEstimator(Autoencoder(), trials=2, recursions=1, recursion=0)
    >>> estimator.fit(images, labels).predict(images).shape
    torch.Size([8])
    """

    method: ClassVar[str] = "MC-AE"
    reference: ClassVar[str] = (
        "S. Dias Da Cruz, B. Taetz, T. Stifter, D. Stricker: Autoencoder Attractors for "
        "Uncertainty Estimation. ICPR 2022, arXiv 2204.00382"
    )

    fused_scores = DEFAULT_COMPONENTS
    _member_scores = DISTRIBUTION_SCORES + IMAGE_SCORES + LATENT_SCORES

    def __init__(
        self,
        model: Autoencoder,
        *,
        recursions: int = 6,
        recursion: int = 2,
        trials: int = 20,
        head: str = "mlp",
        head_masks: int = 1,
        mask_scope: str = "trial",
        augmentation: Augmentation | None = None,
        seed: int = 0,
        batch_size: int = 128,
        precision: str = "auto",
    ) -> None:
        for name, value in {
            "recursions": recursions,
            "trials": trials,
            "head_masks": head_masks,
            "batch_size": batch_size,
        }.items():
            if value < 1:
                raise AttractorError(f"{name} must be at least 1, got {value}")
        if not 0 <= recursion < recursions:
            raise AttractorError(
                f"recursion must be one of the {recursions} evaluated (0..{recursions - 1}), "
                f"got {recursion}"
            )
        if mask_scope not in MASK_SCOPES:
            raise unknown_name("mask scope", mask_scope, MASK_SCOPES)
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
        head_class(head)
        if not all(bool(weights.isfinite().all()) for weights in model.parameters()):
            raise AttractorError("the model has weights that are no finite numbers; train it again")
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.model.to(memory_format=torch.channels_last)
        self.recursions = recursions
        self.recursion = recursion
        self.trials = trials
        self.head = head
        self.head_masks = head_masks
        self.mask_scope = mask_scope
        self.augmentation = augmentation
        self.seed = seed
        self.batch_size = batch_size
        self.precision = precision
        self._trial_masks: list[DropoutMasks] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the model's images."""
        return (self.model.channels, self.model.image_size, self.model.image_size)

    @property
    def device(self) -> torch.device:
        """The device that is computed on."""
        return self.model.latent.weight.device

    @property
    def _dtype(self) -> torch.dtype:
        return mixed_precision(self.device, self.precision)

    def to(self, device: torch.device | str) -> "AttractorEstimator":
        """Compute on another device from now on, and return self."""
        self.model.to(device)
        self._trial_masks = None
        if hasattr(self, "head_"):
            self.head_.to(torch.device(device))
            self.known_ = self.known_.to(torch.device(device))
        return self

    def fit(
        self, data: Images | Batches, labels: Tensor | NDArray[Any] | None = None
    ) -> "AttractorEstimator":
        """Fit the heads on the latent codes of labelled images (PROTOCOL section 4).

        Parameters
        ----------
        data
            Images, or a loader that yields batches of (images, labels).
        labels
            Integer labels of shape (n,) if ``data`` is images; rows below zero are ignored.

        Raises
        ------
        AttractorError
            If images or labels have another form, or show fewer than two classes.
        """
        images, targets = gather(data, labels, self.image_shape)
        self._forget_calibration()
        self.classes_, targets = torch.unique(targets, return_inverse=True)
        codes = []
        with torch.no_grad():
            for mask in range(self.head_masks):
                rng = generator(self.seed, Stream.HEAD_TRAINING, mask + 1)
                for x, start in self._batches(images):
                    if self.augmentation is not None:
                        x = self.augmentation(x, rng)
                    # As in training, every image has its own mask, whatever the scope.
                    masks = sample_masks(
                        self.model.site_shapes,
                        self.model.dropout,
                        self.seed,
                        mask,
                        start,
                        len(x),
                        Stream.HEAD_MASKS,
                        self._dtype,
                    )
                    codes.append(self._codes(x, [masks.to(self.device)])[:, 0])
        latents = torch.cat(codes, dim=1)  # (recursions, head_masks * n, latent)
        if not bool((latents.abs() <= _LARGEST_CODE).all()):
            raise AttractorError(
                "the model diverges on the images that it is fitted on; train it longer, or "
                "evaluate fewer recursions"
            )
        labels_of_codes = targets.repeat(self.head_masks).to(self.device)
        self.head_ = head_class(self.head)().fit(
            latents, labels_of_codes, len(self.classes_), self.seed
        )
        # The scores of codes look at one mask of each image: the others show it again.
        once = len(images)
        self.known_ = KnownLatents.of(latents[:, :once], labels_of_codes[:once], len(self.classes_))
        return self

    @torch.no_grad()
    def _calibrate_heads(self, images: Tensor, targets: Tensor) -> None:
        codes = torch.cat(
            [self._codes(x, self._trials(i, len(x))) for x, i in self._batches(images)], dim=2
        )
        # A code that has diverged is read as uniform, whatever the temperature.
        stays = ~_diverged(codes).any(1).any(0)  # (n,)
        if bool(stays.any()):
            self.head_.calibrate(codes[:, :, stays], targets[stays].to(self.device))

    def trajectory(self, x: Images, recursions: int | None = None) -> list[Trajectory]:
        """Return what each trial's dynamical system does to images; needs no fit.

        Parameters
        ----------
        x
            A few images: all reconstructions are kept.
        recursions
            How often the model is applied; as often as is evaluated by default.

        Returns
        -------
        list of Trajectory
            One a trial.
        """
        images = check_images(x, self.image_shape)
        batch = to_unit_range(images, self.device)
        count = self.recursions if recursions is None else recursions
        with torch.no_grad():
            return [
                iterate(self.model, batch, self._masks(trial, 0, len(batch), torch.float32), count)
                for trial in range(self.trials)
            ]

    def _sample(self, x: Tensor, first_index: int) -> Tensor:
        codes = self._codes(x, self._trials(first_index, len(x)))
        return self._distributions(codes, _diverged(codes))

    def _score(self, x: Tensor, first_index: int, names: Sequence[str]) -> ScoredImages:
        distances: list[Tensor] = []
        with_images = any(name in IMAGE_SCORES for name in names)

        def measure(before: Tensor, after: Tensor) -> None:
            distances.append(image_distances(x, before, after))

        codes = self._codes(
            x, self._trials(first_index, len(x)), measure if with_images else None
        )  # (recursions, trials, n, latent)
        diverged = _diverged(codes)
        p = self._distributions(codes, diverged)
        scores = distribution_scores(p.double())
        if with_images:
            shape = (self.trials, self.recursions)
            terms = torch.stack(distances).unflatten(0, shape).mean(0)  # (recursions, terms, n)
            scores |= dict(zip(IMAGE_SCORES, terms.unbind(1), strict=True))
        if any(name in LATENT_SCORES for name in names):
            scores |= self.known_.scores(codes.masked_fill(diverged[..., None], 0))
        lost = diverged.any(1)  # (recursions, n)
        for name in (*IMAGE_SCORES, *LATENT_SCORES):
            if name in scores:
                # Beyond all images, but a number, which curves and files can hold.
                scores[name] = (
                    scores[name]
                    .masked_fill(lost, _LARGEST_CODE)
                    .nan_to_num(nan=_LARGEST_CODE)
                    .clamp_max(_LARGEST_CODE)
                )
        return ScoredImages(p.mean(1), {name: scores[name] for name in names})

    def _distributions(self, codes: Tensor, diverged: Tensor) -> Tensor:
        """Return what the heads read off codes; of those that have diverged, nothing."""
        p = self.head_.predict_proba(codes.masked_fill(diverged[..., None], 0).flatten(1, 2))
        p = p.unflatten(1, codes.shape[1:3])
        return p.masked_fill(diverged[..., None], 1 / p.shape[-1])

    def _codes(
        self,
        x: Tensor,
        trials: Iterable[DropoutMasks],
        on_step: Callable[[Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32):
            return iterate_latents(self.model, x, trials, self.recursions, on_step).float()

    def _trials(self, first_index: int, count: int) -> Iterable[DropoutMasks]:
        if self.mask_scope == "trial" and self._trial_masks is not None:
            return self._trial_masks
        drawn = (self._masks(t, first_index, count, self._dtype) for t in range(self.trials))
        if self.mask_scope == "trial":
            self._trial_masks = list(drawn)
            return self._trial_masks
        return drawn

    def _masks(self, trial: int, first_index: int, count: int, dtype: torch.dtype) -> DropoutMasks:
        shapes, rate = self.model.site_shapes, self.model.dropout
        if self.mask_scope == "sample":
            masks = sample_masks(shapes, rate, self.seed, trial, first_index, count, dtype=dtype)
        else:
            masks = trial_masks(shapes, rate, self.seed, trial, dtype=dtype)
        return masks.to(self.device)

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to one safetensors file, atomically.

        Raises
        ------
        AttractorError
            If nothing was fitted, or the file cannot be written.
        """
        self._check_fitted()
        settings = {
            "recursions": self.recursions,
            "recursion": self.recursion,
            "trials": self.trials,
            "head": self.head,
            "head_masks": self.head_masks,
            "mask_scope": self.mask_scope,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "precision": self.precision,
            "score": self.score,
        }
        model = {
            "latent_dim": self.model.latent_dim,
            "dropout": self.model.dropout,
            "activation": self.model.activation_name,
            "image_size": self.model.image_size,
            "channels": self.model.channels,
        }
        metadata = {
            "method": self.method,
            "settings": json.dumps(settings),
            "model": json.dumps(model),
        }
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"head.{name}": t for name, t in self.head_.state().items()}
        tensors |= {f"known.{name}": t for name, t in self.known_.state().items()}
        if FUSED in self.score_names:
            tensors |= {f"fused.{name}": t for name, t in self.fused_.state().items()}
            metadata["fused_scores"] = json.dumps(self.fused_.names)
        write_tensors(Path(path), {**tensors, "classes": self.classes_}, metadata)

    @classmethod
    def load(cls, path: str | Path) -> "AttractorEstimator":
        """Read an estimator that `save` wrote.

        The augmentation, which only `fit` needs, is not stored.

        Raises
        ------
        AttractorError
            If the file is missing, damaged, or holds something else.
        """
        path = Path(path)
        tensors, metadata = read_tensors(path)
        if metadata.get("method") != cls.method:
            raise AttractorError(f"{path}: holds no estimator of method {cls.method}")
        try:
            with initialised_from(0):  # the weights follow; the global random state stays
                model = Autoencoder(**json.loads(metadata["model"]))
            load_weights(model, _part(tensors, "model."), path)
            settings = json.loads(metadata["settings"])
            score = settings.pop("score")
            estimator = cls(model, **settings)
            estimator.classes_ = tensors["classes"]
            estimator.head_ = head_class(estimator.head).from_state(_part(tensors, "head."))
            estimator.known_ = KnownLatents.from_state(_part(tensors, "known."))
            if "fused_scores" in metadata:
                names = tuple(json.loads(metadata["fused_scores"]))
                estimator.fused_ = FusedScore(names, **_part(tensors, "fused."))
            estimator.score = score
        except (KeyError, TypeError, ValueError) as error:
            raise AttractorError(
                f"{path}: is no complete estimator ({error}); save it again"
            ) from None
        return estimator


def _diverged(codes: Tensor) -> Tensor:
    """Return whether codes have left the images for good, or are no numbers: (..., latent)."""
    return ~(codes.abs() <= _LARGEST_CODE).all(-1)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
