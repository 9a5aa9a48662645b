"""A table of own images: the path of each, and its class and split where they are known.

A table is a ``.csv``, ``.tsv`` or ``.parquet`` file with the columns ``path``, ``label`` and
``split``, of which the last two may be left out. Paths start from the folder of the table.
"""

import csv
import importlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

from attractor_ae._errors import AttractorError
from attractor_ae.data.decoding import displayed
from attractor_ae.data.own_found import Found

TABLES = (".csv", ".tsv", ".parquet")
"""Suffixes of tables."""

_DELIMITERS = ",;\t|"


def in_table(table: Path) -> Found:
    """Return the images of a table.

    Raises
    ------
    AttractorError
        If it cannot be read, has no column ``path``, no rows, or a row is damaged; for Parquet,
        if pyarrow is missing.
    """
    folder = os.fspath(table.parent)
    read = _parquet_rows if table.suffix.lower() == ".parquet" else _csv_rows
    paths, labels, splits = [], [], []
    for place, (path, label, split) in read(table):
        if not path:
            raise AttractorError(f"{displayed(table)}, {place}: the path is empty; give one")
        paths.append(os.path.join(folder, path))  # noqa: PTH118  text, as there may be many
        labels.append(label)
        splits.append(split.lower() if split.lower() in {"train", "test"} else split)
    if not paths:
        raise AttractorError(f"{displayed(table)}: has no rows; give one an image")
    return Found(table, labels, splits, tuple(paths))


def _csv_rows(table: Path) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """Yield where each row is, and its path, label and split."""
    try:
        # Names of files need not be UTF-8: they come through as the system's own do.
        text = table.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise AttractorError(f"{displayed(table)}: cannot be read ({error.strerror})") from None
    header = text.splitlines()[0] if text.strip() else ""
    names: list[str] = []
    delimiter = ","
    try:
        for delimiter in _DELIMITERS:
            names = [
                name.strip().lower()
                for row in csv.reader([header], delimiter=delimiter)
                for name in row
            ]
            if "path" in names:
                break
        wanted = _columns(table, names)
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        next(rows)
        for row in rows:
            if not row:
                continue
            if len(row) != len(names):
                raise AttractorError(
                    f"{displayed(table)}, line {rows.line_num}: {len(row)} fields, "
                    f"expected {len(names)}; mend the line"
                )
            path, label, split = ("" if i is None else row[i].strip() for i in wanted)
            yield f"line {rows.line_num}", (path, label, split)
    except csv.Error as error:
        raise AttractorError(f"{displayed(table)}: is no table ({error}); mend it") from None


def _parquet_rows(table: Path) -> Iterator[tuple[str, tuple[str, str, str]]]:
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise AttractorError(
            f"{displayed(table)}: to read Parquet, install: pip install pyarrow"
        ) from None
    try:
        with table.open("rb") as file:
            whole = parquet.ParquetFile(file)
            names = [name.strip().lower() for name in whole.schema_arrow.names]
            wanted = _columns(table, names)
            read = whole.read(
                columns=[whole.schema_arrow.names[i] for i in wanted if i is not None]
            )
            columns = iter(read.columns)
            values = [None if i is None else next(columns).to_pylist() for i in wanted]
    except (OSError, arrow.ArrowException, ValueError) as error:
        reason = displayed(" ".join(str(error).split()))[:200]
        raise AttractorError(f"{displayed(table)}: is no Parquet table ({reason})") from None
    paths, labels, splits = values
    for row in range(len(paths or ())):
        path, label, split = (
            "" if column is None else _as_text(column[row]) for column in (paths, labels, splits)
        )
        yield f"row {row}", (path, label, split)


def _as_text(value: object) -> str:
    """Return a cell as text: "" for none, and 3 for the 3.0 that a gap makes of whole numbers."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _columns(table: Path, names: list[str]) -> tuple[int | None, int | None, int | None]:
    if "path" not in names:
        raise AttractorError(
            f"{displayed(table)}: has no column 'path'; its first line should name the columns "
            "path,label or path,label,split"
        )
    path, label, split = (
        names.index(name) if name in names else None for name in ("path", "label", "split")
    )
    return path, label, split
