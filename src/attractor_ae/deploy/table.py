"""A file of verdicts: written row by row, continued after an interruption, and complete or missing.

Rows are written to ``FILE.part``: a line of settings, then one JSON object per line. When all
images are scored, they are written to ``FILE``: CSV, JSON Lines or Parquet.
"""

import csv
import importlib
import itertools
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attractor_ae._errors import AttractorError, optional_package
from attractor_ae._files import atomic_path, cannot_write, check_free, one_writer, remove_leftovers
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.conformal import first_drift, is_rejected
from attractor_ae.data.decode import displayed
from attractor_ae.deploy.cluster import LOCAL, check_backend, scoring
from attractor_ae.deploy.model import CHUNK, Model
from attractor_ae.deploy.paths import counted, image_paths
from attractor_ae.deploy.verdicts import COLUMNS, KNOWN, UNKNOWN, UNSCORED, part_column

Row = dict[str, Any]

_TEXTS = {"path", "verdict", "class", "nearest", "reason"}
_AT_ONCE = 10_000  # rows of a group in a Parquet file


@dataclass(frozen=True)
class Summary:
    """Numbers of images by verdict."""

    known: int
    unknown: int
    unscored: int

    def __str__(self) -> str:
        return f"{self.known} known, {self.unknown} unknown, {self.unscored} unscored"


