"""Who trains the runs of a sweep: processes of this machine, or the workers of a cluster.

Both give an outcome for each task as it ends, and a run that fails ends no other. While the file
`Task.go_on` is there they work; when it is gone every training writes its checkpoint and ends. So
it needs no connection to be stopped, and nobody is killed.
"""

import os
import platform
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import torch
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor

from attractor_ae._errors import AttractorError
from attractor_ae._files import cannot_write
from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.experiment.run import Run
from attractor_ae.experiment.train import run_training

_CONNECT_SECONDS = 20.0
_WORKER_SECONDS = 30.0


@dataclass(frozen=True)
class Job:
    """A run to be trained.

    Attributes
    ----------
    config
        The experiment.
    folder
        The run folder.
    """

    config: ExperimentConfig
    folder: Path


@dataclass(frozen=True)
class Task:
    """A job as a worker gets it; paths are absolute.

    Attributes
    ----------
    index
        Which of the sweep's jobs it is.
    job
        The run to be trained.
    data_root
        Where the data sets' files are.
    go_on
        The file that is there for as long as the sweep is to go on.
    """

    index: int
    job: Job
    data_root: Path | None
    go_on: Path


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes
    ----------
    index
        The task's.
    state
        ``"interrupted"`` if it was told to stop, or was not told to go on.
    error
        One line if it failed.
    seconds
        How long it took.
    """

    index: int
    state: Literal["finished", "failed", "interrupted"]
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Workers:
    """Somebody to train runs.

    Attributes
    ----------
    slots
        How many runs they train at once.
    train
        Gives the outcomes of tasks in the order in which they end.
    """

    slots: int
    train: Callable[[Sequence[Task]], Iterator[Outcome]]


def train_task(task: Task, threads: int, is_wanted: Callable[[], bool] = lambda: True) -> Outcome:
    """Train the run of a task, from its checkpoint if it has one.

    What goes wrong is an outcome and no exception. Its whole story is in the run's log: where it
    was trained, and the traceback of an error that no user can repair.

    Parameters
    ----------
    task
        What to do.
    threads
        How many threads PyTorch may use.
    is_wanted
        Asked now and then beside the file; false stops the training as well.
    """
    began, before = time.perf_counter(), torch.get_num_threads()
    run = Run(task.job.folder)
    try:
        torch.set_num_threads(threads)
        _train(task, run, threads, is_wanted)
    except KeyboardInterrupt:
        return Outcome(task.index, "interrupted")
    except AttractorError as error:
        return _failed(task, str(error), f"failed: {error}")
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        return _failed(
            task, f"{type(error).__name__}: {reason}", f"failed\n{traceback.format_exc()}"
        )
    finally:
        torch.set_num_threads(before)
    return Outcome(task.index, "finished", seconds=time.perf_counter() - began)


# The first weights are drawn under a seed of PyTorch's global state, so of several trainings in the
# threads of one process only one may be before its first step.
_starting = threading.Lock()


def _train(task: Task, run: Run, threads: int, is_wanted: Callable[[], bool]) -> None:
    looked = -1.0

    def stop_if_told(*_: object) -> None:
        nonlocal looked
        if time.monotonic() - looked > 1:  # on a shared file system a look takes its time
            looked = time.monotonic()
            if not (task.go_on.exists() and is_wanted()):
                raise KeyboardInterrupt

    def on_step(*_: object) -> None:
        start.close()
        stop_if_told()

    with ExitStack() as start:
        start.enter_context(_starting)
        stop_if_told()
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(run.path, error) from None
        run.log(f"process {os.getpid()} on {platform.node()}, threads: {threads}")
        run_training(
            task.job.config,
            run.path,
            data_root=task.data_root,
            resume=True,
            on_progress=on_step,
            on_preparing=stop_if_told,
        )


def _failed(task: Task, error: str, story: str) -> Outcome:
    try:
        Run(task.job.folder).log(story.rstrip())
    except AttractorError as no_log:
        error = f"{error} (and {no_log})"
    return Outcome(task.index, "failed", error)


# This machine


def local_workers(number: int, threads: int) -> Workers:
    """Return processes of this machine; a single one is this process.

    Parameters
    ----------
    number
        How many, at least 1.
    threads
        How many threads each may use.
    """

    def train(tasks: Sequence[Task]) -> Iterator[Outcome]:
        if number == 1:
            yield from (train_task(task, threads) for task in tasks)
            return
        try:
            yield from _in_processes(tasks, number, threads)
        finally:
            # They would keep their memory for minutes.
            executor: Any = get_reusable_executor
            executor(reuse=True).shutdown(wait=True, kill_workers=True)

    return Workers(number, train)


def _in_processes(tasks: Sequence[Task], number: int, threads: int) -> Iterator[Outcome]:
    waiting = {task.index: task for task in tasks}
    while waiting:
        try:
            for outcome in _parallel(list(waiting.values()), number, threads):
                del waiting[outcome.index]
                yield outcome
        except BrokenProcessPool:
            # A process died, and joblib ended the others. Tasks are begun in their order, so one of
            # the first is to blame: each of them goes on alone, and who dies again has failed.
            for task in list(waiting.values())[:number]:
                if task.go_on.exists():
                    del waiting[task.index]
                    yield _alone(task, threads)
            if not tasks[0].go_on.exists():
                return


def _alone(task: Task, threads: int) -> Outcome:
    try:
        # With a single process joblib would take this one.
        [outcome] = _parallel([task], 2, threads)
    except BrokenProcessPool as error:
        if not task.go_on.exists():
            return Outcome(task.index, "interrupted")
        reason = " ".join(str(error).split())[:300]
        line = f"its process died, alone as well; is there enough memory? ({reason})"
        return _failed(task, line, f"failed: {line}")
    return outcome


def _parallel(tasks: Sequence[Task], number: int, threads: int) -> Iterator[Outcome]:
    with parallel_config(backend="loky", n_jobs=number, inner_max_num_threads=threads):
        # joblib has no types, and what is read from its defaults is wrong.
        parallel: Any = Parallel
        parallel = parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="all")
        return parallel(delayed(_train_in_process)(task, threads) for task in tasks)


def _train_in_process(task: Task, threads: int) -> Outcome:
    # Ctrl-C in a terminal reaches every process of it; this one is told by the file.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Of a sweep that was killed nothing should go on and be in the way of the next one.
    # Asked at the start and not told: on Windows a launcher may stand between the two.
    parent = os.getppid()
    return train_task(task, threads, lambda: os.getppid() == parent)


# A cluster


@contextmanager
def cluster_workers(
    scheduler: str | None, resources: Mapping[str, float] | None
) -> Iterator[Workers]:
    """Connect to a cluster of dask.distributed that runs already.

    joblib's own backend for it knows nothing of a worker that is given up, so the client of
    distributed is used itself: the scheduler hands the runs of a dead worker to another one.

    Parameters
    ----------
    scheduler
        Address of the scheduler, e.g. ``"tcp://host:8786"``.
    resources
        What a run takes of the resources that the workers were started with, e.g.
        ``{"GPU": 0.25}``.

    Raises
    ------
    AttractorError
        If distributed is not installed, the scheduler cannot be reached, has no workers, or none
        that offers the resources or can import this package.
    """
    if scheduler is None:
        raise AttractorError(
            'backend "dask" needs the address of a scheduler, e.g. tcp://localhost:8786'
        )
    needs = dict(resources or {})
    for name, amount in needs.items():
        if not amount > 0:
            raise AttractorError(f"resource {name} = {amount:g}: must be more than 0")
    try:
        from distributed import Client
    except ImportError:
        raise AttractorError(
            'backend "dask" needs the package distributed; install it with: '
            "pip install 'attractor-ae[cluster]'"
        ) from None
    try:
        client = Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:  # a TimeoutError is an OSError
        raise AttractorError(
            f"scheduler {scheduler}: cannot be reached ({_first_line(error)}); "
            "start one with: dask scheduler"
        ) from None
    with client:
        slots = _slots(client, scheduler, needs)
        yield Workers(slots, lambda tasks: _on_cluster(client, scheduler, needs, tasks))


def _slots(client: Any, scheduler: str, needs: Mapping[str, float]) -> int:  # noqa: ANN401
    offer = "".join(f" {name}={amount:g}" for name, amount in needs.items())
    start = f"dask worker {scheduler}" + (f' --resources "{offer.strip()}"' if offer else "")
    try:
        client.wait_for_workers(1, timeout=_WORKER_SECONDS)
    except TimeoutError:
        raise AttractorError(
            f"scheduler {scheduler}: has no workers; start some with: {start}"
        ) from None
    try:
        slots = sum(client.run(slots_of_worker, needs).values())
    except Exception as error:
        raise AttractorError(
            f"scheduler {scheduler}: its workers cannot use this package ({_first_line(error)}); "
            "install the same version there"
        ) from None
    if slots == 0:
        raise AttractorError(
            f"scheduler {scheduler}: none of its workers offers{offer}; start some with: {start}"
        )
    return slots


def slots_of_worker(needs: Mapping[str, float], dask_worker: Any) -> int:  # noqa: ANN401
    """Return how many runs a worker of a cluster trains at once.

    Parameters
    ----------
    needs
        What each takes of the worker's resources.
    dask_worker
        The worker; distributed fills it in.
    """
    offers = dask_worker.state.total_resources
    # As many as its threads, if no resource is used up before; 0.1 goes three times into 0.3.
    limits = [int(offers.get(name, 0) / amount + 1e-9) for name, amount in needs.items()]
    return min(dask_worker.state.nthreads, *limits) if limits else dask_worker.state.nthreads


def _train_on_cluster(task: Task, needs: Mapping[str, float]) -> Outcome:
    from distributed import get_worker

    worker = get_worker()
    at_once = slots_of_worker(needs, worker)
    return train_task(task, max(1, worker.state.nthreads // max(1, at_once)))


def _on_cluster(
    client: Any,  # noqa: ANN401
    scheduler: str,
    needs: Mapping[str, float],
    tasks: Sequence[Task],
) -> Iterator[Outcome]:
    from distributed import KilledWorker, as_completed

    task_of = {}
    for task in tasks:
        key = f"train-{task.job.folder.name}-{uuid4().hex}"
        future = client.submit(
            _train_on_cluster, task, needs, key=key, pure=False, resources=needs or None
        )
        task_of[future] = task
    for future in as_completed(list(task_of), loop=client.loop, raise_errors=False):
        task = task_of.pop(future)
        if future.status == "finished":
            yield future.result()
        elif future.status == "error":
            # A training raises nothing, so it never came to its end, or never began.
            error = future.exception()
            line = f"could not be run on the cluster: {_first_line(error)}"
            if isinstance(error, KilledWorker):
                line = (
                    f"{error.allowed_failures + 1} workers died while they had it; see their logs"
                )
            yield _failed(task, line, f"failed: {line}")
        else:
            line = f"scheduler {scheduler} was lost; start it and sweep again"
            yield _failed(task, line, f"failed: {line}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
