import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from attractor_ae import ExperimentConfig, Run, load, run_training
from attractor_ae._errors import AttractorError
from attractor_ae._reporter import Reporter
from attractor_ae.experiment import sweep as sweep_module
from attractor_ae.experiment.sweep import (
    Job,
    find_runs,
    parse_seeds,
    seed_jobs,
    slots_of_worker,
    sweep,
)

# Real digits, made small: an epoch takes milliseconds.
SETTINGS = {
    "dataset": {"name": "mnist5k", "nbr_of_samples_per_class": 4, "image_size": 16},
    "model": {"dropout": 0.0},
    "training": {"epochs": 1, "batch_size": 64, "loss": "mse", "device": "cpu"},
}
# So long that a process can be found while it runs.
LONG = {"epochs": 60, "checkpoint_interval": 5}


def config(**training):
    return ExperimentConfig.from_dict(
        {**SETTINGS, "training": {**SETTINGS["training"], **training}}
    )


def plain(job, folder, threads=1):
    """Train without a sweep, with the threads of a child."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return run_training(job.config, folder)
    finally:
        torch.set_num_threads(before)


def same_weights(a, b):
    a, b = load_file(a.weights_file), load_file(b.weights_file)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def log(job):
    path = Run(job.folder).log_file
    return path.read_text() if path.exists() else ""


def process_of(job):
    """Return the process id of the training of a job; None if there is none."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "--resume" in words and str(job.folder) in words:
            return process.pid
    return None


class Notes(Reporter):
    def __init__(self):
        self.notes, self.steps = [], []

    def note(self, line):
        self.notes.append(line)

    def progress(self, task, done, total, detail="", seconds_left=None):
        self.steps.append((done, total, seconds_left))


class Meanwhile(threading.Thread):
    """Does something as soon as it can be done while a sweep runs."""

    def __init__(self, ready, act, times=1):
        super().__init__(daemon=True)
        self.ready, self.act, self.times, self.over = ready, act, times, False

    def run(self):
        while self.times and not self.over:
            if (found := self.ready()) is not None:
                self.act(found)
                self.times -= 1
            time.sleep(0.02)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over = True
        self.join()


# Seeds


@given(st.sets(st.integers(0, 300), min_size=1))
def test_ranges_name_the_seeds_between_their_ends(seeds):
    parts, ordered = [], sorted(seeds)
    while ordered:
        first = last = ordered.pop(0)
        while ordered and ordered[0] == last + 1:
            last = ordered.pop(0)
        parts.append(f"{first}-{last}" if last > first else f" {first}")
    assert parse_seeds(",".join(parts)) == tuple(sorted(seeds))


