"""The attractors of a run or a model file (``attractor-ae attractors``)."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attractor_ae import attractors as dynamics
from attractor_ae._detector import TRIAL_MASKS
from attractor_ae._devices import pixels
from attractor_ae._errors import AttractorError
from attractor_ae._fast_layers import plain_layers
from attractor_ae._files import finite, temporary_folder, write_json
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.baselines import load_detector
from attractor_ae.core.detector import AttractorDetector
from attractor_ae.core.masks import DropoutMasks, trial_masks
from attractor_ae.core.spaces import Features
from attractor_ae.data import ImageSet
from attractor_ae.deploy.model import CHUNK, load_model
from attractor_ae.deploy.report import ATTRACTORS, load_images
from attractor_ae.experiment.fit import fit_detector
from attractor_ae.experiment.plan import image_format, make_plan
from attractor_ae.experiment.run import Run
from attractor_ae.reporting.attractors import (
    attractor_sheet,
    field_figure,
    slice_figure,
    write_animation,
)
from attractor_ae.reporting.style import save_figure
from attractor_ae.training import training_part

TRAINING = "training"
"""Name of the set of training images of a run."""
NOISE, LATENT = "noise", "latent samples"
"""Names of the sets of starts that are not images."""

_MASKS = 3  # besides dropout off
_STARTS = 100  # images per set
_KNOWN = 2_000  # training images that end points are compared with
_DESCRIBED = 20  # attractors per mask of which the spectral radius is computed
_BASINS, _LEVELS = 20, 11  # images, and levels of each disturbance
_JACOBIANS, _CHANGES, _FEW = 5, 60, 10
_SIDE = 32  # of the grid of a slice
_SHOWN = (*range(9), 10, 13, 16, 20, 26, 32, 40, 50)  # recursions of the animation


@dataclass(frozen=True, eq=False)
class _Study:
    """A detector, the names of its classes, and images to start from.

    ``known`` are training or other known images to compare end points with, if there are any; the
    first of them are the set of starts of the same name.
    """

    detector: AttractorDetector
    classes: tuple[str, ...]
    sets: list[ImageSet]
    known: ImageSet | None

    @torch.no_grad()
    def points(self, x: NDArray[Any]) -> Tensor:
        """Return images, uint8 or floats in [0, 1], or their features, as points."""
        space, device = self.detector.network.space, self.detector.device
        parts = torch.from_numpy(np.array(x)).split(CHUNK)
        return torch.cat([space.points(pixels(part, device)) for part in parts])

    @cached_property
    def near(self) -> Tensor | None:
        """Points of the known images."""
        return None if self.known is None else self.points(self.known.inputs)

    @property
    def on_features(self) -> bool:
        """Whether points are features."""
        return isinstance(self.detector.network.space, Features)

    @property
    def drawable(self) -> bool:
        """Whether points can be shown, features as the nearest training image."""
        return self.known is not None or not self.on_features

    def pictures(self, points: Tensor) -> NDArray[np.uint8]:
        """Return points as pictures, see ``drawable``."""
        if self.on_features:
            assert self.known is not None
            assert self.near is not None
            return _image(self.known.images[dynamics.nearest(points, self.near)[1].numpy()])
        shown = self.detector.network.space.points(points).clamp(0, 1)
        return _image((255 * shown).round().byte().cpu().numpy())


def find_attractors(
    source: str | Path,
    out: str | Path,
    images: Sequence[str | Path] = (),
    *,
    data_root: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Find the attractors of a finished run or a model file, and write them with figures.

    Training and test images and D_outs of a run, your own images, noise and latent samples are
    iterated with dropout off and under three masks. ``OUT/attractors.json`` has the numbers, which
    are also returned; docs/attractors.md explains them and the figures next to it.

    Args:
        source: Run folder or model file.
        out: Folder to write to; files of an earlier call are replaced.
        images: Folders of images to start from. Those in folders with the name of a class are known
            ones. For a model file, which has no images, the first folder with known images is taken
            for the training images.
        data_root: Folder of the data sets' files.
        reporter: Receives progress and notes.

    Raises:
        AttractorError: If the source is not that of an autoencoder, or images are missing.
    """
    study = _study(Path(source), images, data_root, reporter)
    detector, network = study.detector, study.detector.network
    plain = plain_layers(network)
    starts, labels = _starts(study)
    shape = (network.site_shapes, network.dropout, detector.seed)
    draw = TRIAL_MASKS.get(detector.mask_scope, trial_masks)
    masks: dict[str, DropoutMasks | None] = {"dropout off": None}
    for trial in range(_MASKS if network.dropout else 0):
        masks[f"mask {trial + 1}"] = draw(*shape, trial).to(detector.device)
    found: dict[str, Any] = {"source": str(source), "space": network.arguments[5]}
    found |= {"compared_with": study.known and study.known.name, "masks": {}}
    sheet, catalogues = [], []
    for i, (name, mask) in enumerate(masks.items()):
        reporter.progress("iterating", i, len(masks), name)
        exact = dynamics.as_map(plain, mask)
        entry, listed = _under(study, mask, exact, starts, labels)
        found["masks"][name] = entry
        catalogues.append(listed)
        if study.drawable:
            sheet.append((name, *_shown(study, entry["attractors"], listed.points)))
    reporter.progress("iterating", len(masks), len(masks), "done")
    some = next(iter(starts.values()))[:_JACOBIANS].double()
    found["jacobian"] = _jacobian(dynamics.as_map(plain), some)
    if network.dropout:
        drawn = (draw(*shape, t).to(detector.device) for t in range(_CHANGES))
        exponent = dynamics.lyapunov_exponent((dynamics.as_map(plain, m) for m in drawn), some)
        found["lyapunov_exponent_of_changing_masks"] = exponent.mean()
    if study.sets:
        reporter.progress("basins", 0, 1, "started")
        found["basins"] = _basins(study, study.sets[0].at_most(_BASINS))
        reporter.progress("basins", 1, 1, "done")
    found, out = finite(found, digits=4), Path(out)
    with temporary_folder(out / "attractors") as new:
        write_json(new / ATTRACTORS, found)
        if study.drawable:
            heading = "attractors with the largest basins; share of starts, predicted class"
            if study.on_features:
                heading = heading.replace(";", ", as nearest training images;")
            save_figure(attractor_sheet(sheet, heading), new / "catalogue")
        if study.sets and study.drawable:
            _draw_slice(study, new, reporter)
            _animate(study, starts, new)
        if study.sets:
            _draw_field(study, catalogues[0].points, new)
        for path in new.iterdir():
            path.replace(out / path.name)
    return found


