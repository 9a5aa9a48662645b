"""The plain way: PROTOCOL read literally, in the most direct PyTorch.

Masks are fresh Bernoulli draws for each image, trials come one after the other, all is float32 and
contiguous, images are augmented one by one with PIL in a DataLoader, and heads are scikit-learn's.
The weights are those of the model that is measured against, so that both compute the same.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytorch_msssim
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from pytorch_metric_learning.losses import NTXentLoss
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms.functional import to_tensor

from attractor_ae import Autoencoder, ImageSet

BATCH = 128
"""Images computed at once in scoring: as many as the detector's default."""


class HeldDropout(nn.Module):
    """Dropout whose mask can be held from one pass to the next."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.hold = False
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of ``x``."""
        if not self.hold:
            return F.dropout(x, self.rate, training=True)
        if self.mask is None:
            self.mask = torch.bernoulli(torch.full_like(x, 1 - self.rate)) / (1 - self.rate)
        return x * self.mask


class PlainAutoencoder(nn.Module):
    """The table of PROTOCOL section 2, line by line, with the weights of a model."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        rate, activation = model.dropout, model.activation
        w, f = model.encoder[0].out_channels, model.encoder_linear.out_features
        channels, size, _ = model.image_shape
        side = size // 16

        def then(layer: nn.Module) -> list[nn.Module]:
            return [layer, activation, HeldDropout(rate)]

        self.encoder = nn.Sequential(
            *then(nn.Conv2d(channels, w, 4, 2, 1)),
            *then(nn.Conv2d(w, w, 4, 2, 1)),
            *then(nn.Conv2d(w, 2 * w, 4, 2, 1)),
            *then(nn.Conv2d(2 * w, 2 * w, 4, 2, 1)),
            nn.Flatten(),
            *then(nn.Linear(2 * w * side * side, f)),
            nn.Linear(f, model.latent_dim),
        )
        self.decoder = nn.Sequential(
            *then(nn.Linear(model.latent_dim, f)),
            *then(nn.Linear(f, 2 * w * side * side)),
            nn.Unflatten(1, (2 * w, side, side)),
            *then(nn.ConvTranspose2d(2 * w, 2 * w, 4, 2, 1)),
            *then(nn.ConvTranspose2d(2 * w, w, 4, 2, 1)),
            *then(nn.ConvTranspose2d(w, w, 4, 2, 1)),
            nn.ConvTranspose2d(w, channels, 4, 2, 1),
        )
        with torch.no_grad():
            for own, given in zip(self.parameters(), model.parameters(), strict=True):
                own.copy_(given)  # contiguous, whatever the layout of the given

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return reconstruction and latent code."""
        z = self.encoder(x)
        return self.decoder(z), z

    @contextmanager
    def one_mask(self) -> Iterator[None]:
        """Draw a mask at the first pass in this context, and hold it in those that follow."""
        sites = [module for module in self.modules() if isinstance(module, HeldDropout)]
        for site in sites:
            site.hold, site.mask = True, None
        yield
        for site in sites:
            site.hold, site.mask = False, None


class AugmentedImages(Dataset):
    """(augmented, clean) images, made one by one (PROTOCOL section 3)."""

    def __init__(self, images: ImageSet, augment: bool = True) -> None:
        self.images, self.augment = images, augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        picture = Image.fromarray(self.images.images[index, 0])
        clean = to_tensor(picture)
        label = int(self.images.labels[index])
        if not self.augment:
            return clean, clean, label
        if torch.rand(()) < 0.4:
            picture = picture.filter(ImageFilter.BoxBlur(int(torch.randint(1, 4, ()))))
        x = to_tensor(picture)
        if torch.rand(()) < 0.4:
            x = (x * torch.empty_like(x).uniform_(0.75, 1.25)).clamp(0, 1)
        return x, clean, label