@given(st.text("0123456789-, ²x", max_size=20))
def test_any_text_is_seeds_or_one_line(text):
    with suppress(AttractorError):
        seeds = parse_seeds(text)
        assert len(seeds) > 0
        assert all(str(seed) in text or "-" in text for seed in seeds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "seeds '': '' must have the form 3 or 0-9"),
        ("1,-2", "'-2' must have the form 3 or 0-9"),
        ("²", "must have the form"),
        ("9-0", "'9-0' ends before it begins"),
        ("0-99999999999", "more than 10000"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(AttractorError, match=message):
        parse_seeds(text)


def test_each_seed_has_a_folder_of_its_own(tmp_path):
    jobs = seed_jobs(config(seed=7), (3, 10), tmp_path)
    assert [job.folder for job in jobs] == [tmp_path / "seed3", tmp_path / "seed10"]
    assert [job.config for job in jobs] == [config(seed=3), config(seed=10)]
    with pytest.raises(AttractorError, match="seed 3"):
        seed_jobs(config(), parse_seeds("0-4,3"), tmp_path)
    with pytest.raises(AttractorError, match=r"training.seed = -1"):
        seed_jobs(config(), (-1,), tmp_path)
    with pytest.raises(AttractorError, match="seed"):
        seed_jobs(config(), (), tmp_path)


# Sweeps on this machine


@pytest.mark.slow
def test_a_failed_run_ends_no_other_and_finished_ones_are_skipped(tmp_path, monkeypatch):
    good = seed_jobs(config(), (2, 10), tmp_path / "runs")
    bad = [
        Job(config(learning_rate=1e30, epochs=3), tmp_path / "runs" / "diverges"),
        Job(ExperimentConfig.from_dict({"dataset": {"name": "svhn"}}), tmp_path / "other" / "none"),
    ]
    reporter = Notes()
    report = sweep([bad[0], *good, bad[1]], data_root=tmp_path, workers=4, reporter=reporter)
    assert report.finished == tuple(good)
    assert report.skipped == ()
    assert [failure.job for failure in report.failed] == bad
    assert "training.learning_rate" in report.failed[0].error
    assert "svhn" in report.failed[1].error
    for failure in report.failed:
        assert failure.error in failure.log.read_text()
        assert len(failure.error.splitlines()) == 1

    assert [done for done, *_ in reporter.steps] == [1, 2, 3, 4]
    assert reporter.steps[-1][1:] == (4, 0)
    assert len(reporter.notes) == 2
    for job in bad:
        assert any(str(job.folder) in note for note in reporter.notes)

    for job in good:
        assert same_weights(Run(job.folder), plain(job, tmp_path / "plain" / job.folder.name))
    states = json.loads((tmp_path / "runs" / "sweep.json").read_text())["runs"]
    assert list(states) == ["diverges", "seed2", "seed10"]
    assert states["seed2"] == {"state": "finished"}
    assert states["diverges"] == {"state": "failed", "error": report.failed[0].error}

    with pytest.raises(AttractorError, match="diverges"):
        find_runs(tmp_path / "runs")
    assert [run.path.name for run in find_runs(tmp_path / "runs" / "seed*")] == ["seed2", "seed10"]

    monkeypatch.setattr(sweep_module, "_Child", None)
    assert sweep(good).skipped == tuple(good)


@pytest.mark.parametrize(
    ("cores", "workers", "jobs", "limit", "expected"),
    [(8, None, 4, "", (4, 2)), (8, 16, 4, "0", (4, 2)), (8, 3, 4, "4", (3, 2)),
     (2, None, 9, "2", (2, 1)), (2, 4, 4, "2,1", (4, 1)), (3, 1, 2, "", (1, 3)),
     (8, 2, 4, "3", (2, 3)), (3, 1, 2, "1", (1, 1))],
)  # fmt: skip
def test_cores_are_divided_among_the_workers(cores, workers, jobs, limit, expected, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cores), raising=False)
    listed = seed_jobs(config(), range(jobs), "runs")
    assert sweep_module._local_workers(listed, workers) == expected


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_trained_and_a_second_call_continues(tmp_path):
    # No checkpoint comes before the end, but that of the interruption.
    jobs = seed_jobs(config(epochs=30, checkpoint_interval=1000), range(2), tmp_path / "runs")
    met, reporter = [], Notes()

    def press(job):
        met.append(job)
        os.kill(os.getpid(), signal.SIGINT)

    with (
        Meanwhile(lambda: next((job for job in jobs if "epoch 2 of" in log(job)), None), press),
        pytest.raises(KeyboardInterrupt),
    ):
        sweep(jobs, workers=1, reporter=reporter)
    assert len(reporter.notes) == 1
    [job] = met
    assert Run(job.folder).checkpoint_file.exists()
    assert "interrupted after epoch" in log(job)
    assert process_of(job) is None
    assert not jobs[1].folder.exists()
    with pytest.raises(AttractorError, match="seed"):
        find_runs(tmp_path / "runs")

    assert sweep(jobs, workers=1).finished == tuple(jobs)
    assert log(job).count("training from epoch 1 ") == 1
    assert log(job).count("training from epoch ") == 2
    threads = sweep_module._local_workers(jobs, 1)[1]
    assert same_weights(Run(job.folder), plain(job, tmp_path / "plain", threads))


