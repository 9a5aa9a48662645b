"""Many runs at once: each in its own folder, none ends another, and a second call goes on."""

import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from uuid import uuid4

import torch
from joblib import cpu_count

from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae._files import cannot_write
from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.experiment.plan import training_images
from attractor_ae.experiment.run import Run
from attractor_ae.experiment.sweep_folder import find_runs, write_states
from attractor_ae.experiment.workers import (
    Job,
    Outcome,
    Task,
    Workers,
    cluster_workers,
    local_workers,
)
from attractor_ae.training.loop import check_claim

__all__ = [
    "BACKENDS",
    "Failure",
    "Job",
    "SweepProgress",
    "SweepReport",
    "find_runs",
    "parse_seeds",
    "seed_jobs",
    "sweep",
]

BACKENDS = ("loky", "dask")
"""Processes of this machine, and a cluster of dask.distributed, as joblib calls them."""

_MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Failure:
    """A job that failed.

    Attributes
    ----------
    job
        The job.
    error
        What was wrong, in one line.
    log
        The run's log, which has the whole story.
    """

    job: Job
    error: str
    log: Path


@dataclass(frozen=True)
class SweepReport:
    """How a sweep ended; each job is in one of the three, in the order in which they were given.

    Attributes
    ----------
    finished
        Trained now.
    skipped
        Finished before.
    failed
        Not finished.
    """

    finished: tuple[Job, ...]
    skipped: tuple[Job, ...]
    failed: tuple[Failure, ...]


@dataclass(frozen=True)
class SweepProgress:
    """Told when a job has ended.

    Attributes
    ----------
    done, total
        How many jobs have ended, and all, both with those that were finished before.
    job
        The one that ended.
    error
        One line if it failed, else empty.
    seconds_left
        Estimated time to the end; None until a job was trained.
    """

    done: int
    total: int
    job: Job
    error: str
    seconds_left: float | None


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds that a text names.

    Parameters
    ----------
    text
        Numbers and ranges, both ends included, with commas between them.

    Raises
    ------
    AttractorError
        If it reads otherwise, or names a seed twice.

    Examples
    --------
    >>> parse_seeds("0,3,5-7")
    (0, 3, 5, 6, 7)
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,19})\s*(?:-\s*([0-9]{1,19})\s*)?", part)
        if match is None:
            raise AttractorError(f"seeds {text!r}: {part.strip()!r} must read like 3 or 0-9")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise AttractorError(f"seeds {text!r}: {part.strip()!r} ends before it begins")
        if len(seeds) + last - first >= _MOST_SEEDS:
            raise AttractorError(f"seeds {text!r}: are more than {_MOST_SEEDS}; name fewer")
        seeds.extend(range(first, last + 1))
    if repeated := _repeated(seeds):
        raise AttractorError(f"seeds {text!r}: {repeated[0]} is named twice; name each once")
    return tuple(seeds)


def seed_jobs(config: ExperimentConfig, seeds: Sequence[int], parent: str | Path) -> list[Job]:
    """Return a job for each seed: the same experiment in the run folders ``PARENT/seedN``.

    The folder is named by the seed alone, so that a sweep with more seeds finds those that are
    finished; another experiment takes another parent.

    Parameters
    ----------
    config
        The experiment; its own seed counts for nothing.
    seeds
        Seeds, each in [0, 2**63).
    parent
        The folder of the sweep.

    Raises
    ------
    AttractorError
        If there are no seeds, one is named twice, or one is no possible seed.
    """
    if not seeds:
        raise AttractorError("a sweep needs at least one seed, e.g. 0-9")
    if repeated := _repeated(seeds):
        raise AttractorError(f"seed {repeated[0]} is named twice; name each once")
    values = config.model_dump()
    return [
        Job(
            ExperimentConfig.from_dict(
                {**values, "training": {**values["training"], "seed": seed}}, f"seed {seed}"
            ),
            Path(parent) / f"seed{seed}",
        )
        for seed in seeds
    ]


