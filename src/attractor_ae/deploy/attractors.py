"""The attractors of a run or a model file (``attractor-ae attractors``)."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attractor_ae import attractors as dynamics
from attractor_ae._devices import pixels
from attractor_ae._errors import AttractorError
from attractor_ae._fast_layers import plain_layers
from attractor_ae._files import temporary_folder, write_json
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.baselines import load_detector
from attractor_ae.core.detector import AttractorDetector
from attractor_ae.core.masks import DropoutMasks, trial_masks
from attractor_ae.core.spaces import Features
from attractor_ae.data import ImageFormat, ImageSet, Wanted, find_dataset
from attractor_ae.data.sources.own import ALL
from attractor_ae.deploy._format import finite
from attractor_ae.deploy.model import CHUNK, load_model
from attractor_ae.experiment.fit import fit_detector
from attractor_ae.experiment.plan import image_format, make_plan
from attractor_ae.experiment.run import Run
from attractor_ae.reporting.attractors import (
    CatalogueRow,
    attractor_sheet,
    field_figure,
    slice_figure,
    write_animation,
)
from attractor_ae.reporting.style import save_figure
from attractor_ae.training import training_part

TRAINING = "training"
"""Name of the set of training images."""
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
    """A detector, the names of its classes, and images to start from, training images first.

    ``known`` are training images to compare end points with, if there are any.
    """

    detector: AttractorDetector
    classes: tuple[str, ...]
    sets: list[ImageSet]
    known: ImageSet | None

    def points(self, images: ImageSet | NDArray[np.float32]) -> Tensor:
        """Return images, a set or float arrays in [0, 1], as points."""
        x = images.inputs if isinstance(images, ImageSet) else images
        if not len(x):
            return torch.zeros(0, *self.detector.image_shape)
        parts = torch.from_numpy(np.array(x)).split(CHUNK)
        space, device = self.detector.network.space, self.detector.device
        with torch.no_grad():
            return torch.cat([space.points(pixels(part, device)) for part in parts])

    def codes(self) -> Tensor:
        """Return the codes of the first set without dropout."""
        with torch.no_grad():
            return self.detector.network.encode(self.points(self.sets[0]))

    def pictures(self, points: Tensor, known: Tensor | None) -> NDArray[np.uint8] | None:
        """Return points as pictures: themselves, or the nearest training image of features."""
        if isinstance(self.detector.network.space, Features):
            if known is None or self.known is None:
                return None
            return _image(self.known.images[dynamics.nearest(points, known)[1].numpy()])
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
            ones. Of a model file, which has no images, the first folder with known images is taken
            for the training images.
        data_root: Folder of the data sets' files.
        reporter: Receives progress and notes.

    Raises:
        AttractorError: If the source is not that of an autoencoder, or images are missing.
    """
    study = _study(Path(source), images, data_root, reporter)
    detector, network = study.detector, study.detector.network
    plain = plain_layers(network)
    known = None if study.known is None else study.points(study.known)
    starts, labels = _starts(study)
    names, x = list(starts), torch.cat(list(starts.values()))
    of_set = np.repeat(np.arange(len(names)), [len(points) for points in starts.values()])
    shape = (network.site_shapes, network.dropout, detector.seed)
    masks: dict[str, DropoutMasks | None] = {"dropout off": None}
    for trial in range(_MASKS if network.dropout else 0):
        masks[f"mask {trial + 1}"] = trial_masks(*shape, trial).to(detector.device)
    found: dict[str, Any] = {"source": str(source), "space": network.arguments[5], "masks": {}}
    sheet, catalogues = [], []
    for i, (name, mask) in enumerate(masks.items()):
        reporter.progress("iterating", i, len(masks), name)
        f, exact = dynamics.as_map(network, mask), dynamics.as_map(plain, mask)
        settled = dynamics.settle(f, x)
        listed = dynamics.catalogue(settled)
        catalogues.append(listed)
        ends = dynamics.end_labels(detector, settled.ends, settled.period, mask)
        of_attractors = dynamics.end_labels(detector, listed.points, listed.period, mask)
        entry = found["masks"][name] = _summary(settled, listed, labels, known)
        entry["sets"] = {
            label: _of_set(settled, ends, labels, np.flatnonzero(of_set == k))
            for k, label in enumerate(names)
        }
        entry["attractors"] = _described(study, listed, exact, of_attractors, known, of_set, names)
        if TRAINING in starts and study.known is not None and known is not None:
            rows = np.flatnonzero(of_set == names.index(TRAINING))
            part = _rows(settled, rows)
            entry["memorised"] = _share(dynamics.memorised(f, x[rows], part, exact=exact))
        pictures = study.pictures(listed.points, known)
        if pictures is not None:
            sheet.append(_sheet_row(study, name, entry["attractors"], pictures, listed, known))
    reporter.progress("iterating", len(masks), len(masks), "done")
    some = x[of_set == 0][:_JACOBIANS].double()
    found["jacobian"] = _jacobian(dynamics.as_map(plain), some)
    if network.dropout:
        drawn = (trial_masks(*shape, t).to(detector.device) for t in range(_CHANGES))
        exponent = dynamics.lyapunov_exponent((dynamics.as_map(plain, m) for m in drawn), some)
        found["lyapunov_exponent_of_changing_masks"] = _number(exponent.mean())
    if study.sets:
        reporter.progress("basins", 0, 1, "started")
        found["basins"] = _basins(study, study.sets[0].at_most(_BASINS))
        reporter.progress("basins", 1, 1, "done")
    found = finite(found)
    out = Path(out)
    with temporary_folder(out / "attractors") as new:
        write_json(new / "attractors.json", found)
        if sheet:
            heading = "attractors with the largest basins; share of starts, predicted class"
            if isinstance(network.space, Features):
                heading = heading.replace(";", ", as nearest training images;")
            save_figure(attractor_sheet(sheet, heading), new / "catalogue")
        if study.sets:
            _draw_slice(study, known, new, reporter)
            _animate(study, starts, known, new)
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
        sets.append(dataclasses.replace(known.at_most(_STARTS), name=TRAINING))
        others = [plan.load(planned, reporter) for planned in (plan.in_dataset, *plan.out)]
        sets += [some.at_most(_STARTS) for some in others]
    else:
        model = load_model(source)
        detector, classes, form, known = model.detector, model.classes, model.image_format, None
    assert isinstance(detector, AttractorDetector)  # the others have no autoencoder
    for folder in folders:
        own = _own(folder, form, classes, reporter)
        if known is None and bool((own.labels >= 0).any()):
            known = own.take(np.flatnonzero(own.labels >= 0)).at_most(_KNOWN)
            own = dataclasses.replace(known, name=TRAINING)
        sets.append(own.at_most(_STARTS))
    return _Study(detector, tuple(classes), sets, known)


