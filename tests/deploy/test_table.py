import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet
import pytest
from at_terminal import error_line, invoke
from PIL import Image
from scipy.stats import false_discovery_control
from small_models import write_images

from attractor_ae import AttractorError, load
from attractor_ae._reporter import Reporter
from attractor_ae.data import ImageFormat
from attractor_ae.data.sources.own import find_images
from attractor_ae.data.walk import walk
from attractor_ae.deploy.paths import image_paths
from attractor_ae.deploy.table import score_to_file

HEADER = (
    "path,verdict,class,probability,confidence,uncertainty,ood_score,p_value,epistemic,nearest,"
    "reason"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_digits):
    """Sixty digits, two faces, and a file that is no image."""
    root = tmp_path_factory.mktemp("images") / "new"
    write_images(root / "digits", small_digits[2].images)
    faces = load("faces", "test", image_format=ImageFormat(32)).images
    write_images(root / "faces", faces[:2])
    (root / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    return root


@pytest.fixture(scope="module")
def file(shared_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "digits.model"
    shared_model.save(path)
    return path


def read_csv(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_every_image_has_one_row(shared_model, folder, tmp_path):
    out = tmp_path / "verdicts.csv"
    summary = score_to_file(shared_model, [folder], out)
    assert out.read_text().splitlines()[0] == HEADER
    rows = read_csv(out)
    assert [row["path"] for row in rows] == list(image_paths([folder]))
    verdicts = list(shared_model.score_files(folder))
    assert [row["verdict"] for row in rows] == [v.verdict for v in verdicts]
    assert [row["p_value"] for row in rows][1:] == [str(v.p_value) for v in verdicts[1:]]
    counts = [sum(row["verdict"] == name for row in rows) for name in ("known", "unknown")]
    assert [summary.known, summary.unknown, summary.unscored] == [*counts, 1]
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    (torn,) = (row for row in rows if row["verdict"] == "unscored")
    assert torn["path"].endswith("torn.jpg")
    assert torn["reason"]
    assert {torn[name] for name in HEADER.split(",")[2:-1]} == {""}


def test_all_endings_have_the_same_rows(shared_model, folder, tmp_path):
    for ending in ("csv", "jsonl", "parquet"):
        score_to_file(shared_model, [folder], tmp_path / f"v.{ending}", parts=True)
    lines = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet")
    assert table.to_pylist() == lines
    names = table.column_names
    assert names == [*HEADER.split(","), *(f"p_{c}" for c in shared_model.ood.components)]
    for row, line in zip(read_csv(tmp_path / "v.csv"), lines, strict=True):
        assert row == {k: "" if v is None else str(v) for k, v in line.items()}


def test_a_complete_file_is_kept(shared_model, folder, tmp_path):
    out = tmp_path / "v.csv"
    out.write_text("precious")
    with pytest.raises(AttractorError, match="--again"):
        score_to_file(shared_model, [folder], out)
    assert out.read_text() == "precious"
    score_to_file(shared_model, [folder], out, again=True)
    assert len(read_csv(out)) == 63


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
def test_two_calls_do_not_write_the_same_file(shared_model, folder, tmp_path):
    """The second would repeat the rows of the first, or lose them."""
    out = tmp_path / "v.csv"

    class Second(Reporter):
        tried = 0

        def progress(self, *_):
            if not self.tried:
                self.tried = 1
                with pytest.raises(AttractorError, match="another process"):
                    score_to_file(shared_model, [folder], out)

    reporter = Second()
    score_to_file(shared_model, [folder], out, reporter=reporter)
    assert reporter.tried
    assert len(read_csv(out)) == 63


def test_a_closed_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(AttractorError, match="closed"):
        list(image_paths(["-"]))


class Stop(Reporter):
    """Interrupts after a number of images."""

    def __init__(self, after):
        self.after, self.seen = after, []

    def progress(self, task, done, total, *_):
        self.seen.append(done)
        if done >= self.after:
            raise KeyboardInterrupt


def test_a_call_from_another_working_directory_does_not_continue(
    shared_model, folder, tmp_path, monkeypatch
):
    """Other images may have the same relative paths."""
    for name in ("table", "model"):
        monkeypatch.setattr(f"attractor_ae.deploy.{name}.CHUNK", 8)
    monkeypatch.chdir(folder)
    with pytest.raises(KeyboardInterrupt):  # after eight rows
        score_to_file(shared_model, ["digits"], tmp_path / "v.csv", reporter=Stop(9))
    shutil.copytree(folder / "digits", tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AttractorError, match="other images"):
        score_to_file(shared_model, ["digits"], tmp_path / "v.csv")


@pytest.mark.parametrize("lost", [0, 1, 200])
def test_an_interrupted_call_continues(shared_model, folder, tmp_path, monkeypatch, lost):
    """Also if the end of the part file was not written."""
    for name in ("table", "model"):
        monkeypatch.setattr(f"attractor_ae.deploy.{name}.CHUNK", 8)
    whole, out = tmp_path / "whole.csv", tmp_path / "v.csv"
    score_to_file(shared_model, [folder], whole)
    with pytest.raises(KeyboardInterrupt):
        score_to_file(shared_model, [folder], out, reporter=Stop(40))
    part = tmp_path / "v.csv.part"
    assert part.exists()
    assert not out.exists()
    with pytest.raises(AttractorError, match="other settings"):
        score_to_file(shared_model, [folder], out, alpha=0.1)
    with part.open("r+b") as opened:
        opened.truncate(part.stat().st_size - lost)
    for name in ("v.csv", "w.csv"):  # as a killed process leaves it, which was writing the file
        (tmp_path / f".{name}.0123abcd.tmp").touch()
    reporter = Stop(1000)
    score_to_file(shared_model, [folder], out, reporter=reporter)
    assert [path.name for path in tmp_path.glob(".*")] == [".w.csv.0123abcd.tmp"]  # of another call
    assert reporter.seen[0] in (32, 40)  # and not 8
    assert out.read_bytes() == whole.read_bytes()
    assert not part.exists()


@pytest.mark.soak
def test_killed_at_random_moments(file, folder, tmp_path):
    """kill -9, twenty times: each image once, and the same file as without."""
    for copy in range(200):  # links, so that there is something to interrupt
        (tmp_path / "many" / str(copy)).mkdir(parents=True)
        for path in (folder / "digits").iterdir():
            (tmp_path / "many" / str(copy) / path.name).symlink_to(path)
    command = [sys.executable, "-m", "attractor_ae", "score", str(file), str(tmp_path / "many")]
    whole, out, part = (tmp_path / name for name in ("whole.csv", "v.csv", "v.csv.part"))
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True)
    rng, kept = np.random.default_rng(0), [0]
    for kill in range(20):
        process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL)
        if kill % 5:  # otherwise perhaps before the first row
            while process.poll() is None and (not part.exists() or part.stat().st_size <= kept[-1]):
                time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.1 if kill % 5 else 3))
        process.kill()
        process.wait()
        assert not out.exists()
        kept.append(part.stat().st_size if part.exists() else 0)
    assert len(set(kept)) > 10
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True)
    assert out.read_bytes() == whole.read_bytes()
    assert len(read_csv(out)) == 200 * 60


