import os
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from attractor_ae._errors import AttractorError
from attractor_ae._reporter import Reporter
from attractor_ae.data.cache import BrokenFilesError
from attractor_ae.data.sources.own import find_images


def draw(path, grey):
    """Write an image of one grey, which tells it from others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (5, 4), grey).save(path)


class Notes(Reporter):
    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


def greys(images):
    return images.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_table_of_paths(tmp_path, load, delimiter, start):
    table = tmp_path / "table.csv"
    rows = [("label", "Path", "split")]
    for i, (label, split) in enumerate(
        [("10", "train"), ("9", "train"), ("9", "val"), ("", "val")]
    ):
        draw(tmp_path / "x y" / f"{i}, {i}.png", i)
        rows.append((label, f'"x y/{i}, {i}.png"', split))
    table.write_text(start + "\n".join(delimiter.join(row) for row in rows) + "\n\n")

    assert list(find_images(table).splits) == ["train", "val", "all"]
    images = load(table)
    assert (images.name, images.classes) == ("table", ("9", "10"))
    assert images.labels.tolist() == [1, 0, 0, -1]
    assert greys(images) == [0, 1, 2, 3]
    assert greys(load(table, "val")) == [2, 3]


def test_a_table_of_paths_alone_and_absolute_ones(tmp_path, load):
    draw(tmp_path / "1.png", 1)
    (tmp_path / "lists").mkdir()
    table = tmp_path / "lists" / "table.csv"
    table.write_text(f"path\n{tmp_path}/1.png\n../1.png\n")
    images = load(table)
    assert greys(images) == [1, 1]
    assert images.labels.tolist() == [-1, -1]


def test_a_table_with_names_that_are_no_utf8(tmp_path, load):
    draw(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.png")), 9)
    table = tmp_path / "table.csv"
    table.write_bytes(b"path,label\n\xe9.png,\xe9t\xe9\n")
    images = load(table)
    assert greys(images) == [9]
    assert images.classes == ("\\xe9t\\xe9",)


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        ([10, 9, None], ("9", "10"), [1, 0, -1]),
        (["b", None, "a"], ("a", "b"), [1, -1, 0]),
        ([2.0, None, float("nan")], ("2",), [0, -1, -1]),
    ],
)
def test_a_parquet_table_written_by_pyarrow(tmp_path, load, labels, classes, expected):
    for i in range(3):
        draw(tmp_path / f"{i}.png", i)
    table = tmp_path / "table.parquet"
    columns = {"other": [0] * 3, "label": labels, "path": [f"{i}.png" for i in range(3)]}
    pyarrow.parquet.write_table(pyarrow.table(columns), table)
    images = load(table)
    assert images.classes == classes
    assert images.labels.tolist() == expected
    assert greys(images) == [0, 1, 2]


MISSING = ("", "nan", "NaN", "NA", "N/A", "None", "null", "<NA>", "-1", "-1.0", "NaT")


@pytest.mark.parametrize("missing", MISSING)
def test_the_spellings_of_a_missing_label(tmp_path, load, missing):
    labels = ["b", missing, "none", "a", f" {missing} "]
    lines = [f"{i}.png,{label}" for i, label in enumerate(labels)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *lines]))
    columns = {"path": [f"{i}.png" for i in range(5)], "label": labels}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "table.parquet")
    for i in range(5):
        draw(tmp_path / f"{i}.png", i)
    for ending in ("csv", "parquet"):
        reporter = Notes()
        images = load(tmp_path / f"table.{ending}", reporter=reporter)
        assert images.classes == ("a", "b", "none")
        assert images.labels.tolist() == [1, -1, 2, 0, -1]
        assert any("2 of 5 images have no label" in line for line in reporter.lines)


@pytest.mark.parametrize("kind", ["int64", "double", "float"])
def test_minus_1_is_a_missing_label_in_parquet_too(tmp_path, load, kind):
    for i in range(3):
        draw(tmp_path / f"{i}.png", i)
    labels = pyarrow.array([1, -1, 0], pyarrow.type_for_alias(kind))
    columns = {"path": [f"{i}.png" for i in range(3)], "label": labels}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "table.parquet")
    assert load(tmp_path / "table.parquet").labels.tolist() == [1, -1, 0]


@pytest.mark.parametrize(
    "names", [("training", "Testing", "Valid"), (" TRAIN", "test ", "validation")]
)
def test_the_spellings_of_a_split(tmp_path, names):
    lines = [f"{i}.png,ab,{name}" for i, name in enumerate(names)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split", *lines]))
    splits = {
        name: rows.tolist() for name, rows in find_images(tmp_path / "table.csv").splits.items()
    }
    assert splits == {"train": [0], "test": [1], "val": [2], "all": [0, 1, 2]}


@pytest.mark.parametrize(
    ("start", "encoding"),
    [("sep=;\n", "utf-8"), ("SEP=;\r\n", "utf-16"), ("\n\r\n", "utf-8"), ("", "utf-16-be")],
)
def test_a_table_of_a_spreadsheet(tmp_path, load, start, encoding):
    draw(tmp_path / "ä b.png", 7)
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "t.csv").write_bytes(f"{mark}{start}path;label\r\nä b.png;ü\r\n".encode(encoding))
    images = load(tmp_path / "t.csv")
    assert (greys(images), images.classes) == ([7], ("ü",))
    (tmp_path / "t.csv").write_bytes(f"{mark}{start}path;label\nx\n".encode(encoding))
    number = 2 + start.count("\n")
    with pytest.raises(AttractorError, match=f"line {number}: 1 fields"):
        find_images(tmp_path / "t.csv")


@pytest.mark.skipif(os.sep != "/", reason="a backslash separates names")
def test_paths_of_windows_and_of_a_browser(tmp_path, load):
    draw(tmp_path / "x" / "a b.png", 7)
    draw(tmp_path / "x\\c.png", 9)  # a name that is like this
    url = (tmp_path / "x" / "a b.png").as_uri()
    (tmp_path / "t.csv").write_text(f"path\nx\\a b.png\n{url}\nx\\c.png\n")
    assert greys(load(tmp_path / "t.csv")) == [7, 7, 9]


def test_a_repeated_row_is_in_one_split(tmp_path, load):
    for i in range(20):
        draw(tmp_path / f"{i}.png", i)
    rows = [f"{i}.png,{'ab'[i % 2]}" for i in range(20)]
    again = [f"./x/../{row}" for row in rows]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows, *rows, *again]))
    reporter = Notes()
    train = load(tmp_path / "table.csv", "train", reporter=reporter)
    test = load(tmp_path / "table.csv", "test")
    assert sorted(greys(train) + greys(test)) == list(range(20))
    assert any("40 repeated rows" in line for line in reporter.lines)
    # Without labels there is no split, and each row has its score.
    (tmp_path / "table.csv").write_text("path\n1.png\n1.png\n")
    assert greys(load(tmp_path / "table.csv")) == [1, 1]


@pytest.mark.parametrize(
    ("row", "value"), [("1.png,dog,train", "'dog'"), ("1.png,cat,test", "'test'")]
)
def test_an_image_with_two_labels_or_splits_is_refused(tmp_path, row, value):
    (tmp_path / "table.csv").write_text(f"path,label,split\n1.png,cat,train\n{row}\n")
    with pytest.raises(AttractorError, match=f"line 3: 1.png .*{value}"):
        find_images(tmp_path / "table.csv")


def test_parquet_without_pyarrow_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "table.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(AttractorError, match=r"pip install 'attractor-ae\[parquet\]'"):
        find_images(tmp_path / "table.parquet")


def test_missing_files_of_a_table_are_broken(tmp_path, load):
    draw(tmp_path / "1.png", 1)
    (tmp_path / "table.csv").write_text("path,label\n1.png,a\n2.png,a\nnul\0.png,a\n")
    with pytest.raises(BrokenFilesError) as caught:
        load(tmp_path / "table.csv")
    assert [path for path, _ in caught.value.broken] == [
        f"{tmp_path}/2.png",
        f"{tmp_path}/nul\\x00.png",
    ]


@pytest.mark.parametrize(
    ("name", "write", "where"),
    [
        ("x.csv", Path.touch, "'path'"),
        ("x.csv", lambda path: path.write_text("path,label\n"), "x.csv"),
        ("x.csv", lambda path: path.write_text("file,label\na,b\n"), "'path'"),
        ("x.csv", lambda path: path.write_text("path,label\na\n"), "line 2"),
        ("x.csv", lambda path: path.write_text("path,label\n,b\n"), "line 2"),
        ("x.csv", lambda path: path.write_text('path,label\n"a,b\n'), "x.csv"),
        ("x.parquet", lambda path: path.write_text("not a table"), "x.parquet"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, load, name, write, where):
    write(tmp_path / name)
    with pytest.raises(AttractorError) as caught:
        load(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1
    assert name in str(caught.value)
    assert where in str(caught.value)


def test_labels_of_another_encoding_are_refused(tmp_path, load):
    """As spreadsheets save "CSV" on Windows: they would become other names."""
    draw(tmp_path / "1.png", 9)
    (tmp_path / "x.csv").write_bytes("path;label\n1.png;été\n".encode("cp1252"))
    with pytest.raises(AttractorError, match=r"line 2.*\\xe9t.* not UTF-8"):
        load(tmp_path / "x.csv")


@pytest.mark.parametrize("columns", ["path,label,Label", "path,path,label", "path,split,split"])
def test_repeated_columns_are_refused(tmp_path, load, columns):
    draw(tmp_path / "1.png", 9)
    (tmp_path / "x.csv").write_text(f"{columns}\n1.png,1.png,b\n")
    with pytest.raises(AttractorError, match="several columns"):
        load(tmp_path / "x.csv")


def test_lists_are_not_labels(tmp_path, load):
    draw(tmp_path / "1.png", 9)
    table = pyarrow.table({"path": ["1.png"], "label": [["cat", "dog"]]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(AttractorError, match="'label' has lists"):
        load(tmp_path / "x.parquet")