# ---- what to start from


def _study(
    source: Path, folders: Sequence[str | Path], data_root: str | Path | None, reporter: Reporter
) -> _Study:
    sets: list[ImageSet] = []
    if source.is_dir():
        run = Run.open(source)
        config = run.config()
        form, plan = image_format(config.dataset), make_plan(config, data_root)
        if config.model.type == "conv":
            raise AttractorError(f"{source}: is the run of a classifier, which has no attractors")
        every = plan.load_training(reporter)
        if run.detector_file.is_file():
            detector = load_detector(run.detector_file)
        else:
            detector = fit_detector(
                source, every, augmentation=plan.augmentation, reporter=reporter
            )
        known, classes = training_part(config, every)[0].at_most(_KNOWN), every.classes
        known = dataclasses.replace(known, name=TRAINING)
        sets.append(known.at_most(_STARTS))
        others = [plan.load(planned, reporter) for planned in (plan.in_dataset, *plan.out)]
        sets += [some.at_most(_STARTS).relabelled(classes) for some in others]
    else:
        model = load_model(source)
        detector, classes, form, known = model.detector, model.classes, model.image_format, None
    assert isinstance(detector, AttractorDetector)  # the others have no autoencoder
    for folder in folders:
        own, _ = load_images(folder, form, classes, data_root, reporter)
        if known is None and (own.labels >= 0).any():
            own = known = own.take(np.flatnonzero(own.labels >= 0)).at_most(_KNOWN)
        sets.append(own.at_most(_STARTS))
    return _Study(detector, tuple(classes), [images for images in sets if len(images)], known)