def test_drift_is_noted(shared_model, folder, tmp_path):
    faces = load("faces", "test", image_format=ImageFormat(32)).images
    write_images(tmp_path / "faces", faces[:60])
    said = {}
    for name, source in (("same", folder / "digits"), ("other", tmp_path / "faces")):
        notes, reporter = [], Reporter()
        reporter.note = notes.append
        score_to_file(
            shared_model, [source], tmp_path / f"{name}.csv", drift=True, reporter=reporter
        )
        said[name] = "".join(notes)
    assert "no evidence" in said["same"]
    assert "warning: drift" in said["other"]
    assert "faces/0" in said["other"]


def test_images_that_arrive_are_scored_until_ctrl_c(shared_model, folder, tmp_path, monkeypatch):
    new, out = tmp_path / "new", tmp_path / "v.csv"
    digits = sorted((folder / "digits").iterdir())
    arriving = iter([[], [0, 1], [2], [], [3, 4]])

    def wait(_):
        """Put the next images into the folder, in place of a second."""
        for i in next(arriving, [None]):
            if i is None:
                raise KeyboardInterrupt
            shutil.copyfile(digits[i], new / digits[i].name)
            os.utime(new / digits[i].name, (0, 0))
        (new / "half.png").write_bytes(b"\x89PNG")  # still being written

    new.mkdir()
    monkeypatch.setattr("attractor_ae.deploy.table.time.sleep", wait)
    score_to_file(shared_model, [new], out, watch=1.0)
    assert [row["path"] for row in read_csv(out)] == [str(new / d.name) for d in digits[:5]]


