import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from attractor_ae.experiment.workers import Outcome, Workers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from attractor_ae import ExperimentConfig, Run, run_training
from attractor_ae import sweep as sweep_module
from attractor_ae._errors import AttractorError
from attractor_ae.experiment import sweep_folder, workers
from attractor_ae.experiment.sweep import Job, find_runs, parse_seeds, seed_jobs, sweep

# Real digits, made small: an epoch takes milliseconds.
SETTINGS = {
    "dataset": {"name": "mnist5k", "nbr_of_samples_per_class": 4, "image_size": 16},
    "model": {"dropout": 0.0},
    "training": {"epochs": 1, "batch_size": 64, "loss": "mse", "device": "cpu"},
}
# So long that it can be met while it runs.
LONG = {"epochs": 40, "checkpoint_interval": 5}


def config(**training):
    return ExperimentConfig.from_dict(
        {**SETTINGS, "training": {**SETTINGS["training"], **training}}
    )


def plain(job, folder):
    """Train as without a sweep, with the one thread that each of two workers on two cores has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
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


def processes(job):
    """Process ids of those that have worked on a job, in order."""
    return [
        int(line.split("process ")[1].split()[0])
        for line in log(job).splitlines()
        if "process" in line
    ]


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
            time.sleep(0.01)

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
        assert len(set(seeds)) == len(seeds) > 0
        assert all(str(seed) in text or "-" in text for seed in seeds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "seeds '': '' must read like 3 or 0-9"),
        ("1,-2", "'-2' must read like 3 or 0-9"),
        ("²", "must read like"),
        ("9-0", "'9-0' ends before it begins"),
        ("0-4,3", "3 is named twice"),
        ("0-99999999999", "more than 10000"),
    ],
)
def test_what_is_no_seeds_is_told(text, message):
    with pytest.raises(AttractorError, match=message):
        parse_seeds(text)


def test_each_seed_has_a_folder_of_its_own(tmp_path):
    jobs = seed_jobs(config(seed=7), (3, 10), tmp_path)
    assert [job.folder for job in jobs] == [tmp_path / "seed3", tmp_path / "seed10"]
    assert [job.config for job in jobs] == [config(seed=3), config(seed=10)]
    with pytest.raises(AttractorError, match="seed 3 is named twice"):
        seed_jobs(config(), (3, 3), tmp_path)
    with pytest.raises(AttractorError, match=r"seed -1: training.seed = -1: should be"):
        seed_jobs(config(), (-1,), tmp_path)
    with pytest.raises(AttractorError, match="at least one seed"):
        seed_jobs(config(), (), tmp_path)


# Sweeps on this machine


def test_a_failed_run_ends_no_other_and_finished_ones_are_skipped(tmp_path, monkeypatch):
    good = seed_jobs(config(), (2, 10), tmp_path / "runs")
    bad = [
        Job(config(learning_rate=1e30, epochs=3), tmp_path / "runs" / "diverges"),
        Job(ExperimentConfig.from_dict({"dataset": {"name": "svhn"}}), tmp_path / "other" / "none"),
    ]
    told = []
    report = sweep([bad[0], *good, bad[1]], data_root=tmp_path, workers=2, on_progress=told.append)
    assert report.finished == tuple(good)
    assert report.skipped == ()
    assert [failure.job for failure in report.failed] == bad
    assert "lower training.learning_rate" in report.failed[0].error
    assert "svhn" in report.failed[1].error
    for failure in report.failed:
        assert failure.error in failure.log.read_text()

    assert [at.done for at in told] == [1, 2, 3, 4]
    assert {at.total for at in told} == {4}
    assert {at.job.folder for at in told if at.error} == {job.folder for job in bad}
    assert told[-1].seconds_left == 0

    for job in good:
        assert same_weights(Run(job.folder), plain(job, tmp_path / "plain" / job.folder.name))
        assert os.getpid() not in processes(job)
    states = json.loads((tmp_path / "runs" / "sweep.json").read_text())["runs"]
    assert list(states) == ["diverges", "seed2", "seed10"]
    assert states["seed2"] == {"state": "finished"}
    assert states["diverges"] == {"state": "failed", "error": report.failed[0].error}
    assert not list(tmp_path.rglob(".sweep*"))

    with pytest.raises(AttractorError, match="diverges: its training is not finished .the loss"):
        find_runs(tmp_path / "runs")
    assert [run.path.name for run in find_runs(tmp_path / "runs" / "seed*")] == ["seed2", "seed10"]

    monkeypatch.setattr(workers, "train_task", None)
    monkeypatch.setattr(workers, "Parallel", None)
    told.clear()
    assert sweep(good, on_progress=told.append).skipped == tuple(good)
    assert told == []


def test_one_worker_is_this_process_and_its_threads_are_given_back(tmp_path, monkeypatch):
    jobs = seed_jobs(config(), (0, 1), tmp_path)
    monkeypatch.setattr(sweep_module, "cpu_count", lambda: 3)
    before = torch.get_num_threads()
    assert sweep(jobs[:1]).finished == (jobs[0],)
    assert sweep(jobs, workers=1).finished == (jobs[1],)
    assert torch.get_num_threads() == before
    for job in jobs:
        assert processes(job) == [os.getpid()]
        environment = json.loads(Run(job.folder).environment_file.read_text())
        assert environment["threads"] == 3
    states = json.loads((tmp_path / "sweep.json").read_text())["runs"]
    assert states == {"seed0": {"state": "finished"}, "seed1": {"state": "finished"}}


def test_threads_depend_on_the_jobs_and_not_on_how_many_of_them_wait(tmp_path, monkeypatch):
    """A run that goes on must have the threads that it began with, to have the same weights."""
    given_to = []

    def local_workers(number, threads):
        given_to.append((number, threads))
        return Workers(number, lambda tasks: (Outcome(task.index, "failed", "-") for task in tasks))

    monkeypatch.setattr(sweep_module, "cpu_count", lambda: 8)
    monkeypatch.setattr(sweep_module, "local_workers", local_workers)
    jobs = seed_jobs(config(), range(4), tmp_path)
    sweep(jobs)
    for job in jobs[:3]:
        plain(job, job.folder)
    sweep(jobs)
    sweep(jobs, workers=16)
    sweep(jobs, workers=3)
    assert given_to == [(4, 2), (1, 2), (1, 2), (1, 2)]


def test_an_error_that_nobody_expected_has_its_traceback_in_the_log(tmp_path, monkeypatch):
    def run_training(*_, **__):
        raise ValueError("a defect\nof two lines")

    monkeypatch.setattr(workers, "run_training", run_training)
    [failure] = sweep(seed_jobs(config(), (0,), tmp_path)).failed
    assert failure.error == "ValueError: a defect of two lines"
    assert "Traceback" in failure.log.read_text()
    assert 'raise ValueError("a defect' in failure.log.read_text()


@pytest.mark.parametrize("number", [1, 2])
def test_ctrl_c_keeps_what_was_trained_and_a_second_call_goes_on(tmp_path, number, monkeypatch):
    # With one worker, too, the threads of the plain training.
    monkeypatch.setattr(sweep_module, "cpu_count", lambda: number)
    # No checkpoint comes before the end, but that of the interruption.
    jobs = seed_jobs(config(epochs=400, checkpoint_interval=1000), range(3), tmp_path / "runs")
    met, told = [], []

    def press(job):
        met.append(job)
        os.kill(os.getpid(), signal.SIGINT)

    with (
        Meanwhile(lambda: next((job for job in jobs if "epoch 2 of" in log(job)), None), press),
        pytest.raises(KeyboardInterrupt),
    ):
        sweep(jobs, workers=number, on_interrupt=lambda: told.append("stopping"))
    assert told == ["stopping"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    [job] = met
    assert Run(job.folder).checkpoint_file.exists()
    assert "interrupted after epoch" in log(job)
    assert not jobs[2].folder.exists()
    with pytest.raises(AttractorError, match="seed[01]: its training is not finished; call the"):
        find_runs(tmp_path / "runs")

    assert sweep(jobs, workers=number).finished == tuple(jobs)
    assert log(job).count("training from epoch 1 ") == 1
    assert log(job).count("training from epoch ") == 2
    assert same_weights(Run(job.folder), plain(job, tmp_path / "plain"))


def test_a_run_whose_process_dies_again_and_again_ends_no_other(tmp_path):
    jobs = seed_jobs(config(**LONG), range(3), tmp_path)
    killed = []

    def next_victim():
        return next((pid for pid in processes(jobs[1]) if pid not in killed), None)

    def kill(pid):
        killed.append(pid)
        os.kill(pid, signal.SIGKILL)

    with Meanwhile(next_victim, kill, times=2):
        report = sweep(jobs, workers=2)
    assert len(killed) == 2
    assert report.finished == (jobs[0], jobs[2])
    [failure] = report.failed
    assert failure.job == jobs[1]
    assert failure.error.startswith("its process died, alone as well")
    assert len(failure.error.splitlines()) == 1
    assert failure.error in failure.log.read_text()


def test_a_training_that_nobody_wants_any_more_stops(tmp_path):
    """As those of a sweep that was killed, which took no file away."""
    [job] = seed_jobs(config(**LONG), (0,), tmp_path)
    (tmp_path / "go_on").touch()
    task = workers.Task(0, job, None, tmp_path / "go_on")
    assert workers.train_task(task, 1, lambda: False).state == "interrupted"
    assert not job.folder.exists()


def test_the_time_left_is_the_work_left_over_the_workers():
    """Ten jobs of a minute on two workers: the first has ended, and so has half of the second."""
    left = sweep_module._seconds_left
    assert left([Outcome(0, "finished", seconds=60.0)], 9, 2, 60.0) == pytest.approx(4 * 60)
    assert left([Outcome(0, "finished", seconds=60.0)] * 10, 0, 2, 300.0) == 0
    assert left([Outcome(0, "failed", "at once")], 9, 2, 1.0) is None


# What is refused before anything starts


def test_jobs_must_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = [Job(config(seed=0), Path("run")), Job(config(seed=1), tmp_path / "x" / ".." / "run")]
    with pytest.raises(AttractorError, match="run: two jobs have this folder"):
        sweep(jobs)
    with pytest.raises(AttractorError, match="at least one job"):
        sweep([])
    assert not list(tmp_path.iterdir())


def test_a_folder_with_another_experiment_is_left_alone(tmp_path):
    job = Job(config(), tmp_path / "run")
    plain(job, job.folder)
    other = [Job(config(), tmp_path / "new"), Job(config(epochs=2), job.folder)]
    with pytest.raises(AttractorError, match=r"run: was begun with training.epochs = 1, not 2"):
        sweep(other)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "dusk"}, "unknown backend 'dusk'; did you mean 'dask'"),
        ({"workers": 0}, "workers = 0: must be at least 1"),
        ({"scheduler": "tcp://localhost:1"}, 'scheduler and resources are for backend "dask"'),
        ({"backend": "dask"}, "needs the address of a scheduler"),
        ({"backend": "dask", "scheduler": "x", "workers": 2}, "leave out their number"),
        (
            {"backend": "dask", "scheduler": "x", "resources": {"GPU": 0.0}},
            "resource GPU = 0: must be more than 0",
        ),
        (
            {"backend": "dask", "scheduler": "nonsense://localhost"},
            "scheduler nonsense://localhost: cannot be reached",
        ),
        (
            {"backend": "dask", "scheduler": "tcp://127.0.0.1:1"},
            "scheduler tcp://127.0.0.1:1: cannot be reached .*start one with: dask scheduler",
        ),
    ],
)
def test_workers_that_cannot_be_had_are_told_in_one_line(tmp_path, settings, message, monkeypatch):
    monkeypatch.setattr(workers, "_CONNECT_SECONDS", 0.3)
    with pytest.raises(AttractorError, match=message) as caught:
        sweep(seed_jobs(config(), (0, 1), tmp_path), **settings)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(AttractorError, match=r"pip install 'attractor-ae\[cluster\]'"):
        sweep(seed_jobs(config(), (0,), tmp_path), backend="dask", scheduler="tcp://localhost:1")


def test_a_file_that_is_no_sweep_is_not_overwritten(tmp_path):
    (tmp_path / "sweep.json").write_text("[1, 2]")
    with pytest.raises(AttractorError, match=r"sweep.json: cannot be read as a sweep"):
        sweep(seed_jobs(config(), (0,), tmp_path))
    with pytest.raises(AttractorError, match=r"sweep.json: cannot be read as a sweep"):
        find_runs(tmp_path)


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


def test_the_runs_of_a_killed_worker_go_on_elsewhere(cluster, tmp_path):
    jobs = seed_jobs(config(**LONG), range(4), tmp_path / "runs")
    killed = []

    def busy():
        return next((job for job in jobs if Run(job.folder).checkpoint_file.exists()), None)

    def kill(job):
        killed.append(job)
        os.kill(processes(job)[-1], signal.SIGKILL)

    with Meanwhile(busy, kill):
        report = sweep(jobs, backend="dask", scheduler=cluster.scheduler_address)
    assert report.failed == ()
    assert report.finished == tuple(jobs)
    [job] = killed
    assert len(processes(job)) == 2
    assert processes(job)[0] != processes(job)[1]
    begins = [
        line.split("from epoch ")[1] for line in log(job).splitlines() if "from epoch" in line
    ]
    assert begins[0].startswith("1 ")
    assert int(begins[1].split()[0]) > 5
    assert same_weights(Run(job.folder), plain(job, tmp_path / "plain"))
    assert find_runs(tmp_path / "runs") == [Run(job.folder) for job in jobs]


def test_a_cluster_is_told_of_failures_and_of_ctrl_c(cluster, tmp_path):
    jobs = seed_jobs(config(epochs=100_000), range(3), tmp_path)
    bad = Job(config(learning_rate=1e30, epochs=3), tmp_path / "diverges")

    def begun():
        """Any of them: a cluster begins jobs in an order of its own."""
        busy = next((job for job in jobs if "epoch 2 of" in log(job)), None)
        return busy if "failed" in log(bad) else None

    met, told = [], []

    def press(job):
        met.append(job)
        os.kill(os.getpid(), signal.SIGINT)

    with Meanwhile(begun, press), pytest.raises(KeyboardInterrupt):
        sweep(
            [bad, *jobs],
            backend="dask",
            scheduler=cluster.scheduler_address,
            resources={"GPU": 1.0},
            on_progress=told.append,
        )
    assert [at.job for at in told] == [bad]
    assert "lower training.learning_rate" in told[0].error
    [job] = met
    assert Run(job.folder).checkpoint_file.exists()


def test_runs_that_share_a_worker_do_not_disturb_each_other(tmp_path):
    """Their first weights are drawn under a seed that is global to the process."""
    from distributed import LocalCluster

    jobs = seed_jobs(config(), range(4), tmp_path / "runs")
    with LocalCluster(
        processes=False,
        n_workers=1,
        threads_per_worker=4,
        dashboard_address=":0",
        resources={"GPU": 1},
    ) as shared:
        report = sweep(
            jobs, backend="dask", scheduler=shared.scheduler_address, resources={"GPU": 0.25}
        )
    assert report.finished == tuple(jobs)
    for job in jobs:
        assert "threads: 1\n" in log(job)
        assert same_weights(Run(job.folder), plain(job, tmp_path / "plain" / job.folder.name))


def test_in_one_process_runs_begin_one_by_one_and_go_on_together(tmp_path, monkeypatch):
    beginning, together = [], threading.Barrier(3)

    def run_training(_config, folder, *, on_progress, **_):
        assert not beginning
        beginning.append(folder)
        time.sleep(0.02)
        beginning.remove(folder)
        on_progress(None)
        together.wait(timeout=20)

    monkeypatch.setattr(workers, "run_training", run_training)
    (tmp_path / "go_on").touch()
    tasks = [
        workers.Task(i, job, None, tmp_path / "go_on")
        for i, job in enumerate(seed_jobs(config(), range(3), tmp_path))
    ]
    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(lambda task: workers.train_task(task, 1), tasks))
    assert [outcome.error for outcome in outcomes] == ["", "", ""]


def test_resources_that_no_worker_has_are_told(cluster, tmp_path):
    with pytest.raises(AttractorError, match="none of its workers offers TPU=0.5; start some with"):
        sweep(
            seed_jobs(config(), (0,), tmp_path),
            backend="dask",
            scheduler=cluster.scheduler_address,
            resources={"TPU": 0.5},
        )


def test_a_cluster_without_workers_is_told(tmp_path, monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(workers, "_WORKER_SECONDS", 0.3)
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as empty:
        address = empty.scheduler_address
        with pytest.raises(AttractorError, match="has no workers; start some with: dask worker "):
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
def test_the_scarcest_resource_says_how_many_runs_a_worker_trains(threads, offers, needs, slots):
    class State:
        nthreads = threads
        total_resources = offers

    class Worker:
        state = State

    assert workers.slots_of_worker(needs, Worker) == slots


# Finding runs


@pytest.fixture
def some(tmp_path, monkeypatch):
    """Folders of runs in which nothing was trained, and other files beside them."""
    monkeypatch.chdir(tmp_path)
    for parent, seeds in {"a": (10, 2, 1), "b": (0,)}.items():
        for seed in seeds:
            run = Run(Path(parent) / f"seed{seed}")
            run.path.mkdir(parents=True)
            run.config_file.touch()
            run.weights_file.touch()
    (tmp_path / "a" / "notes.txt").touch()
    sweep_folder.write_states({Path("a") / f"seed{seed}": "" for seed in (10, 2, 1)})
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
        ([], "name at least one run folder"),
        (["c"], "c: no such run folder; make runs with"),
        (["c*"], r"c\*: matches no run; make runs with"),
        (["b"], r"b: is neither a run nor a sweep .* name 'b/\*'"),
        (["a/notes.txt"], "notes.txt: no such run folder"),
    ],
)
def test_what_holds_no_runs_is_told(some, places, message):
    with pytest.raises(AttractorError, match=message):
        find_runs(*places)


def test_a_run_that_is_not_finished_is_told(some):
    (some / "a" / "seed2" / "weights.safetensors").unlink()
    with pytest.raises(AttractorError, match="a/seed2: its training is not finished; call the"):
        find_runs("a")
    with pytest.raises(AttractorError, match="a/seed2: its training is not finished; finish it"):
        find_runs("a/*")


def test_a_folder_whose_name_looks_like_a_glob_is_a_folder(some):
    (some / "a").rename(some / "a[1]")
    assert len(find_runs("a[1]")) == 3