@pytest.mark.soak
def test_a_run_whose_process_is_killed_again_and_again_ends_no_other(tmp_path):
    jobs = seed_jobs(config(**LONG), range(3), tmp_path)
    killed = []

    def next_victim():
        process = process_of(jobs[1])
        return process if process not in killed else None

    def kill(process):
        killed.append(process)
        os.kill(process, signal.SIGKILL)

    with Meanwhile(next_victim, kill, times=2):
        report = sweep(jobs, workers=2)
    assert len(killed) == 2
    assert report.finished == (jobs[0], jobs[2])
    [failure] = report.failed
    assert failure.job == jobs[1]
    assert len(failure.error.splitlines()) == 1
    assert failure.error in failure.log.read_text()


@pytest.mark.soak
def test_a_run_whose_process_is_killed_once_goes_on_from_its_checkpoint(tmp_path):
    [job] = seed_jobs(config(**LONG), (0,), tmp_path / "runs")

    def ready():
        return process_of(job) if Run(job.folder).checkpoint_file.exists() else None

    with Meanwhile(ready, lambda process: os.kill(process, signal.SIGKILL)):
        assert sweep([job], workers=1).finished == (job,)
    begins = [line for line in log(job).splitlines() if "training from epoch" in line]
    assert len(begins) == 2
    threads = sweep_module._local_workers([job], 1)[1]
    assert same_weights(Run(job.folder), plain(job, tmp_path / "plain", threads))


@pytest.mark.soak
def test_the_trainings_of_a_killed_sweep_end(tmp_path):
    jobs = seed_jobs(config(epochs=100_000), range(2), tmp_path)
    toml = tmp_path / "config.toml"
    toml.write_text(jobs[0].config.to_toml())
    command = ["-m", "attractor_ae", "sweep", toml, "--seeds", "0-1", "--out", tmp_path]
    parent = subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    children = []
    while len(children) < 2:
        assert parent.poll() is None
        children = [p for job in jobs if "epoch 2 of" in log(job) and (p := process_of(job))]
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    for _ in range(200):
        if not any(psutil.pid_exists(child) for child in children):
            break
        time.sleep(0.05)
    assert [process_of(job) for job in jobs] == [None, None]
    assert all(Run(job.folder).checkpoint_file.exists() for job in jobs)


# What is refused before anything starts


def test_jobs_must_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = [Job(config(seed=0), Path("run")), Job(config(seed=1), tmp_path / "x" / ".." / "run")]
    with pytest.raises(AttractorError, match="run: two jobs"):
        sweep(jobs)
    with pytest.raises(AttractorError, match="job"):
        sweep([])
    assert not list(tmp_path.iterdir())


def test_a_folder_with_another_experiment_is_left_alone(tmp_path):
    job = Job(config(), tmp_path / "run")
    plain(job, job.folder)
    other = [Job(config(), tmp_path / "new"), Job(config(epochs=2), job.folder)]
    with pytest.raises(AttractorError, match=r"training.epochs = 1, not 2"):
        sweep(other)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "dusk"}, "unknown backend 'dusk'; did you mean 'dask'"),
        ({"workers": 0}, "workers = 0"),
        ({"scheduler": "tcp://localhost:1"}, "scheduler"),
        ({"backend": "dask"}, "scheduler"),
        ({"backend": "dask", "scheduler": "x", "workers": 2}, "workers"),
        ({"backend": "dask", "scheduler": "x", "resources": {"GPU": 0.0}}, "resource GPU = 0"),
        ({"backend": "dask", "scheduler": "nonsense://localhost"}, "nonsense://localhost"),
        ({"backend": "dask", "scheduler": "tcp://127.0.0.1:1"}, "start one, run: dask scheduler"),
    ],
)
def test_workers_that_are_not_available_are_one_line(tmp_path, settings, message, monkeypatch):
    monkeypatch.setattr(sweep_module, "CONNECT_SECONDS", 0.3)
    with pytest.raises(AttractorError, match=message) as caught:
        sweep(seed_jobs(config(), (0, 1), tmp_path), **settings)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(AttractorError, match=r"pip install 'attractor-ae\[cluster\]'"):
        sweep(seed_jobs(config(), (0,), tmp_path), backend="dask", scheduler="tcp://localhost:1")