def test_p_values_per_class(shared_model, folder, tmp_path):
    """With 60 calibration images, all classes are taken together."""
    for name, per_class in (("a", False), ("b", True)):
        score_to_file(shared_model, [folder], tmp_path / f"{name}.csv", per_class=per_class)
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()


def test_the_false_discovery_rate_is_that_of_scipy(shared_model, folder, tmp_path):
    score_to_file(shared_model, [folder], tmp_path / "v.csv", fdr=0.9)
    rows = [row for row in read_csv(tmp_path / "v.csv") if row["p_value"]]
    adjusted = false_discovery_control([float(row["p_value"]) for row in rows], method="bh")
    flags = [row["verdict"] == "unknown" for row in rows]
    assert flags == (adjusted <= 0.9).tolist()
    ranks = np.array([float(row["p_value"]) for row in rows]) * 61
    assert np.abs(ranks - ranks.round()).max() < 1e-12  # not rounded
    assert sum(flags) > 0


def test_a_calibration_too_small_for_the_false_discovery_rate_is_reported(
    shared_model, folder, tmp_path
):
    notes = []
    reporter = Reporter()
    reporter.note = notes.append
    score_to_file(shared_model, [folder], tmp_path / "v.csv", fdr=0.01, reporter=reporter)
    assert any("99" in note and "fdr" in note for note in notes)
    with pytest.raises(AttractorError, match="fdr"):
        score_to_file(shared_model, [folder], tmp_path / "w.csv", fdr=0.0)


def test_unknown_images_are_copied(shared_model, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    score_to_file(shared_model, ["new"], tmp_path / "v.csv", copy_unknown=tmp_path / "odd")
    unknown = [r["path"] for r in read_csv(tmp_path / "v.csv") if r["verdict"] == "unknown"]
    copies = [str(path.relative_to(tmp_path / "odd")) for path in (tmp_path / "odd").rglob("*.png")]
    assert sorted(copies) == sorted(unknown) != []
    for name in copies:
        assert (tmp_path / "odd" / name).read_bytes() == (folder.parent / name).read_bytes()
    with pytest.raises(AttractorError, match="scored"):
        score_to_file(shared_model, ["new"], tmp_path / "w.csv", copy_unknown="new/odd")


def test_files_of_every_kind_have_a_row(file, shared_model, folder, tmp_path):
    """Odd names, and files that cannot be read; nothing stops, and nothing hangs."""
    new = tmp_path / "new"
    new.mkdir()
    names = ["a,b.png", 'quote".png', "line\nbreak.png", os.fsdecode(b"caf\xe9.png"), "=1+1.png"]
    for name in names:
        shutil.copyfile(folder / "digits/000.png", new / name)
    Image.new("L", (1, 1)).save(new / "tiny.png")
    bad = ["empty.png", "text.jpg", "cut.png", "pipe.png", "nowhere.png"]
    (new / "empty.png").touch()
    (new / "text.jpg").write_text("<svg></svg>")
    (new / "cut.png").write_bytes((folder / "digits/000.png").read_bytes()[:60])
    os.mkfifo(new / "pipe.png")
    (new / "nowhere.png").symlink_to(new / "missing.png")
    for ending in ("csv", "jsonl", "parquet"):
        score_to_file(shared_model, [new], tmp_path / f"v.{ending}")
    text = (tmp_path / "v.csv").read_text(encoding="utf-8", errors="surrogateescape")
    rows = {r["path"].removeprefix(f"{new}/"): r for r in csv.DictReader(io.StringIO(text))}
    assert rows.keys() == {*names, *bad, "tiny.png"}
    assert {name for name, row in rows.items() if row["verdict"] == "unscored"} == {*bad}
    assert all(rows[name]["reason"] and "\n" not in rows[name]["reason"] for name in bad)
    assert pyarrow.parquet.read_table(tmp_path / "v.parquet").num_rows == len(rows)
    result = invoke("score", file, new)
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == len(rows)


@pytest.mark.parametrize("name", ["v.xlsx", "v", "v.csv.gz"])
def test_an_unknown_ending_is_refused_first(shared_model, tmp_path, name):
    with pytest.raises(AttractorError, match=r"\.parquet"):
        score_to_file(shared_model, ["nowhere"], tmp_path / name)


# ---- paths


def test_sources_of_every_kind(folder, tmp_path, monkeypatch):
    digits = sorted(str(path) for path in (folder / "digits").iterdir())
    table = folder / "some.csv"
    table.write_text("path,label\ndigits/003.png,3\nfaces/000.png,\n")
    lines = io.StringIO(f"{digits[5]}\n\n{digits[6]}\r\n")
    found = list(
        image_paths(
            [digits[1], f"{folder}/digits/00*.png", table, "-", folder / "faces"], stream=lines
        )
    )
    table.unlink()
    first = [digits[1], digits[0], *digits[2:10]]
    assert found == [*first, *(str(folder / f"faces/{i:03}.png") for i in (0, 1))]


def test_a_folder_that_contains_itself_is_searched_once(folder, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").symlink_to(folder / "digits/000.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "2.png").symlink_to(folder / "digits/000.png")
    assert list(image_paths([tmp_path])) == [str(tmp_path / "a/1.png")]


class Noted(Reporter):
    def __init__(self):
        self.lines, self.totals = [], []

    def note(self, line):
        self.lines.append(line)

    def progress(self, task, done, total, *_):
        self.totals.append(total)


@pytest.fixture
def mixed(folder, tmp_path):
    """What people have among their images; returns the names of the images that are scored."""
    new, image = tmp_path / "mixed", (folder / "digits/000.png").read_bytes()
    images = ["1.PNG", "2.jpg?w=300", "3", "a/4.png", "a/sub/5.dat"]
    others = ["notes.txt", "a/Makefile", "a/boxes.json"]
    results = ["runs/x/config.toml", "runs/x/history.csv", "runs/x/evaluation/6.png"]
    cached = ["cache/CACHEDIR.TAG", "cache/7.png"]
    hidden = [".thumbnails/8.png", "a/.trash/9.png", ".10.png"]
    data = {
        **dict.fromkeys([*images, *results, *cached, *hidden], image),
        **dict.fromkeys(others, b"no image \0"),
        "IMG_11.HEIC": b"\0\0\0\x18ftypheic" + bytes(100),
        "12.nef": image,  # as a preview in a raw photograph, which must not be scored
    }
    for name, content in data.items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).write_bytes(content)
    return new, ["1.PNG", "2.jpg?w=300", "3", "IMG_11.HEIC", *images[3:]]