def train(
    model: PlainAutoencoder,
    images: ImageSet,
    epochs: int,
    on_step: Callable[[], None],
    *,
    batch_size: int,
    workers: int,
) -> None:
    """Train with SSIM and Adam; ``on_step`` is called after every step."""
    loader = DataLoader(
        AugmentedImages(images),
        batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for _ in range(epochs):
        for x, clean, _ in loader:
            optimizer.zero_grad()
            loss = 1 - pytorch_msssim.ssim(model(x)[0], clean, data_range=1)
            loss.backward()
            optimizer.step()
            loss.item()  # a loop tells its loss
            on_step()


def train_on_features(features: Tensor, labels: Tensor, epochs: int, *, batch_size: int) -> None:
    """Train the autoencoder of the preset ``photographs`` from layers and losses of libraries."""
    width, count, rate = 511, features.shape[1], 0.33

    def then(inputs: int) -> list[nn.Module]:
        return [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(rate)]

    encoder = nn.Sequential(*then(count), *then(width), nn.Linear(width, 64))
    decoder = nn.Sequential(*then(64), *then(width), nn.Linear(width, count))
    parameters = [*encoder.parameters(), *decoder.parameters()]
    loader = DataLoader(TensorDataset(features, labels), batch_size, shuffle=True)
    optimizer = torch.optim.Adam(parameters)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, epochs * len(loader))
    metric = NTXentLoss(temperature=0.07)
    for _ in range(epochs):
        for x, label in loader:
            z = encoder(x + 0.3 * torch.randn_like(x))
            loss = F.mse_loss(decoder(z), x) + 0.03 * metric(z, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss.item()


@torch.no_grad()
def latents(model: PlainAutoencoder, images: ImageSet, recursions: int) -> np.ndarray:
    """Return z_r of augmented images under one random mask each: (recursions, n, latent)."""
    batches = []
    for x, _, _ in DataLoader(AugmentedImages(images), BATCH):
        codes = []
        with model.one_mask():
            for _ in range(recursions):
                x, z = model(x)
                codes.append(z.numpy())
        batches.append(np.stack(codes))
    return np.concatenate(batches, axis=1)


def fit_heads(codes: np.ndarray, labels: np.ndarray) -> list[MLPClassifier]:
    """Fit one perceptron a recursion (PROTOCOL section 4), one after the other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [
            MLPClassifier((codes.shape[-1],), max_iter=2000, random_state=0).fit(z, labels)
            for z in codes
        ]


@torch.no_grad()
def score(
    model: PlainAutoencoder, heads: Sequence[MLPClassifier], images: np.ndarray, trials: int
) -> np.ndarray:
    """Return p_r of uint8 images, (recursions, n, classes): one trial after the other."""
    results = []
    for start in range(0, len(images), BATCH):
        batch = torch.from_numpy(images[start : start + BATCH]).float() / 255
        p = np.zeros((len(heads), len(batch), len(heads[0].classes_)))
        for _ in range(trials):
            x = batch
            with model.one_mask():
                for r, head in enumerate(heads):
                    x, z = model(x)
                    p[r] += head.predict_proba(z.numpy()) / trials
        results.append(p)
    return np.concatenate(results, axis=1)


def uncertainty(p: np.ndarray) -> np.ndarray:
    """Return the normalised entropy of distributions (..., classes)."""
    return -(p * np.log(np.maximum(p, 1e-30))).sum(-1) / np.log(p.shape[-1])


def evaluate(
    model: PlainAutoencoder,
    train_images: ImageSet,
    known: ImageSet,
    outs: Sequence[ImageSet],
    *,
    recursions: int,
    recursion: int,
    trials: int,
) -> dict[str, float]:
    """Fit the heads, and score D_in again beside each D_out, as the released code does."""
    heads = fit_heads(latents(model, train_images, recursions), train_images.labels)
    found = {}
    for out in outs:
        p_in, p_out = (score(model, heads, s.images, trials)[recursion] for s in (known, out))
        u = np.concatenate([uncertainty(p_in), uncertainty(p_out)])
        is_out = np.arange(len(u)) >= len(p_in)
        found[f"AUROC {out.name}"] = float(roc_auc_score(is_out, u))
        found["accuracy"] = float(
            (heads[recursion].classes_[p_in.argmax(-1)] == known.labels).mean()
        )
    return found


def prepare(paths: Sequence[Path], size: int = 64) -> np.ndarray:
    """Return image files as grey uint8 images, (n, 1, size, size), opened one after the other."""
    pictures = []
    for path in paths:
        with Image.open(path) as picture:
            grey = picture.convert("L").resize((size, size), Image.Resampling.BILINEAR)
            pictures.append(np.asarray(grey))
    return np.stack(pictures)[:, None]