def sweep(
    jobs: Sequence[Job],
    *,
    data_root: str | Path | None = None,
    workers: int | None = None,
    backend: str = "loky",
    scheduler: str | None = None,
    resources: Mapping[str, float] | None = None,
    on_progress: Callable[[SweepProgress], None] = lambda _: None,
    on_interrupt: Callable[[], None] = lambda: None,
) -> SweepReport:
    """Train many runs (``attractor-ae sweep``), each as `run_training` with ``resume`` does.

    Finished runs are skipped, begun ones go on from their checkpoint. A run that fails ends no
    other. ``sweep.json`` in the folder above the runs says how they stand (see `find_runs`).

    Parameters
    ----------
    jobs
        Any experiments, each with a folder of its own.
    data_root
        Where the data sets' files are.
    workers
        How many runs this machine trains at once. They share its cores: each has cores // workers
        threads, at least one. By default there are as many as cores and as jobs, or one if any run
        is on a GPU, whose memory is not known to suffice for more. 1 trains in this process.
    backend
        ``"loky"``: processes of this machine. ``"dask"``: a cluster that runs already.
    scheduler
        Address of the cluster's scheduler. Its machines must share the runs' folders. A run whose
        worker dies is handed to another one and goes on from its checkpoint.
    resources
        What a run takes of the resources that the cluster's workers were started with:
        ``{"GPU": 0.25}`` lets four runs share a worker that was started with ``GPU=1`` (and at
        least four threads).
    on_progress
        Called when a job has ended.
    on_interrupt
        Called on Ctrl-C, after which it may take some seconds until the trainings have stopped.

    Returns
    -------
    SweepReport
        Which were trained, were finished before, and failed with which error.

    Raises
    ------
    AttractorError
        Before anything is trained: if there are no jobs, two have the same folder, a folder holds
        another experiment, or the workers cannot be had.
    KeyboardInterrupt
        On Ctrl-C, after every training has written its checkpoint and ended; the same call goes on.
        A second Ctrl-C does not wait for them.
    """
    tasks = _tasks(jobs, data_root)
    _check_folders(tasks)
    waiting = [task for task in tasks if not Run(task.job.folder).finished]
    ended: dict[int, Outcome] = {}
    with _workers(backend, workers, scheduler, resources, tasks, waiting) as crew:
        _write_states(tasks, ended)
        slots = min(crew.slots, len(waiting))
        began = time.perf_counter()
        with closing(_outcomes(crew, waiting, on_interrupt)) as outcomes:
            for outcome in outcomes:
                ended[outcome.index] = outcome
                _write_states(tasks, ended)
                left = len(waiting) - len(ended)
                elapsed = time.perf_counter() - began
                on_progress(
                    SweepProgress(
                        len(tasks) - left,
                        len(tasks),
                        jobs[outcome.index],
                        outcome.error,
                        _seconds_left(list(ended.values()), left, slots, elapsed),
                    )
                )
    tried = {task.index for task in waiting}
    good = {index for index, outcome in ended.items() if not outcome.error}
    return SweepReport(
        finished=tuple(job for i, job in enumerate(jobs) if i in good),
        skipped=tuple(job for i, job in enumerate(jobs) if i not in tried),
        failed=tuple(
            Failure(job, ended[i].error, Run(job.folder).log_file)
            for i, job in enumerate(jobs)
            if i in tried - good
        ),
    )


def _tasks(jobs: Sequence[Job], data_root: str | Path | None) -> list[Task]:
    if not jobs:
        raise AttractorError("a sweep needs at least one job")
    # Absolute: a worker of a cluster is somewhere else.
    root = None if data_root is None else Path(data_root).resolve()
    go_on = jobs[0].folder.resolve().parent / f".sweep-{uuid4().hex}"
    return [
        Task(index, Job(job.config, job.folder.resolve()), root, go_on)
        for index, job in enumerate(jobs)
    ]


def _check_folders(tasks: Sequence[Task]) -> None:
    if repeated := _repeated([task.job.folder for task in tasks]):
        raise AttractorError(f"{repeated[0]}: two jobs have this folder; give each its own")
    for task in tasks:
        check_claim(Run(task.job.folder), task.job.config, resume=True)