def test_a_folder_has_the_images_that_training_finds(mixed):
    new, names = mixed
    reporter = Noted()
    found = list(image_paths([new], reporter=reporter))
    assert found == [str(new / name) for name in names]
    trained = find_images(new).found
    broken = [path for path, _ in trained.unusable]
    assert sorted([*trained.paths, *(row[0] for row in trained.ignored), *broken]) == sorted(
        [*found, *(str(new / name) for name in ("12.nef", "cache", "runs/x"))]
    )
    noted = "\n".join(reporter.lines)
    for name, more in {
        "notes.txt: is not an image": " (and 2 others)",
        "cache: is a folder of results": " (and 1 others)",
        ".thumbnails: is a hidden folder": " (and 1 others)",
        "12.nef: is an image of the format nef": "",
    }.items():
        assert any(f"{new}/{name}" in line and line.endswith(more) for line in reporter.lines), (
            noted
        )


def test_files_that_are_named_have_a_row(shared_model, mixed, tmp_path):
    """Whatever they are, with a reason."""
    new, _ = mixed
    named = ["notes.txt", "12.nef", "a", ".10.png", "3", "IMG_11.HEIC", "a/boxes.json"]
    lines = io.StringIO("".join(f"{new}/{name}\n" for name in named))
    rows = list(shared_model.score_paths(image_paths(["-"], lines)))
    assert [row.path for row in rows] == [f"{new}/{name}" for name in named]
    unscored = {row.path.removeprefix(f"{new}/"): row.reason for row in rows if row.reason}
    assert unscored.keys() == {"notes.txt", "12.nef", "a", "IMG_11.HEIC", "a/boxes.json"}
    assert "nef" in unscored["12.nef"]
    assert "folder" in unscored["a"]


def test_a_folder_that_cannot_be_read_has_a_row(shared_model, mixed, tmp_path, monkeypatch):
    new, names = mixed
    scandir = os.scandir

    def refuse(path):
        if str(path) == f"{new}/a":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    score_to_file(shared_model, [new], tmp_path / "v.csv")
    rows = {row["path"].removeprefix(f"{new}/"): row for row in read_csv(tmp_path / "v.csv")}
    assert list(rows) == [*names[:4], "a"]
    assert rows["a"]["reason"] == "Permission denied"


