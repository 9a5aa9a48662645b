"""Reports on model files."""

import base64
import json
import re

import numpy as np
import pytest
from at_terminal import error_line, invoke
from small_models import make_model, make_run, write_images

from attractor_ae import AttractorError, Model, load, write_report
from attractor_ae.data import ImageFormat
from attractor_ae.deploy.attractors import find_attractors
from attractor_ae.deploy.evaluation import evaluate_model, evaluate_verdicts
from attractor_ae.deploy.model import make_thumbnails
from attractor_ae.deploy.report import model_part
from attractor_ae.deploy.verdicts import Verdict

FORM = ImageFormat(16)


@pytest.fixture(scope="module")
def file(shared_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "digits.model"
    shared_model.save(path)
    return path


@pytest.fixture(scope="module")
def folders(small_digits, tmp_path_factory):
    """Known digits in folders of their classes, and faces."""
    top = tmp_path_factory.mktemp("images")
    digits = small_digits[2]
    names = [f"{digits.classes[c]}/{i}.png" for i, c in enumerate(digits.labels)]
    write_images(top / "digits", digits.images, names)
    faces = load("faces", "test", per_class=15, image_format=FORM)
    write_images(top / "faces", faces.images)
    return top / "digits", top / "faces"


def numbers(path):
    """The steps of the threshold in a report."""
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.DOTALL)[1])