def _own(
    folder: str | Path, form: ImageFormat, classes: Sequence[str], reporter: Reporter
) -> ImageSet:
    """Load a folder of images; labels are indices of ``classes``, or -1."""
    path = Path(folder).expanduser()
    dataset = find_dataset(str(path.resolve()) if path.exists() else str(folder))
    split = ALL if ALL in dataset.info.splits else dataset.info.test_split
    wanted = Wanted(image_format=form, max_broken=1.0, reporter=reporter)
    found = dataset.load(split, wanted)
    index = {name: i for i, name in enumerate(classes)}
    names = [found.classes[i] if i >= 0 else "" for i in found.labels]
    labels = np.array([index.get(name, -1) for name in names], dtype=np.int64)
    return dataclasses.replace(found, name=path.name, labels=labels, classes=tuple(classes))


def _starts(study: _Study) -> tuple[dict[str, Tensor], Tensor]:
    """Return the points of each set of starts, and the label of each (-1 for none)."""
    detector, rng = study.detector, np.random.default_rng(0)
    starts: dict[str, Tensor] = {}
    labels = []
    for images in study.sets:
        number = sum(name.split(" (")[0] == images.name for name in starts)
        starts[f"{images.name} ({number + 1})" if number else images.name] = study.points(images)
        known = images.classes == study.classes
        labels.append(images.labels if known else np.full(len(images), -1))
    noise = rng.random((_STARTS, *detector.image_shape), dtype=np.float32)
    starts[NOISE] = study.points(noise)
    labels.append(np.full(_STARTS, -1))
    if study.sets:
        with torch.no_grad():
            codes = dynamics.latent_samples(study.codes(), _STARTS)
            starts[LATENT] = detector.network.decode(codes)
        labels.append(np.full(_STARTS, -1))
    return starts, torch.from_numpy(np.concatenate(labels))


