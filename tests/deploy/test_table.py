import csv
import io
import json
import os
import shutil
import signal
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


def test_images_are_found_as_for_training(tmp_path):
    """By content, and other formats with a reason; not what is no image."""
    Image.new("L", (9, 9)).save(tmp_path / "download", "PNG")
    (tmp_path / "drawing.svg").write_text("<svg/>")
    (tmp_path / "notes").write_text("words")
    (tmp_path / ".hidden").write_bytes((tmp_path / "download").read_bytes())
    names = ["download", "drawing.svg"]
    assert list(image_paths([tmp_path])) == [str(tmp_path / name) for name in names]


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
    monkeypatch.chdir(folder)
    with pytest.raises(KeyboardInterrupt):
        score_to_file(shared_model, ["digits"], tmp_path / "v.csv", reporter=Stop(1))
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
    reporter = Stop(1000)
    score_to_file(shared_model, [folder], out, reporter=reporter)
    assert reporter.seen[0] in (32, 40)  # and not 8
    assert out.read_bytes() == whole.read_bytes()
    assert not part.exists()


@pytest.mark.soak
def test_killed_at_random_moments(file, folder, tmp_path):
    """kill -9, twenty times: each image once, and the same file as without."""
    for copy in range(24):  # links, so that there is something to interrupt
        (tmp_path / "many" / str(copy)).mkdir(parents=True)
        for path in (folder / "digits").iterdir():
            (tmp_path / "many" / str(copy) / path.name).symlink_to(path)
    command = [sys.executable, "-m", "attractor_ae", "score", str(file), str(tmp_path / "many")]
    whole, out = tmp_path / "whole.csv", tmp_path / "v.csv"
    began = time.monotonic()
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True)
    took = time.monotonic() - began
    rng = np.random.default_rng(0)
    for _ in range(20):
        process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.2, 1) * took)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():
            break
    else:
        subprocess.run([*command, "--out", str(out)], check=True, capture_output=True)
    assert out.read_bytes() == whole.read_bytes()


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


def test_without_a_file_rows_go_to_the_terminal(file, folder):
    result = invoke("score", file, folder, "--scores")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 63
    assert "contrast@0" in result.stdout


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
    faces = folder / "faces"
    result = invoke("evaluate", better, "--known", tmp_path / "more", "--unknown", faces)
    assert result.exit_code == 0, result.output
    # Its own calibration images: exactly the fraction floor(0.1 * 61 - 1) / 60 is rejected.
    assert "false alarms at alpha 0.1: 5 of 60" in result.stdout
    assert "of 2" in result.stdout
    assert "AUROC" in result.stdout
    error_line(invoke("evaluate", better, "--unknown", faces))
    assert "--known" in error_line(invoke("evaluate", better))