def _workers(
    backend: str,
    workers: int | None,
    scheduler: str | None,
    resources: Mapping[str, float] | None,
    tasks: Sequence[Task],
    waiting: Sequence[Task],
) -> AbstractContextManager[Workers]:
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if workers is not None and workers < 1:
        raise AttractorError(f"workers = {workers}: must be at least 1")
    if backend == "dask" and workers is not None:
        raise AttractorError(
            'workers are those of the cluster with backend "dask"; leave out their number'
        )
    if backend == "loky" and (scheduler is not None or resources):
        raise AttractorError('scheduler and resources are for backend "dask"; name it, too')
    if backend == "dask" and waiting:
        return cluster_workers(scheduler, resources)
    on_gpu = any(_on_gpu(task.job.config) for task in tasks)
    number = min(workers or (1 if on_gpu else cpu_count()), len(tasks))
    # Not of those that wait: weights are bitwise the same with as many threads, so a run must not
    # depend on how many were finished before it.
    threads = max(1, cpu_count() // number)
    number = max(1, min(number, len(waiting)))
    if number > 1:
        _prepare_once(waiting)
    return nullcontext(local_workers(number, threads))


def _on_gpu(config: ExperimentConfig) -> bool:
    name = config.training.device
    return torch.cuda.is_available() if name == "auto" else not name.startswith("cpu")


def _prepare_once(tasks: Sequence[Task]) -> None:
    """Decode images before many processes would each do it; they find them in the cache."""
    configs = {task.job.config.dataset.model_dump_json(): task for task in tasks}
    for task in configs.values():
        with suppress(AttractorError):  # the job reports it
            training_images(task.job.config, data_root=task.data_root)


def _outcomes(
    crew: Workers, waiting: Sequence[Task], on_interrupt: Callable[[], None]
) -> Generator[Outcome, None, None]:
    """Give the outcomes of tasks as they end; raise KeyboardInterrupt at the end if pressed."""
    if not waiting:
        return
    with _going_on(waiting[0].go_on, on_interrupt) as stopped:
        for outcome in crew.train(waiting):
            if outcome.state != "interrupted":
                yield outcome
            elif not stopped():
                yield Outcome(
                    outcome.index,
                    "failed",
                    f"its worker was stopped, or does not see {waiting[0].go_on.parent}; all "
                    "machines of a cluster must share the runs' folders",
                )
        if stopped():
            raise KeyboardInterrupt


@contextmanager
def _going_on(go_on: Path, on_interrupt: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Tell workers to go on until the block ends or Ctrl-C; give whether that was pressed."""
    pressed = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        go_on.unlink(missing_ok=True)
        signal.signal(signal.SIGINT, before)  # the second time does not wait
        on_interrupt()

    before = signal.getsignal(signal.SIGINT) or signal.default_int_handler
    # Only the main thread may; and who started this with nohup wants it to be ignored.
    handles = threading.current_thread() is threading.main_thread() and before != signal.SIG_IGN
    try:
        go_on.touch()
    except OSError as error:
        raise cannot_write(go_on, error) from None
    try:
        if handles:
            signal.signal(signal.SIGINT, stop)
        yield lambda: pressed
    finally:
        go_on.unlink(missing_ok=True)
        if handles:
            signal.signal(signal.SIGINT, before)


def _seconds_left(ended: Sequence[Outcome], left: int, slots: int, elapsed: float) -> float | None:
    """Return the estimated time to the end: what is left of the work, over the slots."""
    times = [outcome.seconds for outcome in ended if not outcome.error]
    if not times:
        return None
    # The slots have worked all the time, and what they did for ended jobs is known.
    begun = slots * elapsed - sum(times)
    return max(0.0, sum(times) / len(times) * left - begun) / slots


def _write_states(tasks: Sequence[Task], ended: Mapping[int, Outcome]) -> None:
    write_states(
        {task.job.folder: ended[task.index].error if task.index in ended else "" for task in tasks}
    )


def _repeated(values: Sequence[Hashable]) -> list[Hashable]:
    return [value for value, times in Counter(values).items() if times > 1]