# ---- numbers


def _summary(
    settled: dynamics.Settled, listed: dynamics.Catalogue, labels: Tensor, known: Tensor | None
) -> dict[str, Any]:
    early = dynamics.predicted_steps(settled.lengths[:_FEW])
    fixed = (settled.period == 1) & (settled.steps > _FEW)
    wrong = (early[fixed] / settled.steps[fixed]).log().abs()
    result = {
        "number": len(listed.points),
        "cycles": int((listed.period > 1).sum()),
        "effective_number": _number(np.exp(listed.entropy)),
        "basin_entropy": _number(listed.entropy),
        "class_purity": _number(listed.purity(labels)),
        "predicted_steps_typical_factor": _number(wrong.median().exp() if len(wrong) else np.nan),
    }
    if known is not None:
        result["spurious"] = int(listed.spurious(known).sum())
    return result


def _of_set(
    settled: dynamics.Settled, ends: Tensor, labels: Tensor, rows: NDArray[np.int64]
) -> dict[str, Any]:
    part = _rows(settled, rows)
    fixed = part.period == 1
    rates = dynamics.contraction_rate(part.lengths)[fixed]
    return {
        "starts": len(rows),
        "fixed_point": _share(fixed),
        "cycle": _share(part.period > 1),
        "moving": _share(part.period == 0),
        "diverged": _share(part.period < 0),
        "median_steps": _number(part.steps[fixed].double().median() if fixed.any() else np.nan),
        "median_contraction_rate": _number(rates.nanmedian() if fixed.any() else np.nan),
        "ends_on_class": dynamics.outcomes(ends[rows], labels[rows]),
    }


