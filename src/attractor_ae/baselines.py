"""The published baselines: a classifier under dropout, and several classifiers (PROTOCOL 5)."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from attractor_ae._detector import Batches, Images, gather
from attractor_ae._errors import AttractorError
from attractor_ae._networks import MaskedDetector, NetworkDetector
from attractor_ae._stored import StoredDetector, read_detector, write_detector
from attractor_ae.core.classifier import ConvClassifier
from attractor_ae.core.heads import best_temperature


class ClassifierDetector(NetworkDetector[ConvClassifier]):
    """Members that are classifiers; p(x) is the mean of their softmax (PROTOCOL section 5).

    They are recursion 0 alone: nothing is applied again. A member whose outputs are no finite
    numbers says nothing about an image: its distribution is uniform.

    Attributes
    ----------
    classes_
        The distinct labels that were fitted, ascending, int64 of shape (classes,).
    temperature_
        What the members' outputs are divided by: 1 until `calibrate`.
    """

    temperature_: float

    _own_settings: ClassVar[tuple[str, ...]] = ()
    """Settings of the method, beside those of every `NetworkDetector`."""

    @classmethod
    @abstractmethod
    def _of(
        cls, networks: Sequence[ConvClassifier], settings: Mapping[str, Any]
    ) -> "ClassifierDetector":
        """Return an detector of stored networks and settings."""

    @abstractmethod
    def _members(self, x: Tensor, first_index: int) -> Iterator[Tensor]:
        """Yield the logits (n, classes) of each member."""

    def fit(
        self, data: Images | Batches, labels: Tensor | NDArray[Any] | None = None
    ) -> "ClassifierDetector":
        """Learn which label each of the networks' outputs stands for; nothing is trained.

        Parameters
        ----------
        data
            Images of every class, or a loader that yields batches of (images, labels).
        labels
            Integer labels of shape (n,) if ``data`` is images; rows below zero are ignored. The
            outputs stand for the distinct labels in ascending order.

        Raises
        ------
        AttractorError
            If images or labels have another form, or show another number of classes than the
            networks have outputs.
        """
        _, targets = gather(data, labels, self.image_shape)
        shown, outputs = torch.unique(targets), self.networks[0].classes
        if len(shown) != outputs:
            raise AttractorError(
                f"fit was given images of {len(shown)} classes, but the classifier has {outputs} "
                "outputs; give images of every class that it was trained on"
            )
        self._forget_calibration()
        self.temperature_ = 1.0
        self.classes_ = shown
        return self

    @torch.no_grad()
    def _calibrate_heads(self, images: Tensor, targets: Tensor) -> None:
        logits = torch.cat([self._logits(x, i) for x, i in self._batches(images)], dim=1)
        self.temperature_ = best_temperature(logits, targets.to(self.device))

    def _sample(self, x: Tensor, first_index: int) -> Tensor:
        return (self._logits(x, first_index) / self.temperature_).softmax(-1)[None]

    def _logits(self, x: Tensor, first_index: int) -> Tensor:
        """Return what every member makes of images: float32, (members, n, classes)."""
        x = x.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            logits = torch.stack([member.float() for member in self._members(x, first_index)])
        # Alike for all classes, which is the uniform distribution.
        return logits.masked_fill(~logits.isfinite().all(-1, keepdim=True), 0)

    def save(self, path: str | Path) -> None:
        """Write the fitted detector, all of its networks, to one safetensors file, atomically.

        Raises
        ------
        AttractorError
            If nothing was fitted, or the file cannot be written.
        """
        self._check_fitted()
        networks = {f"network.{i}": network for i, network in enumerate(self.networks)}
        settings = {name: getattr(self, name) for name in self._own_settings}
        temperature = torch.tensor(self.temperature_, dtype=torch.float64)
        write_detector(path, self, networks, settings, {"fitted": {"temperature": temperature}})

    @classmethod
    def load(cls, path: str | Path) -> "ClassifierDetector":
        """Read an detector of this class that `save` wrote.

        Raises
        ------
        AttractorError
            If the file is missing, damaged, or holds something else.
        """

        def build(stored: StoredDetector) -> ClassifierDetector:
            count = sum(name.startswith("network.") for name in stored.metadata)
            networks = [stored.network(f"network.{i}", ConvClassifier) for i in range(count)]
            detector = cls._of(networks, stored.settings)
            detector.temperature_ = stored.part("fitted")["temperature"].item()
            return detector

        return read_detector(path, cls.method, build)


class MCDropoutDetector(ClassifierDetector, MaskedDetector[ConvClassifier]):
    """MC dropout: a classifier whose dropout stays on, one mask a trial (PROTOCOL section 5).

    Parameters
    ----------
    model
        A trained classifier with dropout. It is copied: the given module is left as it is.
    trials
        Number of masks.
    mask_scope
        ``"trial"``: the images of a trial share its mask. ``"sample"``: each image has its own,
        derived from its index in what `predict` is given. Either way an image's score does not
        depend on its batch.
    seed
        What the masks are derived from.
    batch_size
        Images computed at once.
    precision
        What convolutions are computed in: ``"float32"``, ``"bfloat16"``, ``"float16"``, or
        ``"auto"``, a 16-bit type where the device has instructions for it.

    Raises
    ------
    AttractorError
        If a setting is out of range or unknown, or the classifier has no dropout.

    Examples
    --------
    >>> images, labels = torch.rand(8, 1, 64, 64), torch.arange(8) % 2
    >>> detector = MCDropoutDetector(ConvClassifier(2), trials=3).fit(images, labels)
    >>> detector.sample_proba(images).shape
    torch.Size([3, 8, 2])
    """

    method: ClassVar[str] = "MC dropout"
    reference: ClassVar[str] = (
        "Y. Gal, Z. Ghahramani: Dropout as a Bayesian Approximation: Representing Model "
        "Uncertainty in Deep Learning. ICML 2016, arXiv 1506.02142"
    )

    _own_settings: ClassVar[tuple[str, ...]] = ("trials", "mask_scope")

    def __init__(
        self,
        model: ConvClassifier,
        *,
        trials: int = 20,
        mask_scope: str = "trial",
        seed: int = 0,
        batch_size: int = 128,
        precision: str = "auto",
    ) -> None:
        if model.dropout == 0:
            raise AttractorError(
                "MC dropout needs a classifier with dropout, but the rate of this one is 0; "
                "make an EnsembleDetector of it, or train one with model.dropout = 0.33"
            )
        MaskedDetector.__init__(
            self,
            model,
            trials=trials,
            mask_scope=mask_scope,
            seed=seed,
            batch_size=batch_size,
            precision=precision,
        )

    def _members(self, x: Tensor, first_index: int) -> Iterator[Tensor]:
        return (self.model(x, masks) for masks in self._trials(first_index, len(x)))

    @classmethod
    def _of(
        cls, networks: Sequence[ConvClassifier], settings: Mapping[str, Any]
    ) -> "MCDropoutDetector":
        return cls(*networks, **settings)


class EnsembleDetector(ClassifierDetector):
    """A deep ensemble: classifiers trained from different seeds (PROTOCOL section 5).

    Parameters
    ----------
    models
        Trained classifiers, of the same classes and for images of the same shape. They are copied;
        their dropout, if they have any, is off.
    seed
        What the division of calibration images into halves is derived from.
    batch_size, precision
        As for `MCDropoutDetector`.

    Raises
    ------
    AttractorError
        If there is no model, or they differ in classes or in the shape of their images; if a
        setting is out of range or unknown.

    Examples
    --------
    >>> images, labels = torch.rand(8, 1, 64, 64), torch.arange(8) % 2
    >>> members = [ConvClassifier(2, dropout=0.0) for _ in range(3)]
    >>> EnsembleDetector(members).fit(images, labels).sample_proba(images).shape
    torch.Size([3, 8, 2])
    """

    method: ClassVar[str] = "deep ensemble"
    reference: ClassVar[str] = (
        "B. Lakshminarayanan, A. Pritzel, C. Blundell: Simple and Scalable Predictive Uncertainty "
        "Estimation using Deep Ensembles. NeurIPS 2017, arXiv 1612.01474"
    )

    def __init__(
        self,
        models: Sequence[ConvClassifier],
        *,
        seed: int = 0,
        batch_size: int = 128,
        precision: str = "auto",
    ) -> None:
        if not models:
            raise AttractorError("an ensemble needs at least one classifier")
        forms = [(m.classes, m.channels, m.image_size) for m in models]
        for i, form in enumerate(forms):
            if form != forms[0]:
                raise AttractorError(
                    f"member {i} of the ensemble has (classes, channels, image size) {form}, but "
                    f"member 0 has {forms[0]}; take classifiers of the same classes and images"
                )
        super().__init__(models, seed=seed, batch_size=batch_size, precision=precision)
        self.trials = len(models)

    def _members(self, x: Tensor, first_index: int) -> Iterator[Tensor]:
        return (network(x) for network in self.networks)

    @classmethod
    def _of(
        cls, networks: Sequence[ConvClassifier], settings: Mapping[str, Any]
    ) -> "EnsembleDetector":
        return cls(networks, **settings)