def test_a_file_that_is_not_a_sweep_is_not_overwritten(tmp_path):
    (tmp_path / "sweep.json").write_text("[1, 2]")
    with pytest.raises(AttractorError, match="sweep.json"):
        sweep(seed_jobs(config(), (0,), tmp_path))
    with pytest.raises(AttractorError, match="sweep.json"):
        find_runs(tmp_path)
    assert (tmp_path / "sweep.json").read_text() == "[1, 2]"


# A cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, own_cache):
    from distributed import LocalCluster

    with LocalCluster(
        processes=True,
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=":0",  # with None it is port 8787, which may be taken
        resources={"GPU": 1},
        local_directory=str(tmp_path_factory.mktemp("cluster")),
    ) as running:
        yield running


@pytest.mark.soak
def test_the_runs_of_a_killed_worker_go_on_elsewhere(cluster, tmp_path):
    jobs = seed_jobs(config(**LONG), range(4), tmp_path / "runs")
    killed = []

    def busy():
        return next((job for job in jobs if Run(job.folder).checkpoint_file.exists()
                     and process_of(job)), None)  # fmt: skip

    def kill(job):
        killed.append(job)
        os.kill(psutil.Process(process_of(job)).ppid(), signal.SIGKILL)

    with Meanwhile(busy, kill):
        report = sweep(jobs, backend="dask", scheduler=cluster.scheduler_address)
    assert report.failed == ()
    assert report.finished == tuple(jobs)
    [job] = killed
    begins = [
        line.split("from epoch ")[1] for line in log(job).splitlines() if "from epoch" in line
    ]
    assert begins[0].startswith("1 ")
    assert int(begins[1].split()[0]) > 5
    assert same_weights(Run(job.folder), plain(job, tmp_path / "plain"))
    assert find_runs(tmp_path / "runs") == [Run(job.folder) for job in jobs]


@pytest.mark.slow
def test_a_cluster_reports_failures_and_stops_at_ctrl_c(cluster, tmp_path):
    jobs = seed_jobs(config(epochs=100_000), range(3), tmp_path)
    bad = Job(config(learning_rate=1e30, epochs=3), tmp_path / "diverges")
    met, reporter = [], Notes()

    def begun():
        """Any of them: a cluster begins jobs in an order of its own."""
        busy = next((job for job in jobs if "epoch 2 of" in log(job)), None)
        return busy if reporter.notes else None

    def press(job):
        met.append(job)
        os.kill(os.getpid(), signal.SIGINT)

    with Meanwhile(begun, press), pytest.raises(KeyboardInterrupt):
        sweep(
            [bad, *jobs],
            backend="dask",
            scheduler=cluster.scheduler_address,
            resources={"GPU": 1.0},
            reporter=reporter,
        )
    assert "training.learning_rate" in reporter.notes[0]
    [job] = met
    assert Run(job.folder).checkpoint_file.exists()
    assert process_of(job) is None