def _starts(study: _Study) -> tuple[dict[str, Tensor], Tensor]:
    """Return the points of each set of starts, and the label of each (-1 for none)."""
    rng, none = np.random.default_rng(0), np.full(_STARTS, -1)
    found = [(images.name, study.points(images.inputs), images.labels) for images in study.sets]
    noise = rng.random((_STARTS, *study.detector.image_shape), dtype=np.float32)
    found.append((NOISE, study.points(noise), none))
    if study.sets:
        with torch.no_grad():
            network = study.detector.network
            codes = dynamics.latent_samples(network.encode(found[0][1]), _STARTS)
            found.append((LATENT, network.decode(codes), none))
    starts: dict[str, Tensor] = {}
    for i, (name, points, _) in enumerate(found):
        same = sum(name == other for other, *_ in found[:i])
        starts[f"{name} ({same + 1})" if same else name] = points
    return starts, torch.from_numpy(np.concatenate([labels for *_, labels in found]))


# ---- numbers


def _under(
    study: _Study,
    mask: DropoutMasks | None,
    exact: dynamics.Map,
    starts: dict[str, Tensor],
    labels: Tensor,
) -> tuple[dict[str, Any], dynamics.Catalogue]:
    """Return the numbers for one mask, and its attractors; ``exact`` is its map in float64."""
    detector, known = study.detector, study.near
    x = torch.cat(list(starts.values()))
    parts = torch.arange(len(x)).split([len(points) for points in starts.values()])
    rows = dict(zip(starts, parts, strict=True))
    settled = dynamics.settle(dynamics.as_map(detector.network, mask), x)
    period, rates = settled.period, dynamics.contraction_rate(settled.lengths)
    ends = dynamics.end_labels(detector, settled.ends, period, mask)
    listed = dynamics.catalogue(settled)
    slow = (period == 1) & (settled.steps > _FEW)
    wrong = dynamics.predicted_steps(settled.lengths[:_FEW])[slow] / settled.steps[slow]
    entry: dict[str, Any] = {
        "number": len(listed.points),
        "cycles": (listed.period > 1).sum(),
        "effective_number": math.exp(listed.entropy),
        "basin_entropy": listed.entropy,
        "class_purity": listed.purity(labels),
        "predicted_steps_typical_factor": wrong.log().abs().median().exp(),
        "sets": {},
        "attractors": [],
    }
    for name, part in rows.items():
        fixed = part[period[part] == 1]
        entry["sets"][name] = {
            "starts": len(part),
            "labelled": (labels[part] >= 0).sum(),
            "fixed_point": (period[part] == 1).double().mean(),
            "cycle": (period[part] > 1).double().mean(),
            "moving": (period[part] == 0).double().mean(),
            "diverged": (period[part] < 0).double().mean(),
            "median_steps": settled.steps[fixed].double().median(),
            "median_contraction_rate": rates[fixed].nanmedian(),
            "ends_on_class": dynamics.outcomes(ends[part], labels[part]),
        }
    on_class = dynamics.end_labels(detector, listed.points, listed.period, mask).tolist()
    for i, point in enumerate(listed.points[:_DESCRIBED].split(1)):
        counts = {name: int((listed.member[part] == i).sum()) for name, part in rows.items()}
        f = dynamics.power(exact, int(listed.period[i]))
        described = {
            "period": listed.period[i],
            "share": listed.shares[i],
            "starts": {name: count for name, count in counts.items() if count},
            "class": study.classes[on_class[i]] if on_class[i] >= 0 else None,
            "spectral_radius": dynamics.spectral_radius(f, point),
        }
        if known is not None:
            described["distance_to_training_image"] = dynamics.nearest(point, known)[0]
            described["spurious"] = listed.spurious(known)[i]
        entry["attractors"].append(described)
    if known is not None:
        entry["spurious"] = listed.spurious(known).sum()
        part = rows[study.known.name]  # type: ignore[union-attr]
        found = dynamics.memorised(exact, x[part], settled.ends[part], period[part])
        entry["memorised"] = found.double().mean()
    return entry, listed


def _jacobian(f: dynamics.Map, x: Tensor) -> dict[str, Any]:
    """Return medians of the local effect of a step at points."""
    points = x.split(1)
    values = {
        "spectral_radius": [dynamics.spectral_radius(f, point) for point in points],
        "largest_singular_value": [dynamics.spectral_norm(f, point) for point in points],
        "trace_per_entry": [dynamics.jacobian_trace(f, p, 20)[0] / p.numel() for p in points],
    }
    return {name: np.median(some) for name, some in values.items()}


