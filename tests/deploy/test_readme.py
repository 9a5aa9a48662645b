"""The quick start of README, word for word, in a folder with a few images."""

import csv
import shlex
from pathlib import Path

import numpy as np
import pytest
from at_terminal import invoke
from PIL import Image

from attractor_ae import load
from attractor_ae.conformal import false_alarm_rate, least_calibration
from attractor_ae.data import ImageFormat

ROOT = Path(__file__).parents[2]


def quick_start():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Quick start")[1].split("\n## ")[0]
    lines = [line.strip() for line in section.splitlines()]
    commands = [line for line in lines if line.startswith("attractor-ae ")]
    return [shlex.split(line, comments=True)[1:] for line in commands], section


@pytest.mark.slow  # trains in both spaces
def test_the_quick_start_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Only the training is shorter.
    monkeypatch.setattr("attractor_ae.training.loop._STEPS", 4)
    monkeypatch.setattr("attractor_ae.deploy.fit._FEATURE_EPOCHS", 2)
    monkeypatch.setattr("attractor_ae.deploy.fit._FEWEST", 2)
    images = load("specimens", "train", image_format=ImageFormat(64, 3))
    for i, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
        folder = Path("new" if i % 6 == 0 else f"parts/{images.classes[label]}")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.moveaxis(image, 0, 2)).save(folder / f"{i}.jpg")
    Path("new/empty.png").touch()
    (fit, score), section = quick_start()
    for words in (fit, score):
        result = invoke(*words)
        assert result.exit_code == 0, result.output
    text = Path("verdicts.csv").read_text()
    assert text.splitlines()[0] in section
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == sum(1 for _ in Path("new").iterdir())
    assert [row["path"] for row in rows if row["verdict"] == "unscored"] == ["new/empty.png"]
    assert all(Path("parts", row["nearest"]).is_file() for row in rows if row["nearest"])


def test_the_table_of_rates():
    page = (ROOT / "docs/verdicts.md").read_text(encoding="utf-8")
    for n in (19, 60, 112, 500):
        mean, low, high = (f"{100 * rate:.1f}" for rate in false_alarm_rate(0.05, n))
        assert f"| {n} | {mean} % | {low} to {high} % |" in page
        assert least_calibration(1 / (n + 1)) == n