@pytest.mark.slow  # only a worker has a current folder of its own
def test_relative_paths_are_those_of_the_sweep_on_a_worker_elsewhere(
    cluster, tmp_path, monkeypatch
):
    images = load("mnist5k", "train", per_class=4)
    for i, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
        path = tmp_path / "data" / "pets" / str(label % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    monkeypatch.chdir(tmp_path / "data")
    # A file of the user with the name of a module of Python.
    (tmp_path / "data" / "random.py").write_text("raise ImportError('not mine')")
    values = {**SETTINGS, "dataset": {"name": "pets", "image_size": 16}}
    jobs = seed_jobs(ExperimentConfig.from_dict(values), (0,), "runs")
    report = sweep(jobs, backend="dask", scheduler=cluster.scheduler_address)
    assert report.finished == tuple(jobs)
    assert Run(tmp_path / "data" / "runs" / "seed0").finished


@pytest.mark.slow
def test_runs_that_share_a_worker_do_not_disturb_each_other(tmp_path):
    from distributed import LocalCluster

    jobs = seed_jobs(config(), range(2), tmp_path / "runs")
    with LocalCluster(
        processes=False,
        n_workers=1,
        threads_per_worker=4,
        dashboard_address=":0",
        resources={"GPU": 1},
    ) as shared:
        report = sweep(
            jobs, backend="dask", scheduler=shared.scheduler_address, resources={"GPU": 0.5}
        )
    assert report.finished == tuple(jobs)
    for job in jobs:
        assert same_weights(Run(job.folder), plain(job, tmp_path / "plain" / job.folder.name))


@pytest.mark.slow
def test_resources_that_no_worker_has_are_named(cluster, tmp_path):
    with pytest.raises(AttractorError, match="TPU=0.5"):
        sweep(
            seed_jobs(config(), (0,), tmp_path),
            backend="dask",
            scheduler=cluster.scheduler_address,
            resources={"TPU": 0.5},
        )


@pytest.mark.slow
def test_a_cluster_without_workers_is_one_line(tmp_path, monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(sweep_module, "WORKER_SECONDS", 0.3)
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as empty:
        address = empty.scheduler_address
        with pytest.raises(AttractorError, match="dask worker "):
            sweep(seed_jobs(config(), (0,), tmp_path), backend="dask", scheduler=address)


@pytest.mark.parametrize(
    ("threads", "offers", "needs", "slots"),
    [
        (4, {}, {}, 4),
        (4, {"GPU": 1.0}, {"GPU": 0.25}, 4),
        (2, {"GPU": 1.0}, {"GPU": 0.25}, 2),
        (8, {"GPU": 0.3}, {"GPU": 0.1}, 3),
        (8, {"GPU": 2.0, "memory": 50}, {"GPU": 0.5, "memory": 20}, 2),
        (8, {"memory": 50}, {"GPU": 0.5}, 0),
    ],
)
def test_the_scarcest_resource_decides_how_many_runs_a_worker_trains(threads, offers, needs, slots):
    class State:
        nthreads = threads
        total_resources = offers

    class Worker:
        state = State

    assert slots_of_worker(needs, Worker) == slots


# Finding runs


@pytest.fixture
def some(tmp_path, monkeypatch):
    """Folders of runs in which nothing was trained, and other files next to them."""
    monkeypatch.chdir(tmp_path)
    for parent, seeds in {"a": (10, 2, 1), "b": (0,)}.items():
        for seed in seeds:
            run = Run(Path(parent) / f"seed{seed}")
            run.path.mkdir(parents=True)
            run.config_file.touch()
            run.weights_file.touch()
    (tmp_path / "a" / "notes.txt").touch()
    sweep_module._write_states([Path("a") / f"seed{seed}" for seed in (10, 2, 1)], {})
    return tmp_path


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["a"], ["a/seed1", "a/seed2", "a/seed10"]),
        (["a/*"], ["a/seed1", "a/seed2", "a/seed10"]),
        (["a/seed10", "a/seed2"], ["a/seed2", "a/seed10"]),
        (["b/*", "a", "a/seed[12]"], ["a/seed1", "a/seed2", "a/seed10", "b/seed0"]),
        (["**"], ["a/seed1", "a/seed2", "a/seed10", "b/seed0"]),
    ],
)
def test_runs_are_found_once_and_in_natural_order(some, places, names):
    assert [str(run.path) for run in find_runs(*places)] == names


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([], "give at least one run folder"),
        (["c"], "c: there is no run"),
        (["c*"], r"c\*: there is no run"),
        (["b"], r"b: is neither a run nor a sweep .* give 'b/\*'"),
        (["a/notes.txt"], "notes.txt: no such run folder"),
    ],
)
def test_other_places_are_refused(some, places, message):
    with pytest.raises(AttractorError, match=message):
        find_runs(*places)


def test_an_unfinished_run_is_refused(some):
    (some / "a" / "seed2" / "weights.safetensors").unlink()
    with pytest.raises(AttractorError, match="a/seed2: its training is not finished; repeat the"):
        find_runs("a")
    with pytest.raises(AttractorError, match="a/seed2: its training is not finished; to finish it"):
        find_runs("a/*")


def test_a_folder_whose_name_looks_like_a_glob_is_a_folder(some):
    (some / "a").rename(some / "a[1]")
    assert len(find_runs("a[1]")) == 3