def _basins(study: _Study, images: ImageSet) -> dict[str, Any]:
    """Return the size of basins, dropout off: medians over images, and the share at each level."""
    f, levels = dynamics.as_map(study.detector.network), np.linspace(0, 1, _LEVELS)
    x = torch.from_numpy(images.images).float() / 255
    paths = {
        "noise": dynamics.noisy(x, levels).clamp(0, 1),
        "occlusion": dynamics.occluded(x, levels),
        "interpolation": dynamics.blended(x, x.roll(1, 0), levels),
    }
    result: dict[str, Any] = {"images": len(x), "levels": levels.tolist()}
    for name, path in paths.items():
        points = study.points(path.flatten(0, 1).numpy()).unflatten(0, path.shape[:2])
        borne = dynamics.borne(f, points)
        result[name] = {
            "median": torch.from_numpy(levels)[borne[borne >= 0]].quantile(0.5),
            "stays": [(borne >= level).double().mean() for level in range(_LEVELS)],
        }
    return result


# ---- figures


def _shown(
    study: _Study, described: Sequence[dict[str, Any]], points: Tensor
) -> tuple[NDArray[np.uint8], list[str], NDArray[np.uint8] | None]:
    """Return pictures and captions of attractors, and their nearest training images."""
    captions = []
    for entry in described:
        cycle = f", cycle of {entry['period']}" if entry["period"] > 1 else ""
        captions.append(f"{100 * entry['share']:.0f} %{cycle}\n{(entry['class'] or '?')[:12]}")
    points, near = points[: len(captions)], None
    if study.near is not None and not study.on_features:
        rows = dynamics.nearest(study.detector.network.space.points(points), study.near)[1]
        near = study.pictures(study.near[rows])
    return study.pictures(points), captions, near


def _draw_slice(study: _Study, folder: Path, reporter: Reporter) -> None:
    """Draw the plane through two images of the first set and one of the last."""
    first, last = study.sets[0], study.sets[-1]
    chosen = [first.take([0]), first.take([len(first) // 2]), last.take([len(last) // 2])]
    corners = torch.cat([study.points(images.inputs) for images in chosen])
    points, at = dynamics.plane(corners, _SIDE)
    reporter.progress("slice", 0, 1, "started")
    listed = dynamics.catalogue(dynamics.settle(dynamics.as_map(study.detector.network), points))
    reporter.progress("slice", 1, 1, "done")
    figure = slice_figure(
        listed.member.reshape(_SIDE, _SIDE).numpy(),
        at,
        [(images.name, _image(images.images)[0]) for images in chosen],
        study.pictures(listed.points),
        "where images of a plane end, dropout off",
    )
    save_figure(figure, folder / "slice")


@torch.no_grad()
def _draw_field(study: _Study, attractors: Tensor, folder: Path) -> None:
    network = study.detector.network
    codes = network.encode(study.points(study.sets[0].inputs))
    if min(codes.shape) < 2:
        return
    at, field, axes = dynamics.latent_field(network, codes)
    ends = network.encode(attractors[:_DESCRIBED])
    flat, fixed = (((z - codes.mean(0)) @ axes.T).cpu().numpy() for z in (codes, ends))
    figure = field_figure(at, field, flat, fixed, "V(z) = E(D(z)) - z, dropout off")
    save_figure(figure, folder / "latent-field")


@torch.no_grad()
def _animate(study: _Study, starts: dict[str, Tensor], folder: Path) -> None:
    """Animate six images of each set."""
    f, frames = dynamics.as_map(study.detector.network), []
    x = torch.cat([p[np.linspace(0, len(p) - 1, 6).astype(int)] for p in starts.values()])
    for r in range(max(_SHOWN) + 1):
        if r in _SHOWN:
            frames.append(study.pictures(x))
        x = f(x)
    write_animation(folder / "iterations.gif", list(starts), frames, _SHOWN)


def _image(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (n, c, h, w) as (n, h, w) or (n, h, w, 3)."""
    return images[:, 0] if images.shape[1] == 1 else np.moveaxis(images, 1, -1)
