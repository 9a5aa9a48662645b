"""Reports on models and runs (``attractor-ae report``)."""

import dataclasses
import glob
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attractor_ae._errors import AttractorError
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.data import ImageFormat, ImageSet, Wanted, find_dataset
from attractor_ae.deploy.evaluation import Rate
from attractor_ae.deploy.model import Model, load_model
from attractor_ae.experiment.compare import measured_runs
from attractor_ae.experiment.config import SPACE_NAMES
from attractor_ae.experiment.report import run_part
from attractor_ae.experiment.result import evaluate
from attractor_ae.experiment.run import Run
from attractor_ae.reporting.attractors import FIGURES, attractor_rows, memorised
from attractor_ae.reporting.report import Part, Trained, save_report

ATTRACTORS = "attractors.json"
"""Name of the file with the numbers of `attractor_ae.deploy.attractors.find_attractors`."""


def write_report(
    places: Sequence[str | Path] | str | Path,
    out: str | Path = "report.html",
    *,
    images: Sequence[str | Path] = (),
    data_root: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> Path:
    """Write one HTML file about models and evaluated runs (``attractor-ae report``).

    A model file gives its data, self-check and calibration; galleries need images, which an
    evaluated run has. Of runs that differ only in the seed, the first one is shown.

    Args:
        places: Model files, folders that `find_attractors` has written, and places of runs as for
            `compare_runs`.
        out: File to write.
        images: Folders or names of further images to score with models. If all their classes are
            those of the model, they are known images, otherwise unknown ones; so are those of a
            folder without classes that is named "known" or like a class.
        data_root: Folder of the data sets' files.
        reporter: Receives the progress.

    Raises:
        AttractorError: If a place is none of these, images are given without a model, or a file
            cannot be read or written.
    """
    listed = [places] if isinstance(places, str | Path) else list(places)
    files = [Path(place) for place in listed if Path(place).is_file()]
    studies = [Path(place) for place in listed if (Path(place) / ATTRACTORS).is_file()]
    others = {*files, *(place for place in studies if not Run(place).config_file.is_file())}
    runs = [place for place in listed if Path(place) not in others]
    for place in runs:
        if not (glob.has_magic(str(place)) or Path(place).exists()):
            raise AttractorError(f"{place}: there is no such model file or run")
    if images and not files:
        raise AttractorError(
            "--images are scored by a model file; give one, or evaluate the run on them with "
            "attractor-ae evaluate RUN --out-datasets FOLDER"
        )
    parts = [
        model_part(load_model(path), path.name, images, data_root=data_root, reporter=reporter)
        for path in files
    ]
    for label, found in measured_runs(runs).items() if runs else ():
        shared = {"data_root": data_root, "reporter": reporter}
        parts.append(run_part(label, found[0].result, found[0].run, **shared))
    parts += map(_attractor_part, studies)
    if not parts:
        raise AttractorError("give at least one model file or evaluated run")
    title = parts[0].title if len(parts) == 1 else f"{parts[0].title} and {len(parts) - 1} more"
    return save_report(out, parts, f"Report: {title}", reporter=reporter)


def model_part(
    model: Model,
    name: str,
    images: Sequence[str | Path] = (),
    *,
    data_root: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> Part:
    """Return the part on a model: what its card has, and galleries of ``images``."""
    facts, check = model.facts, model.facts["self_check"]
    trained, calibration = facts["training"], facts["calibration"]
    made, form, n = facts["environment"], model.image_format, len(model.classes)
    shown = {
        "threshold": model.threshold(),
        "images": f"{form.size} x {form.size}, {'colour' if form.channels == 3 else 'grey'}",
        "network": f"on {SPACE_NAMES[facts['space']]}",
        "training": f"{trained['images']} images of {n} class{'es' * (n > 1)}",
        "calibration": f"{calibration['images']} images",
    }
    if extractor := model.extractor:
        shown["network"] += f", {extractor['name']}, licence: {extractor['licence']}"
    rates = (facts.get("evaluation") or {}).items()
    shown |= {
        f"held out: {rate}": str(Rate(*n)) for rate, n in rates if isinstance(n, Sequence) and n
    }
    if audit := facts.get("audit"):
        shown["audit"] = "; ".join(line.strip() for line in audit).removeprefix("audit: ")
    shown["made"] = f"{made['created'][:10]} by attractor-ae {made['packages']['attractor-ae']}"
    shown["digest"] = model.digest
    counts = [
        [label, *(str(part["per_class"].get(label, 0)) for part in (trained, calibration))]
        for label in model.classes
    ]
    table = ("Classes", ["class", "training", "calibration"], counts)
    more: dict[str, Any] = {"nearest": model.nearest, "alpha": model.alpha, "table": table}
    more["per_class"] = len(model.groups(model.alpha, model.per_class).sizes) > 1
    if model.thumbnails:
        labels = model.detector.classes_[model.detector.known_[0].labels].cpu().numpy()
        more["trained"] = Trained(labels, model.classes, model.thumbnail)
    part = Part(name, shown, check, model.detector, **more)
    if not images:
        return part
    loaded = [load_images(p, form, model.classes, data_root, reporter) for p in images]
    loaded.sort(key=lambda found: not found[1])  # known ones first
    judged, sets = loaded[0][1], []
    for found, _ in loaded:
        inputs = model.inputs(found.images)
        features = inputs.cpu().numpy() if inputs.ndim == 2 else None
        sets.append(dataclasses.replace(found, features=features))
    last = sum(known for _, known in loaded) or 1  # of the sets that are not D_outs
    result = evaluate(model.detector, sets[0], sets[last:], sets[1:last], reporter=reporter)
    return dataclasses.replace(part, result=result, judged=judged, images=sets)


def _attractor_part(folder: Path) -> Part:
    """Return the part on attractors that were found before."""
    try:
        found = json.loads((folder / ATTRACTORS).read_text(encoding="utf-8"))
        table, notes = attractor_rows(found), [memorised(found)]
        title = f"Attractors of {Path(found['source']).name}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        raise AttractorError(
            f"{folder / ATTRACTORS}: is damaged; write it again with attractor-ae attractors"
        ) from None
    figures = {folder / name: text for name, text in FIGURES.items() if (folder / name).is_file()}
    return Part(title, {}, table=table, figures=figures, notes=notes)


def load_images(
    place: str | Path,
    form: ImageFormat,
    classes: Sequence[str],
    data_root: str | Path | None,
    reporter: Reporter,
) -> tuple[ImageSet, bool]:
    """Load a folder or data set with labels of ``classes``, and tell whether it has no others."""
    dataset = find_dataset(str(place), data_root)
    wanted = Wanted(image_format=form, max_broken=1.0, reporter=reporter)
    found = dataset.load(dataset.info.every_image, wanted)
    if dataset.info.kind == "own":
        found = dataclasses.replace(found, name=Path(place).resolve().name)
    known = set(found.classes or [found.name]) <= {*classes, "known"}
    return found.relabelled(classes), known