def _described(
    study: _Study,
    listed: dynamics.Catalogue,
    exact: dynamics.Map,
    ends: Tensor,
    known: Tensor | None,
    of_set: NDArray[np.int64],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Return the attractors with the largest basins."""
    result = []
    spurious = None if known is None else listed.spurious(known)
    for i, point in enumerate(listed.points[:_DESCRIBED]):
        counts = np.bincount(of_set[listed.member.numpy() == i], minlength=len(names)).tolist()
        k, label = int(listed.period[i]), int(ends[i])
        entry: dict[str, Any] = {
            "period": k,
            "share": _number(listed.shares[i]),
            "starts": {name: count for name, count in zip(names, counts, strict=True) if count},
            "class": study.classes[label] if label >= 0 else None,
            "spectral_radius": _number(
                dynamics.spectral_radius(dynamics.power(exact, k), point[None])
            ),
        }
        if known is not None and spurious is not None:
            entry["distance_to_training_image"] = _number(dynamics.nearest(point[None], known)[0])
            entry["spurious"] = bool(spurious[i])
        result.append(entry)
    return result


def _jacobian(f: dynamics.Map, x: Tensor) -> dict[str, Any]:
    """Return medians of what a step does near points."""
    rows = [
        (
            dynamics.spectral_radius(f, point),
            dynamics.spectral_norm(f, point),
            dynamics.jacobian_trace(f, point, 20)[0] / point.numel(),
        )
        for point in x.split(1)
    ]
    names = ("spectral_radius", "largest_singular_value", "trace_per_entry")
    return dict(zip(names, map(_number, np.median(rows, axis=0)), strict=True))


def _basins(study: _Study, images: ImageSet) -> dict[str, Any]:
    """Return what images bear without dropout: medians over images, and the share at each level."""
    f, levels = dynamics.as_map(study.detector.network), np.linspace(0, 1, _LEVELS)
    x = torch.from_numpy(images.images).float() / 255
    paths = {
        "noise": dynamics.noisy(x, levels).clamp(0, 1),
        "occlusion": dynamics.occluded(x, levels),
        "interpolation": dynamics.blended(x, x.roll(1, 0), levels),
    }
    result: dict[str, Any] = {"images": len(x), "levels": [_number(level) for level in levels]}
    for name, path in paths.items():
        points = study.points(path.flatten(0, 1).numpy()).unflatten(0, path.shape[:2])
        borne = dynamics.borne(f, points)
        settled = borne[borne >= 0].numpy()
        result[name] = {
            "median": _number(np.median(levels[settled]) if len(settled) else np.nan),
            "stays": [_number((borne >= level).double().mean()) for level in range(_LEVELS)],
        }
    return result


def _rows(settled: dynamics.Settled, rows: NDArray[np.int64]) -> dynamics.Settled:
    columns = settled.lengths[:, rows]
    return dynamics.Settled(settled.ends[rows], settled.period[rows], settled.steps[rows], columns)


def _share(flags: Tensor) -> float:
    return _number(flags.double().mean())


def _number(value: Any) -> float:  # noqa: ANN401  a number of any library
    return float(f"{float(value):.4g}")


# ---- figures


def _sheet_row(
    study: _Study,
    name: str,
    described: Sequence[dict[str, Any]],
    pictures: NDArray[np.uint8],
    listed: dynamics.Catalogue,
    known: Tensor | None,
) -> CatalogueRow:
    captions = []
    for entry in described:
        cycle = f", cycle of {entry['period']}" if entry["period"] > 1 else ""
        captions.append(f"{entry['share']:.0%}{cycle}\n{(entry['class'] or '?')[:12]}")
    near = None
    if known is not None and study.known is not None and listed.points.ndim == 4:
        rows = dynamics.nearest(study.detector.network.space.points(listed.points), known)[1]
        near = study.pictures(known[rows], known)
    return CatalogueRow(name, pictures, captions, near)


def _draw_slice(study: _Study, known: Tensor | None, folder: Path, reporter: Reporter) -> None:
    """Draw the plane through two images of the first set and one of the last."""
    first, last = study.sets[0], study.sets[-1]
    chosen = [(first, 0), (first, len(first) // 2), (last, len(last) // 2)]
    corners = torch.cat([study.points(images.take([row])) for images, row in chosen])
    points, at = dynamics.plane(corners, _SIDE)
    reporter.progress("slice", 0, 1, "started")
    listed = dynamics.catalogue(dynamics.settle(dynamics.as_map(study.detector.network), points))
    reporter.progress("slice", 1, 1, "done")
    shown = study.pictures(listed.points, known)
    if shown is None or not len(shown):
        return
    figure = slice_figure(
        listed.member.reshape(_SIDE, _SIDE).numpy(),
        at,
        np.concatenate([_image(images.images[row : row + 1]) for images, row in chosen]),
        [images.name for images, _ in chosen],
        shown,
        "where images of a plane end, dropout off",
    )
    save_figure(figure, folder / "slice")


def _draw_field(study: _Study, fixed: Tensor, folder: Path) -> None:
    network = study.detector.network
    codes = study.codes()
    if min(codes.shape) < 2:
        return
    at, field, flat = dynamics.latent_field(network, codes)
    with torch.no_grad():
        ends = network.encode(fixed[:_DESCRIBED]) - codes.mean(0)
    axes = torch.linalg.lstsq(codes - codes.mean(0), flat.to(codes)).solution
    heading = "V(z) = E(D(z)) - z, dropout off"
    drawn = (flat.numpy(), (ends @ axes).cpu().numpy())
    save_figure(field_figure(at, field, *drawn, heading), folder / "latent-field")


def _animate(study: _Study, starts: dict[str, Tensor], known: Tensor | None, folder: Path) -> None:
    f, rows = dynamics.as_map(study.detector.network), {}
    for name, points in starts.items():
        chosen = np.linspace(0, len(points) - 1, 6).astype(int)
        x, frames = points[chosen], []
        for r in range(max(_SHOWN) + 1):
            if r in _SHOWN and (shown := study.pictures(x, known)) is not None:
                frames.append(shown)
            with torch.no_grad():
                x = f(x)
        if frames:
            rows[name] = frames
    if rows:
        write_animation(folder / "iterations.gif", rows, _SHOWN)


def _image(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (n, c, h, w) as (n, h, w) or (n, h, w, 3)."""
    return images[:, 0] if images.shape[1] == 1 else np.moveaxis(images, 1, -1)