def test_a_model_alone_has_its_card_and_calibration(file, shared_model, tmp_path):
    path = write_report(file, tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    assert 'class="tile"' not in text
    assert "passed" in text
    assert "60 images of 10 classes" in text
    data = numbers(path)
    step = data["steps"].index("0.05")
    # Of 60 calibration images, three of 61 p-values are at most 0.05.
    assert data["expected"][step].startswith("4.9\N{NO-BREAK SPACE}% (")
    assert " %" not in text
    assert data["sets"] == []
    assert "score --together" not in text


def test_images_are_rejected_as_the_model_rejects_them(file, shared_model, folders, tmp_path):
    path = write_report([file], tmp_path / "report.html", images=folders)
    data = numbers(path)
    step = data["steps"].index("0.05")
    for folder, steps in zip(folders, data["sets"], strict=True):
        verdicts = list(shared_model.score_files(folder))
        assert steps[step][0] == sum(v.verdict == "unknown" for v in verdicts)
    text = path.read_text(encoding="utf-8")
    assert text.count('class="tile"') == text.count("data-detail=")
    assert {"digits", "faces"} <= set(re.findall(r"<h4>(\w+)", text))
    assert "confident mistakes" in text


def test_verdicts_per_class_are_mentioned(model, tmp_path):
    """The threshold ranks images together; with 120 + 130 calibration images, verdicts do not."""
    rows = np.random.default_rng(0).integers(60, size=250)
    model.values, model.predicted = model.values[..., rows], model.predicted[:, rows].clone()
    model.predicted[:, :120], model.predicted[:, 120:] = 0, 1
    model.save(tmp_path / "m.model")
    path = write_report(tmp_path / "m.model", tmp_path / "report.html")
    assert "score --together" in path.read_text(encoding="utf-8")


def test_nearest_images_are_shown_from_thumbnails(small_digits, folders, tmp_path):
    model = make_model(*small_digits[:2])
    model.thumbnails = make_thumbnails(small_digits[0].images)
    model.save(tmp_path / "m.model")
    path = write_report([tmp_path / "m.model"], tmp_path / "report.html", images=folders[:1])
    text = path.read_text(encoding="utf-8")
    assert re.search(r'alt="Training image of \d/\d+\.png"', text)  # the path, not the class


def test_the_auroc_is_that_of_evaluate(shared_model, folders):
    result = model_part(shared_model, "m", folders).result
    found = evaluate_model(shared_model, folders[0], folders[1])
    assert found.auroc == pytest.approx(result.rates(result.out_scores[0].name).auroc, abs=1e-12)
    # Scores that are equal after rounding are not.
    low, high = (Verdict("", "known", ood_score=0.9, statistic=t) for t in (1.0, 1.1))
    assert evaluate_verdicts(0.05, [low], [""], [high]).auroc == 1


def test_only_shown_thumbnails_are_decoded(small_digits, tmp_path, monkeypatch):
    images = small_digits[0]
    model = make_model(*small_digits[:2])
    model.thumbnails = make_thumbnails(images.images)
    model.save(tmp_path / "m.model")
    decoded, thumbnail = [], Model.thumbnail
    monkeypatch.setattr(Model, "thumbnail", lambda m, i: decoded.append(i) or thumbnail(m, i))
    monkeypatch.setattr("attractor_ae.reporting.report._SAMPLES", 2)
    write_report(tmp_path / "m.model", tmp_path / "report.html")
    assert sorted(decoded) == [i for c in range(10) for i in np.flatnonzero(images.labels == c)[:2]]


def test_a_folder_named_known_has_known_images(one_class_model, folders, small_digits, tmp_path):
    one_class_model.save(tmp_path / "m.model")
    write_images(tmp_path / "known", small_digits[2].images)
    images = [folders[1], tmp_path / "known"]
    path = write_report(tmp_path / "m.model", tmp_path / "report.html", images=images)
    text = path.read_text(encoding="utf-8")
    assert "<h3>Detection</h3>" in text
    assert re.search(r"<h4>known <[^>]*></span>", text)  # its role is not repeated
    assert re.search(r"<h4>faces <[^>]*>unknown</span>", text)


def test_with_one_class_images_have_a_p_value_alone(one_class_model, folders, tmp_path):
    one_class_model.save(tmp_path / "m.model")
    path = write_report(tmp_path / "m.model", tmp_path / "report.html", images=folders)
    text = path.read_text(encoding="utf-8")
    assert "60 images of 1 class<" in text
    assert re.search(r"<span>p-value", text)
    assert "digit, 100.0" not in text
    assert "Class probabilities" not in text


def test_images_of_unnamed_kinds_are_only_counted(file, folders, tmp_path):
    path = write_report([file], tmp_path / "report.html", images=[folders[1]])
    text = path.read_text(encoding="utf-8")
    assert "<h3>Detection</h3>" not in text
    assert "confident mistakes</p>" not in text
    (steps,) = numbers(path)["sets"]
    rejected, rate, low, high = np.array(steps).T
    assert (rate / 1000 == np.round(rejected / rejected[0], 3)).all()  # at first all are rejected
    assert ((low <= rate) & (rate <= high)).all()


def test_at_the_terminal(file, tmp_path):
    out = tmp_path / "made.html"
    result = invoke("report", file, "--out", out)
    assert result.exit_code == 0
    assert str(out) in result.stdout
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    missing = error_line(invoke("report", tmp_path / "nowhere.model", "--out", out))
    assert "nowhere.model: there is no such model file" in missing


@pytest.mark.slow
def test_attractors_are_a_part(file, folders, tmp_path):
    out = tmp_path / "attractors"
    found = find_attractors(file, out, folders)
    text = write_report([file, out], tmp_path / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'<figure>.*?base64,(.*?)" alt="', text)
    pictures = sorted(base64.b64decode(source) for source in sources)
    assert pictures == sorted(p.read_bytes() for p in out.iterdir() if p.suffix in {".png", ".gif"})
    (mask, entry), *_ = found["masks"].items()
    assert f"{mask} ({entry['number']})" in text
    (out / "attractors.json").write_text("{}")
    with pytest.raises(AttractorError, match=r"attractors.json: is damaged"):
        write_report(out, tmp_path / "report.html")


def test_a_run_with_attractors_in_its_folder_has_both_parts(tmp_path):
    run = make_run(tmp_path / "digits")
    (run.path / "attractors.json").write_text('{"source": "digits", "masks": {}}')
    text = write_report(run.path, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Attractors of digits" in text
    assert "10 classes, 1 epoch, seed" in text
    assert "<h3>Detection</h3>" in text


def test_images_need_a_model(tmp_path):
    with pytest.raises(AttractorError, match="give one"):
        write_report(tmp_path, tmp_path / "r.html", images=["faces"])
    with pytest.raises(AttractorError, match="at least one"):
        write_report([], tmp_path / "r.html")
