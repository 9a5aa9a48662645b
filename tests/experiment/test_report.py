"""The part of a report on an evaluated run."""

import re
import shutil

import numpy as np
import pytest
import torch

from attractor_ae import (
    ExperimentConfig,
    Run,
    load,
    load_detector,
    run_evaluation,
    train,
    write_report,
)
from attractor_ae.data import ImageFormat
from attractor_ae.experiment import evaluate as evaluation
from attractor_ae.experiment.report import run_part

FORM = ImageFormat(16)
SETTINGS = {
    "dataset": {
        "name": "mnist5k",
        "nbr_of_samples_per_class": 4,
        "calibration_fraction": 0.5,
        "image_size": 16,
    },
    "model": {"dimension": 8},
    "training": {"epochs": 1, "batch_size": 16, "loss": "mse"},
    "evaluation": {
        "recursions": 2,
        "recursion": 1,
        "trials": 2,
        "mask_scope": "trial",
        "nbr_of_samples_per_class": 3,
        "out_datasets": ["faces"],
        "score": "ood_score",
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    images = load("mnist5k", "train", per_class=4, image_format=FORM)
    folder = tmp_path_factory.mktemp("run") / "digits"
    run = train(ExperimentConfig.from_dict(SETTINGS), images, folder)
    with pytest.MonkeyPatch.context() as patch:  # figures take longer than the rest
        patch.setattr(evaluation, "_write_figures", lambda *_: None)
        run_evaluation(run.path)
    return run


@pytest.fixture(scope="module")
def text(run, tmp_path_factory):
    path = write_report(run.path, tmp_path_factory.mktemp("report") / "report.html")
    return path.read_text(encoding="utf-8")


def test_each_image_of_a_gallery_has_its_details(text):
    keys = re.findall(r'data-detail="([^"]+)"', text)
    assert len(keys) > 20
    assert set(keys) == set(re.findall(r'<template id="([^"]+)"', text))
    for place in (0, 1):
        assert any(key.startswith(f"part1-{place}-") for key in keys)
    assert text.count("Under mask 2: the input and 6 recursions") == len(set(keys))


def test_the_nearest_training_images_have_the_most_similar_codes(run, text):
    """At recursion 0, whose codes depend on nothing else."""
    detector = load_detector(run.detector_file)
    known = load("mnist5k", "test", per_class=3, image_format=FORM)
    order = np.argsort(detector.predict(known.images).numpy(), kind="stable")
    row = int(order[0])
    z = torch.stack([t.latents[0, row] for t in detector.trajectory(known.images, 1)])
    directions = torch.nn.functional.normalize(z, dim=-1).mean(0)
    alike = sorted((detector.known_[0].directions @ directions).tolist(), reverse=True)[:4]
    detail = text.split(f'<template id="part1-0-{row}">')[1].split("</template>")[0]
    shown = [float(value) for value in re.findall(r"cosine ([\d.-]+)", detail)]
    assert shown == pytest.approx(alike, abs=0.006)


def test_without_the_images_there_is_the_rest(run, tmp_path, monkeypatch):
    copy = Run(shutil.copytree(run.path, tmp_path / "copy"))
    result = run_evaluation(copy.path)
    experiment = result.provenance["experiment"]
    monkeypatch.setitem(experiment["evaluation"], "out_datasets", ["omniglot"])
    part = run_part("here", result, copy, data_root=tmp_path)
    assert "omniglot" in part.notes[0]
    assert not part.images
    assert part.calibration_images == 20
