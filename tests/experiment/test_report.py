"""The part of a report on an evaluated run."""

import re
import shutil

import numpy as np
import pytest
import torch
from small_models import FORM, make_run, write_images

from attractor_ae import Run, load, load_detector, run_evaluation, write_report
from attractor_ae.experiment.plan import make_plan
from attractor_ae.experiment.report import run_part


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "digits")


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


def test_own_sets_have_the_names_of_their_folders(run, tmp_path):
    images = load("faces", "test", per_class=4, image_format=FORM).images
    for place in ("one/new", "two/new", "old"):
        write_images(tmp_path / place, images[:3])
    config = run.config()

    def outs(*places):
        named = [str(tmp_path / place) for place in places]
        changed = config.evaluation.model_copy(update={"out_datasets": tuple(named)})
        plan = make_plan(config.model_copy(update={"evaluation": changed}))
        assert plan.load(plan.out[0]).name == plan.out[0].label
        return [planned.label.removeprefix(str(tmp_path)) for planned in plan.out]

    assert outs("one/new", "old") == ["new", "old"]
    assert outs("one/new", "two/new", "old") == ["/one/new", "/two/new", "old"]
