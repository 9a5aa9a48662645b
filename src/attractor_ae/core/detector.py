"""MC-AE, the method of the paper: attractors of a dropout autoencoder, classified by heads."""

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attractor_ae._detector import Detector, Images, Requests, Scored, of_trials, part_of, passes
from attractor_ae._errors import AttractorError, check_at_least
from attractor_ae._logistic import LinearClassifier
from attractor_ae._random import Stream, generator
from attractor_ae.core import scores
from attractor_ae.core.autoencoder import Autoencoder, FeatureAutoencoder, make_autoencoder
from attractor_ae.core.dynamics import Trajectory, iterate
from attractor_ae.core.heads import make_head
from attractor_ae.core.masks import DropoutMasks, sample_masks
from attractor_ae.core.scores import PARTS, KnownFeatures, KnownLatents, detail
from attractor_ae.core.spaces import Features

Augmentation = Callable[[Tensor, np.random.Generator], Tensor]
Paths = Iterable[Trajectory]

_LARGEST = 1e6  # a trajectory diverges if a code has a larger entry


class AttractorDetector(Detector):
    """Out-of-distribution detector from attractors of a dropout autoencoder (PROTOCOL section 1).

    Each trial uses one dropout mask for all recursions. The head of recursion r maps z_r to a class
    distribution; the mean over trials gives the class probabilities, and their normalised entropy
    is the uncertainty. If a trial diverges, its distribution is uniform.

    Args:
        network: A trained autoencoder; it is copied.
        recursions: Number of recursions that can be evaluated.
        recursion: The reported recursion.
        trials: Number of masks.
        head: "mlp" or "knn".
        head_masks: Number of masks per training image for fitting the heads (published: 1).
        head_input: Input of the heads: "code", z_r as published, or "path", z_0 .. z_r.
        mask_scope: "trial", "stratified": images share the mask of a trial; "sample": they do not.
        augmentation: Augmentation of the training images for the heads.
        seed: Seed of masks and heads.
        batch_size: Number of images per batch; a score does not depend on it.
        precision: Precision of convolutions: "float32", "bfloat16", "float16", or "auto", which is
            16 bits on hardware with instructions for it.

    Raises:
        AttractorError: If a setting is unknown or out of range.

    Examples:
        >>> images, labels = torch.rand(8, 1, 64, 64), torch.arange(8) % 2
        >>> detector = AttractorDetector(Autoencoder(), trials=2, recursions=1, recursion=0)
        >>> detector.fit(images, labels).predict(images).shape
        torch.Size([8])
    """

    method = "MC-AE"
    reference = (
        "S. Dias Da Cruz, B. Taetz, T. Stifter, D. Stricker: Autoencoder Attractors for "
        "Uncertainty Estimation. ICPR 2022, arXiv 2204.00382"
    )
    network_class = make_autoencoder
    settings = ("recursions", "recursion", "trials", "head", "head_masks", "head_input")
    settings = (*settings, "mask_scope")

    def __init__(
        self,
        network: Autoencoder | FeatureAutoencoder,
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
        check_at_least(1, head_masks=head_masks)
        make_head(head, head_input)  # raises if a name is unknown
        counts = (trials, recursions, recursion)
        super().__init__([network], seed, batch_size, precision, *counts, mask_scope=mask_scope)
        self.head, self.head_masks, self.head_input = head, head_masks, head_input
        self.augmentation = augmentation
        space = self.network.space
        self.holds_out = isinstance(space, Features)
        self.components = space.components
        self.member_scores = (*scores.DISTRIBUTION_SCORES, *space.scores, *scores.LATENT_SCORES)
        self.member_scores += space.image_scores

    @property
    def network(self) -> Autoencoder | FeatureAutoencoder:
        """The autoencoder."""
        return self.networks[0]  # type: ignore[return-value]

    def _fit(self, images: Tensor, targets: Tensor, classes: int) -> None:
        """Fit heads on z_r of augmented training images under random masks (PROTOCOL section 4)."""
        codes = []
        for mask in range(self.head_masks):
            rng = generator(self.seed, Stream.HEAD_TRAINING, mask + 1)
            for x, first in self._batches(images):
                x = x if self.augmentation is None else self.augmentation(x, rng)
                key = (self.seed, mask, first, len(x), Stream.HEAD_MASKS, self._dtype)
                masks = sample_masks(self.network.site_shapes, self.network.dropout, *key)
                x = self.network.space.points(x)
                paths = self._paths(x, [masks.to(self.device)], self.recursions)
                codes += [path.latents for path in paths]
        z = torch.cat(codes, dim=1)  # (recursions, head_masks * n, latent)
        if bool(_diverged(z).any()):
            raise AttractorError("the network diverges on its training images; train it longer")
        labels = targets.repeat(self.head_masks).to(self.device)
        self.head_ = make_head(self.head, self.head_input).fit(z, labels, classes, self.seed)
        n = len(images)  # scores of codes use only the first mask
        self.known_ = [KnownLatents.of(z_r[:n], labels[:n], classes) for z_r in z]
        points = (self.network.space.points(x) for x, _ in self._batches(images))
        f = torch.cat([self.network.pooled_features(some) for some in points])
        if self.holds_out:  # a covariance of many features and a classifier overfit their images
            used = ~torch.isin(torch.arange(n), self.standardising(n)).to(self.device)
            f, labels = f[used], labels[:n][used]
            self.known_images_ = {"pooled": KnownFeatures.of(f, labels * 0, 1, 0.001)}
            self.known_images_["linear"] = LinearClassifier.of(f, labels, classes, 0.3)
            return
        fine = torch.cat([detail(x) for x, _ in self._batches(images)])
        self.known_images_: scores.KnownImages = {
            "pooled": KnownFeatures.of(f, labels[:n], classes, 0.05),
            "detail": KnownFeatures.of(fine, labels[:n], classes, 0.001),
        }

    def _calibrate_heads(self, images: Tensor, targets: Tensor) -> None:
        codes = []
        for x, first in self._batches(images):
            x = self.network.space.points(x)
            paths = self._paths(x, self._masks(first, len(x)), self.recursions)
            codes.append(torch.stack([path.latents for path in paths], dim=1))
        z = torch.cat(codes, dim=2)  # (recursions, trials, n, latent)
        finite = ~_diverged(z).any(1).any(0)  # (n,)
        if bool(finite.any()):
            self.head_.calibrate(z[:, :, finite], targets[finite].to(self.device))

    def _score(self, x: Tensor, first: int, wanted: Requests) -> Scored:
        points = self.network.space.points(x)
        at = {r for n, rs in wanted.scores.items() if n in scores.POINT_SCORES for r in rs}
        last = wanted.recursions - 1 in at
        paths = self._paths(points, self._masks(first, len(x)), wanted.recursions, last)
        return self.scored(x, points, paths, wanted)

    def scored(self, x: Tensor, points: Tensor, paths: Paths, wanted: Requests) -> Scored:
        """Return the scores of images from the trajectories of their points, one per trial."""
        found = {}
        if of_images := [name for name in wanted.scores if name in scores.IMAGE_SCORES]:
            features = self.network.pooled_features(points)
            for name in of_images:
                value = scores.IMAGE_SCORES[name](x, features, self.known_images_)
                found[name] = value.expand(len(wanted.scores[name]), -1)
        of_points = {n: rs for n, rs in wanted.scores.items() if n in scores.POINT_SCORES}
        codes, values = [], {name: [] for name in of_points}
        for path in paths:
            codes.append(path.latents)
            steps = [points, *path.reconstructions]  # x_0, x_1, ...
            for name, rs in of_points.items():
                score = scores.POINT_SCORES[name]
                values[name].append(torch.stack([score(points, *steps[r : r + 2]) for r in rs]))
        found |= {name: torch.stack(of_trials).mean(0) for name, of_trials in values.items()}
        z = torch.stack(codes, dim=1)  # (recursions, trials, n, latent)
        diverged = _diverged(z)
        z = z.masked_fill(diverged[..., None], 0)
        for name, rs in wanted.scores.items():
            if name in scores.LATENT_SCORES:
                score = scores.LATENT_SCORES[name]
                found[name] = torch.stack([score(z[r], self.known_[r]) for r in rs])
            # If a trial diverges, the score is finite and larger than the scores of other images.
            most = 1.0 if name == "vote_diversity" else _LARGEST
            values = found[name].masked_fill(diverged[list(rs)].any(1), most)
            found[name] = values.nan_to_num(most, most, -most).clamp_max(most)
        # `Detector` computes p_r, u_r and the predicted class from these p_t with `core.scores`.
        return found, self._distributions(z, diverged, list(wanted.distributions))

    def _distributions(self, z: Tensor, diverged: Tensor, at: list[int]) -> Tensor:
        """Return p_t at some recursions, (recursions, trials, n, classes)."""
        if not at:
            return z.new_zeros(0, *z.shape[1:3], len(self.classes_))
        if self.head_input == "path":
            diverged = diverged.cumsum(0) > 0  # a path diverges if any code does
        p = self.head_.predict_proba(z.flatten(1, 2), at).unflatten(1, z.shape[1:3])
        return p.masked_fill(diverged[at][..., None], 1 / p.shape[-1])

    def trajectory(
        self, x: Images, recursions: int | None = None, trials: int | None = None
    ) -> list[Trajectory]:
        """Return the trajectory of images under the mask of each trial; works before `fit`.

        Defaults: ``recursions`` and ``trials`` of the detector.
        """
        points = self.network.space.points(self._pixels(x))
        count = self.recursions if recursions is None else recursions
        masks = itertools.islice(self._masks(0, len(points), torch.float32), trials)
        with torch.no_grad():
            return [iterate(self.network, points, m, count) for m in masks]

    def _paths(
        self, x: Tensor, masks: Iterable[DropoutMasks], recursions: int, last: bool = False
    ) -> Iterator[Trajectory]:
        """Yield the trajectory under each mask, computed in the detector's precision."""
        for points, mask, trials in passes(x, masks):
            with self._autocast():
                path = iterate(self.network, points, mask, recursions, last=last)
            yield from of_trials(path, trials)

    def _state(self) -> dict[str, Tensor]:
        state = {f"head.{name}": tensor for name, tensor in self.head_.state.items()}
        for r, known in enumerate(self.known_):
            state |= {f"known.{r}.{name}": tensor for name, tensor in vars(known).items()}
        for part, known in self.known_images_.items():
            state |= {f"images.{part}.{name}": tensor for name, tensor in vars(known).items()}
        return state

    def _restore(self, state: dict[str, Tensor]) -> None:
        self.head_ = make_head(self.head, self.head_input, part_of(state, "head"))
        known = [part_of(state, f"known.{r}") for r in range(self.recursions)]
        self.known_ = [KnownLatents(**of_r) for of_r in known]
        images = {part: part_of(state, f"images.{part}") for part in PARTS}
        self.known_images_ = {part: PARTS[part](**of) for part, of in images.items() if of}


def _diverged(z: Float[Tensor, "*shape latent"]) -> Bool[Tensor, "*shape"]:
    return ~(z.abs() <= _LARGEST).all(-1)  # NaN too
