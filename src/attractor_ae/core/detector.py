"""The paper's own method: attractors of a dropout autoencoder, read by a classifier (MC-AE)."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from attractor_ae._detector import (
    Batches,
    Images,
    ScoredImages,
    check_images,
    gather,
    to_unit_range,
)
from attractor_ae._errors import AttractorError
from attractor_ae._networks import MaskedDetector, check_counts
from attractor_ae._random import Stream, generator
from attractor_ae._stored import StoredDetector, read_detector, write_detector
from attractor_ae.conformal import DEFAULT_COMPONENTS
from attractor_ae.core.autoencoder import Autoencoder
from attractor_ae.core.dynamics import Trajectory, iterate, iterate_latents
from attractor_ae.core.heads import head_class
from attractor_ae.core.masks import DropoutMasks, sample_masks
from attractor_ae.core.scores import (
    DISTRIBUTION_SCORES,
    IMAGE_SCORES,
    LATENT_SCORES,
    KnownLatents,
    distribution_scores,
    image_distances,
)
from attractor_ae.data.augmentation import Augmentation

# A code beyond this belongs to a trajectory that has left the images for good.
_LARGEST_CODE = 1e6


class AttractorDetector(MaskedDetector[Autoencoder]):
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
    head_input
        What the head of recursion r reads: ``"code"``, z_r, as in the original, or ``"path"``,
        z_0 .. z_r.
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
    >>> detector = AttractorDetector(Autoencoder(), trials=2, recursions=1, recursion=0)
    >>> detector.fit(images, labels).predict(images).shape
    torch.Size([8])
    """

    method: ClassVar[str] = "MC-AE"
    reference: ClassVar[str] = (
        "S. Dias Da Cruz, B. Taetz, T. Stifter, D. Stricker: Autoencoder Attractors for "
        "Uncertainty Estimation. ICPR 2022, arXiv 2204.00382"
    )

    components = DEFAULT_COMPONENTS
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
        head_input: str = "code",
        mask_scope: str = "trial",
        augmentation: Augmentation | None = None,
        seed: int = 0,
        batch_size: int = 128,
        precision: str = "auto",
    ) -> None:
        check_counts(recursions=recursions, head_masks=head_masks)
        if not 0 <= recursion < recursions:
            raise AttractorError(
                f"recursion must be one of the {recursions} evaluated (0..{recursions - 1}), "
                f"got {recursion}"
            )
        head_class(head)(head_input)  # neither name is unknown
        super().__init__(
            model,
            trials=trials,
            mask_scope=mask_scope,
            seed=seed,
            batch_size=batch_size,
            precision=precision,
        )
        self.recursions = recursions
        self.recursion = recursion
        self.head = head
        self.head_masks = head_masks
        self.head_input = head_input
        self.augmentation = augmentation

    def to(self, device: torch.device | str) -> "AttractorDetector":
        """Compute on another device from now on, and return self."""
        super().to(device)
        if hasattr(self, "head_"):
            self.head_.to(torch.device(device))
            self.known_ = self.known_.to(torch.device(device))
        return self

    def fit(
        self, data: Images | Batches, labels: Tensor | NDArray[Any] | None = None
    ) -> "AttractorDetector":
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
        classes, targets = torch.unique(targets, return_inverse=True)
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
        head = head_class(self.head)(self.head_input).fit(
            latents, labels_of_codes, len(classes), self.seed
        )
        # The scores of codes look at one mask of each image: the others show it again.
        once = len(images)
        known = KnownLatents.of(latents[:, :once], labels_of_codes[:once], len(classes))
        # All at once: a fit that is refused leaves what was there before.
        self._forget_calibration()
        self.classes_, self.head_, self.known_ = classes, head, known
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

    @torch.no_grad()
    def latents(self, x: Images) -> Float[Tensor, "recursions n latent"]:
        """Return the latent codes z_r of images under the first trial's mask; needs no fit.

        Not the mean over the trials: each trial is a dynamical system of its own, whose codes lie
        near its own attractors, and a mean of them is a code that no system ever has, nor any head
        was fitted on. Codes that have diverged are NaN.

        Parameters
        ----------
        x
            Images.
        """
        codes = [
            self._codes(batch, [self._masks(0, first, len(batch), self._dtype)])[:, 0]
            for batch, first in self._batches(x)
        ]
        empty = torch.zeros(self.recursions, 0, self.model.latent_dim)
        found = torch.cat([empty, *(batch.cpu() for batch in codes)], dim=1)
        return found.masked_fill(_diverged(found)[..., None], torch.nan)

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
                # Beyond all images, but a number, which curves and files can hold; the separation
                # may be what is reported, and stays in [0, 1].
                most = 1.0 if name == "vote_diversity" else _LARGEST_CODE
                scores[name] = (
                    scores[name].masked_fill(lost, most).nan_to_num(nan=most).clamp_max(most)
                )
        return ScoredImages(p.mean(1), {name: scores[name] for name in names})

    def _distributions(self, codes: Tensor, diverged: Tensor) -> Tensor:
        """Return what the heads read off codes; of those that have diverged, nothing."""
        if self.head_input == "path":
            diverged = diverged.cumsum(0) > 0  # a path goes through all its codes
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
        with self._autocast():
            return iterate_latents(self.model, x, trials, self.recursions, on_step).float()

    def save(self, path: str | Path) -> None:
        """Write the fitted detector to one safetensors file, atomically.

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
            "head_input": self.head_input,
            "mask_scope": self.mask_scope,
        }
        state = {"head": self.head_.state(), "known": self.known_.state()}
        write_detector(path, self, {"model": self.model}, settings, state)

    @classmethod
    def load(cls, path: str | Path) -> "AttractorDetector":
        """Read an detector that `save` wrote.

        The augmentation, which only `fit` needs, is not stored.

        Raises
        ------
        AttractorError
            If the file is missing, damaged, or holds something else.
        """

        def build(stored: StoredDetector) -> AttractorDetector:
            detector = cls(stored.network("model", Autoencoder), **stored.settings)
            detector.head_ = head_class(detector.head).from_state(
                stored.part("head"), detector.head_input
            )
            detector.known_ = KnownLatents.from_state(stored.part("known"))
            return detector

        return read_detector(path, cls.method, build)


def _diverged(codes: Tensor) -> Tensor:
    """Return whether codes have left the images for good, or are no numbers: (..., latent)."""
    return ~(codes.abs() <= _LARGEST_CODE).all(-1)
