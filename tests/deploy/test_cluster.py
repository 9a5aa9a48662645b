"""Scoring on a cluster, which is one of threads here."""

import errno
import os
import shutil

import pytest
from at_terminal import error_line, invoke
from small_models import write_images

from attractor_ae import AttractorError
from attractor_ae._reporter import Reporter
from attractor_ae.deploy import cluster as cluster_module
from attractor_ae.deploy.cluster import _result
from attractor_ae.deploy.table import score_to_file
from attractor_ae.deploy.verdicts import UNSCORED, Verdict


@pytest.fixture(scope="module")
def address():
    from distributed import LocalCluster

    settings = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": ":0"}
    with LocalCluster(processes=False, **settings) as running:
        yield running.scheduler_address


@pytest.fixture
def new(small_digits, tmp_path, monkeypatch):
    """Sixty digits, one with a name that is not UTF-8, and files that cannot be read."""
    for name in ("table", "model"):
        monkeypatch.setattr(f"attractor_ae.deploy.{name}.CHUNK", 8)
    paths = write_images(tmp_path / "new" / "digits", small_digits[2].images)
    shutil.move(paths[3], tmp_path / "new" / os.fsdecode(b"caf\xe9.png"))
    (tmp_path / "new" / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "new" / "nowhere.png").symlink_to("missing")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "new"


class Stop(Reporter):
    """Interrupts after a number of images."""

    def __init__(self, after):
        self.after, self.seen = after, []

    def progress(self, task, done, total, *_):
        self.seen.append(done)
        assert total == 62
        if done >= self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("source", ["new", "new/digits/../*/*.png"])
def test_the_file_is_that_of_this_machine(shared_model, new, address, monkeypatch, source):
    """Also for relative paths, and the model is loaded once."""
    loads, load_model = [], cluster_module.load_model
    monkeypatch.setattr(cluster_module, "load_model", lambda p: loads.append(p) or load_model(p))
    cluster_module._loaded.cache_clear()
    shared = {"parts": True, "fdr": 0.5}
    here = score_to_file(shared_model, [source], "here.csv", **shared)
    there = score_to_file(
        shared_model, [source], "there.csv", backend="dask", scheduler=address, **shared
    )
    assert (new.parent / "there.csv").read_bytes() == (new.parent / "here.csv").read_bytes()
    assert there == here
    assert here.unscored == (2 if source == "new" else 0)
    assert len(loads) == 1


def test_an_interrupted_call_continues(shared_model, new, address):
    """On the cluster or here: rows are in the order of the images."""
    score_to_file(shared_model, ["new"], "whole.csv")
    shared = {"backend": "dask", "scheduler": address}
    with pytest.raises(KeyboardInterrupt):
        score_to_file(shared_model, ["new"], "v.csv", reporter=Stop(16), **shared)
    with pytest.raises(KeyboardInterrupt):
        score_to_file(shared_model, ["new"], "v.csv", reporter=Stop(32))
    reporter = Stop(1000)
    score_to_file(shared_model, ["new"], "v.csv", reporter=reporter, **shared)
    assert reporter.seen[0] > 24
    assert (new.parent / "v.csv").read_bytes() == (new.parent / "whole.csv").read_bytes()


def test_images_that_only_this_machine_has_stop_the_call(tmp_path):
    """A file that is missing everywhere has a row."""

    class Done:
        def result(self):
            return [Verdict(str(path), UNSCORED, reason=os.strerror(errno.ENOENT))]

    path = tmp_path / "1.png"
    assert _result(Done()) == Done().result()
    path.touch()
    with pytest.raises(AttractorError, match=r"1\.png.*share"):
        _result(Done())


def test_a_model_that_a_worker_cannot_load_is_one_line(shared_model, new, address, monkeypatch):
    def load_model(path):
        raise AttractorError("needs the extractor")

    monkeypatch.setattr(cluster_module, "load_model", load_model)
    cluster_module._loaded.cache_clear()
    shared = {"backend": "dask", "scheduler": address}
    with pytest.raises(AttractorError, match="needs the extractor"):
        score_to_file(shared_model, ["new"], "v.csv", **shared)
    monkeypatch.setattr(cluster_module, "load_model", lambda path: 1 / 0)
    with pytest.raises(AttractorError, match="division by zero"):
        score_to_file(shared_model, ["new"], "v.csv", **shared)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--backend", "dusk", "--out", "v.csv"], "'dask'"),
        (["--backend", "dask", "--out", "v.csv"], "address"),
        (["--scheduler", "tcp://localhost:1", "--out", "v.csv"], "backend"),
        (["--backend", "dask", "--scheduler", "tcp://localhost:1"], "--out"),
    ],
)
def test_impossible_settings_are_one_line(shared_model, new, options, word):
    shared_model.save("digits.model")
    assert word in error_line(invoke("score", "digits.model", "new", *options))
    assert not list(new.parent.glob("*.part"))