def test_folders_are_searched_once(shared_model, mixed, tmp_path, monkeypatch):
    """The number of images is known all the same."""
    new, names = mixed
    tops = []
    monkeypatch.setattr("attractor_ae.deploy.paths.walk", lambda top: tops.append(top) or walk(top))
    reporter = Noted()
    score_to_file(shared_model, [new], tmp_path / "v.csv", reporter=reporter)
    assert len(list(shared_model.score_files(new, reporter=reporter))) == len(names)
    assert tops == [str(new), str(new)]
    assert reporter.totals == [len(names)] * 2


@pytest.mark.parametrize("source", ["nowhere", "nowhere/*.png", "empty", "nowhere.csv"])
def test_sources_without_images_are_refused(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AttractorError, match=source.replace("*", r"\*")):
        list(image_paths([source]))


# ---- the terminal


def test_the_command_writes_the_file_and_says_what_is_in_it(file, folder, tmp_path):
    out = tmp_path / "v.csv"
    result = invoke("score", file, folder, "--out", out, "--fail-on-unknown")
    rows = read_csv(out)
    unknown = sum(row["verdict"] == "unknown" for row in rows)
    assert unknown
    assert result.exit_code == 3
    assert f"{62 - unknown} known, {unknown} unknown, 1 unscored" in result.stdout
    assert "--again" in error_line(invoke("score", file, folder, "--out", out))


@pytest.mark.parametrize("more", [[], ["--scores"]])
def test_without_a_file_rows_go_to_the_terminal(file, folder, more):
    result = invoke("score", file, folder, *more)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 63
    assert len({line.index(str(folder)) for line in lines}) == 1  # in columns
    assert {line.split()[0] for line in lines} == {"known", "unknown", "unscored"}
    assert sum("contrast@0" in line for line in lines) == (62 if more else 0)


def test_a_closed_standard_output_is_an_error(file, folder):
    command = f'"{sys.executable}" -m attractor_ae score "{file}" "{folder}" >&-'
    ended = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert "--out" in ended.stderr


@pytest.mark.parametrize("more", [["--fdr", "0.1"], ["--copy-unknown", "x"], ["--alpha", "0.001"]])
def test_impossible_settings_are_one_line(file, folder, more):
    error_line(invoke("score", file, folder, *more))


def test_calibrate_and_evaluate(file, folder, small_digits, tmp_path):
    others = small_digits[2]
    for label in range(10):
        write_images(tmp_path / "more" / str(label), others.images[others.labels == label])
    (tmp_path / "more" / "0" / "torn.png").touch()  # is left out
    better = tmp_path / "better.model"
    result = invoke("calibrate", file, tmp_path / "more", "--out", better, "--alpha", 0.1)
    assert result.exit_code == 0, result.output
    assert "alpha 0.1" in result.stdout
    assert "warning" not in result.stderr
    trained = write_images(tmp_path / "seen", small_digits[0].images[:25])
    write_images(tmp_path / "seen", others.images[:20], [f"new{i}.png" for i in range(20)])
    result = invoke("calibrate", file, tmp_path / "seen", "--out", tmp_path / "seen.model")
    assert f"{len(trained)} of 45 images have the code of a training image" in result.stderr
    faces = folder / "faces"
    result = invoke("evaluate", better, "--known", tmp_path / "more", "--unknown", faces)
    assert result.exit_code == 0, result.output
    # Its own calibration images: exactly the fraction floor(0.1 * 61 - 1) / 60 is rejected.
    assert "false alarms at alpha 0.1: 5 of 60" in result.stdout
    assert "of 2" in result.stdout
    assert "AUROC" in result.stdout
    error_line(invoke("evaluate", better, "--unknown", faces))
    assert "--known" in error_line(invoke("evaluate", better))


@pytest.mark.parametrize("wrong", [{"alpha": 1e-4}, {"trials": (1, 5)}, {"sources": ["nowhere"]}])
def test_a_call_can_be_corrected(shared_model, small_digits, tmp_path, wrong):
    write_images(tmp_path / "new", small_digits[2].images[:3])
    right = {"sources": [tmp_path / "new"], "out": tmp_path / "out.csv"}
    with pytest.raises(AttractorError, match=r"0\.0001|1 to 5|nowhere"):
        score_to_file(shared_model, **right | wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]  # no out.csv.part
    assert score_to_file(shared_model, **right).unscored == 0