def score_to_file(
    model: Model,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    alpha: float | None = None,
    fdr: float | None = None,
    per_class: bool | None = None,
    trials: Sequence[int] | None = None,
    parts: bool = False,
    watch: float | None = None,
    drift: bool = False,
    copy_unknown: str | Path | None = None,
    again: bool = False,
    backend: str = LOCAL,
    scheduler: str | None = None,
    reporter: Reporter = SILENT,
) -> Summary:
    """Score image files, and write one row per image.

    The same call continues after an interruption; each image is scored once, and the file is the
    same as without the interruption.

    Args:
        model: The model.
        sources: As for `Model.score_files`.
        out: File to write; ``.csv``, ``.jsonl`` or ``.parquet``.
        alpha: In place of the model's.
        fdr: Instead of alpha, the largest expected fraction of known images among the unknown
            verdicts of this file, by the procedure of Benjamini and Hochberg (1995; for conformal
            p-values: Bates et al., "Testing for outliers with conformal p-values", 2023).
        per_class, trials: As for `Model.score`; with ``fdr``, not per class by default, as a file
            needs smaller p-values, and the rate is that of the whole file.
        parts: Whether to add the p-value of each component of the OOD score.
        watch: Seconds between searches for new images, until Ctrl-C; then ``out`` is written. A
            file is read when it has not changed for as long.
        drift: Whether to test if the images, in their order, are like the calibration images, and
            to note the first one after which they are not (`first_drift`).
        copy_unknown: Folder to copy unknown images to.
        again: Replace ``out``.
        backend, scheduler: One of ``BACKENDS``; the address of a cluster's scheduler, whose
            machines must share the images.
        reporter: Receives progress and notes.

    Raises:
        AttractorError: If the file exists, cannot be written, or has an unknown ending; if its
            ``.part`` belongs to other settings; as for `Model.score_files`.
    """
    out = Path(out)
    write = _writer(out)
    check_backend(backend, scheduler)
    check_free(out, again)
    alpha = model.checked_alpha(alpha)
    if fdr is not None and not 0 < fdr < 1:
        raise AttractorError(f"fdr must be between 0 and 1, got {fdr:g}; give e.g. 0.1")
    if drift and trials is not None:
        raise AttractorError("drift needs all trials; leave out drift or trials")
    for source in sources if copy_unknown is not None else ():
        if Path(str(copy_unknown)).resolve().is_relative_to(Path(source).resolve()):
            raise AttractorError(
                f"{copy_unknown}: is in {source}, so that copies would be scored, too; choose "
                "another folder for unknown images"
            )
    if per_class is None:
        per_class = model.per_class and fdr is None
    options: dict[str, Any] = {"alpha": alpha, "per_class": per_class, "trials": trials}
    options["reporter"] = reporter
    settings = {
        "model": model.digest,
        "alpha": alpha,
        "fdr": fdr,
        "per_class": per_class,
        "trials": trials and list(trials),
        "parts": parts,
        # A relative path depends on the working directory.
        "sources": [[str(source), os.path.abspath(source)] for source in sources],  # noqa: PTH100
    }
    part = out.with_name(f"{out.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise cannot_write(part, error) from None
    with one_writer(part):
        done = _resumed(part, settings)
        remove_leftovers(out.parent, name=out.name)
        if done:
            reporter.note(f"{part}: continuing after {done} images")
        started = part.stat().st_size
        seen = {hash(row["path"]) for row in _rows(part)}  # hashes, as there may be many
        try:
            with (
                part.open("a", encoding="utf-8") as file,
                scoring(model, backend, scheduler) as chunks,
            ):
                for paths, count in _rounds(sources, seen, watch, reporter):
                    total = None if count is None else count + done
                    options["done"] = len(seen) if watch else done
                    verdicts = model.score_paths(paths, total, score_chunks=chunks, **options)
                    while chunk := list(itertools.islice(verdicts, CHUNK)):
                        file.writelines(json.dumps(verdict.row(parts)) + "\n" for verdict in chunk)
                        file.flush()
                        seen.update(hash(verdict.path) for verdict in chunk if watch)
        except (AttractorError, OSError, KeyboardInterrupt) as error:
            if watch is None or not isinstance(error, KeyboardInterrupt):
                if part.stat().st_size == started and not done:
                    part.unlink()  # nothing was scored
                raise cannot_write(part, error) if isinstance(error, OSError) else error from None
        columns = [*COLUMNS, *(part_column(name) for name in model.ood.components if parts)]

        rows = partial(_rows, part)
        if fdr is not None:
            n = int(model.groups(alpha, per_class).sizes.min())
            rows = _controlled(rows, fdr, n, reporter)
        if drift:
            reporter.note(_drift(model, part))
        if copy_unknown is not None:
            _copy((row["path"] for row in rows() if row["verdict"] == UNKNOWN), Path(copy_unknown))
        counts = Counter(row["verdict"] for row in rows())
        with atomic_path(out) as temporary:
            write(temporary, columns, rows())
        part.unlink()
        return Summary(counts[KNOWN], counts[UNKNOWN], counts[UNSCORED])


def _resumed(part: Path, settings: Mapping[str, Any]) -> int:
    """Prepare the part file, and return the number of rows that it keeps.

    Whole chunks are kept, so that batches, and thus numbers, are the same to the last digit.
    """
    first = json.dumps(settings) + "\n"
    try:
        with part.open("rb+") as file:
            found = file.readline().decode("utf-8", "replace")
            if found != first and not file.read(1):  # it is new, or no image was scored
                file.seek(0)
                file.truncate()
                file.write(first.encode())
                return 0
            if found != first:
                raise AttractorError(
                    f"{part}: belongs to a call with another model, other images or other "
                    "settings; repeat that call, or remove the file to start again"
                )
            rows, end, kept = 0, file.tell(), file.tell()
            for line in file:
                end += len(line)
                rows += line.endswith(b"\n")
                if rows % CHUNK == 0:
                    kept = end
            file.truncate(kept)
            return rows - rows % CHUNK
    except OSError as error:
        raise cannot_write(part, error) from None


def _rows(part: Path) -> Iterator[Row]:
    with part.open(encoding="utf-8") as file:
        next(file, None)  # the settings
        yield from map(json.loads, file)


def _rounds(
    sources: Sequence[str | Path], seen: set[int], watch: float | None, reporter: Reporter
) -> Iterator[tuple[Iterable[str], int | None]]:
    """Yield the new images of sources and their number: once, or with ``watch`` without end."""
    if watch is None:
        paths = image_paths(sources, reporter=reporter)
        with counted(sources, _arrived(paths, seen, watch)) as found:
            yield found
        return
    while True:
        yield _arrived(image_paths(sources, empty=True, reporter=reporter), seen, watch), None
        reporter = SILENT  # notes are the same in each round
        time.sleep(watch)


def _arrived(paths: Iterable[str], seen: set[int], age: float | None) -> Iterator[str]:
    """Yield the paths that were not seen; with ``age``, of files at least as old (seconds)."""
    for path in paths:
        if hash(path) in seen:
            continue
        with suppress(OSError):  # it is reported as unscored
            if age and time.time() - os.stat(path).st_mtime < age:  # noqa: PTH116  many
                continue
        yield path


def _controlled(
    rows: Callable[[], Iterator[Row]], fdr: float, n: int, reporter: Reporter
) -> Callable[[], Iterator[Row]]:
    """Return rows with verdicts that control the false discovery rate of the file."""
    from scipy.stats import false_discovery_control

    p = np.array([row["p_value"] for row in rows() if row["p_value"] is not None])
    adjusted = false_discovery_control(p) if len(p) else p
    # k images with the smallest possible p-value are reported if k fdr / m >= 1 / (n + 1).
    least = len(p) / (fdr * (n + 1))
    if least > len(p):
        reporter.note(
            f"warning: with {n} calibration images, no image can be unknown at fdr {fdr:g}; "
            f"calibrate on at least {int(np.ceil(1 / fdr)) - 1}, or use a larger fdr"
        )
    elif least > max(1, 0.01 * len(p)):
        reporter.note(
            f"warning: with {n} calibration images, unknown images among {len(p)} are reported at "
            f"fdr {fdr:g} only if there are at least {int(np.ceil(least))}; calibrate on more "
            "images (attractor-ae calibrate)"
        )

    def controlled() -> Iterator[Row]:
        flags = iter(is_rejected(torch.from_numpy(adjusted), fdr).tolist())
        for row in rows():
            if row["p_value"] is not None:
                row["verdict"] = UNKNOWN if next(flags) else KNOWN
            yield row

    return controlled


def _drift(model: Model, part: Path) -> str:
    def scored() -> Iterator[Row]:
        return (row for row in _rows(part) if row["ood_score"] is not None)

    known = model.ood(model.values[-1], model.detector.recursion).tolist()
    found = first_drift((row["ood_score"] for row in scored()), known)
    if found is None:
        return "drift: no evidence that the images differ from the calibration images (level 1 %)"
    path = next(itertools.islice(scored(), found, None))["path"]
    return (
        f"warning: drift: by image {found + 1}, {displayed(path)}, it is clear that the images "
        "differ from the calibration images (level 1 %), so the false-alarm rate does not hold; "
        "calibrate on known images like them (attractor-ae calibrate)"
    )


def _copy(paths: Iterable[str], folder: Path) -> None:
    """Copy images to a folder, under their path without ``..`` and the root."""
    for path in paths:
        names = [name for name in Path(path).parts if name not in ("..", Path(path).anchor)]
        target = folder.joinpath(*names)
        if not target.exists():
            with atomic_path(target) as temporary:
                shutil.copyfile(path, temporary)


# ---- endings


def _csv(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    # File names need not be UTF-8: their bytes are written as they are.
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _json_lines(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({name: row.get(name) for name in columns}) + "\n")


def _parquet(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    arrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    types = [arrow.string() if name in _TEXTS else arrow.float64() for name in columns]
    schema = arrow.schema(list(zip(columns, types, strict=True)))
    rows = iter(rows)
    with parquet.ParquetWriter(path, schema) as writer:
        while some := list(itertools.islice(rows, _AT_ONCE)):
            for row in some:  # Parquet's text is UTF-8
                row["path"] = os.fsencode(row["path"]).decode("utf-8", "backslashreplace")
            held = [{name: row.get(name) for name in columns} for row in some]
            writer.write_table(arrow.Table.from_pylist(held, schema=schema))


_WRITERS = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}


def _writer(out: Path) -> Callable[[Path, Sequence[str], Iterable[Row]], None]:
    if out.suffix.lower() not in _WRITERS:
        raise AttractorError(
            f"{out}: has an unknown ending; give a file that ends in {', '.join(_WRITERS)}"
        )
    if out.suffix.lower() == ".parquet":
        optional_package("pyarrow", "parquet", "writing Parquet files")
    return _WRITERS[out.suffix.lower()]
