"""Parallel runs, each a child process ``attractor-ae train --resume``, locally or on a cluster.

PARENT/
  sweep.json   the runs and their states
  seed0/       one run folder each, see `attractor_ae.experiment.run`
  seed1/
"""

import glob
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from attractor_ae._errors import AttractorError, check_known, optional_package
from attractor_ae._files import remove_leftovers, write_json
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.experiment.plan import make_plan
from attractor_ae.experiment.run import Run, check_claim

BACKENDS = ("processes", "dask")
"""Processes of this machine, or a cluster of dask.distributed."""

PARENT_VARIABLE = "ATTRACTOR_AE_PARENT"
"""Environment variable with the id of the parent process; the child ends when it ends."""

SWEEP_FILE = "sweep.json"

CONNECT_SECONDS, WORKER_SECONDS = 20.0, 30.0
"""Seconds to wait for a scheduler, and for its first worker."""

_MOST_SEEDS = 10_000
_MOST_DEATHS = 2  # a run whose process was killed is resumed once


@dataclass(frozen=True)
class Job:
    """An experiment and its run folder."""

    config: ExperimentConfig
    folder: Path


@dataclass(frozen=True)
class Failure:
    """A job that failed, its error in one line, and the log with the details."""

    job: Job
    error: str
    log: Path


@dataclass(frozen=True)
class SweepReport:
    """The outcome of a sweep: jobs finished by it, finished before, and failed."""

    finished: tuple[Job, ...]
    skipped: tuple[Job, ...]
    failed: tuple[Failure, ...]


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of numbers and inclusive ranges, separated by commas.

    Examples:
        >>> parse_seeds("0,3,5-7")
        (0, 3, 5, 6, 7)
    """
    seeds: list[int] = []
    for part in map(str.strip, text.split(",")):
        match = re.fullmatch(r"([0-9]{1,19})\s*(?:-\s*([0-9]{1,19}))?", part)
        if match is None:
            raise AttractorError(f"seeds {text!r}: {part!r} must have the form 3 or 0-9")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise AttractorError(f"seeds {text!r}: {part!r} ends before it begins")
        if len(seeds) + last - first >= _MOST_SEEDS:
            raise AttractorError(f"seeds {text!r}: more than {_MOST_SEEDS} seeds; name fewer")
        seeds.extend(range(first, last + 1))
    return tuple(seeds)


def seed_jobs(config: ExperimentConfig, seeds: Sequence[int], parent: str | Path) -> list[Job]:
    """Return one job per seed: the same experiment in the run folders ``PARENT/seedN``.

    If the experiment has an open-set split, that of each job is its seed.

    Raises:
        AttractorError: If there are no seeds, one is named twice, or one is out of range.
    """
    if not seeds:
        raise AttractorError("a sweep needs at least one seed, e.g. 0-9")
    if repeated := _repeated(seeds):
        raise AttractorError(f"seed {repeated[0]} is named twice; name each once")
    values = config.model_dump()
    jobs = []
    for seed in seeds:
        values["training"] = {**values["training"], "seed": seed}
        if config.dataset.open_set_split >= 0:
            values["dataset"] = {**values["dataset"], "open_set_split": seed}
        config = ExperimentConfig.from_dict(values, f"seed {seed}")
        jobs.append(Job(config, Path(parent) / f"seed{seed}"))
    return jobs


def sweep(
    jobs: Sequence[Job],
    *,
    data_root: str | Path | None = None,
    workers: int | None = None,
    backend: str = "processes",
    scheduler: str | None = None,
    resources: Mapping[str, float] | None = None,
    reporter: Reporter = SILENT,
) -> SweepReport:
    """Train many runs (``attractor-ae sweep``); a failed run does not stop the others.

    Finished runs are skipped, unfinished ones continue from their checkpoint. ``sweep.json`` in the
    folder above the runs records their states (see `find_runs`).

    Args:
        jobs: Any experiments, each with its own folder.
        workers: Number of runs that this machine trains at once; each has cores // workers threads.
            The default is the number of cores, at most that of jobs, or 1 if a run is on a GPU.
        backend, scheduler: One of ``BACKENDS``; the address of a cluster's scheduler, whose
            machines must share the folders. If a worker dies, its run continues on another.
        resources: Amount per run of the resources that the cluster's workers were started with:
            ``{"GPU": 0.25}`` lets four runs share a worker with ``GPU=1`` and four threads.
        data_root, reporter: As for `run_evaluation`.

    Raises:
        AttractorError: Before anything is trained: if there are no jobs, two have the same folder,
            a folder contains another experiment, or the workers are not available.
        KeyboardInterrupt: On Ctrl-C, after every training has written its checkpoint; the same call
            continues. A second Ctrl-C does not wait.
    """
    if not jobs:
        raise AttractorError("a sweep needs at least one job")
    if repeated := _repeated([job.folder.resolve() for job in jobs]):
        raise AttractorError(f"{repeated[0]}: two jobs have this folder; give each a different one")
    by_folder = {job.folder.resolve(): job for job in jobs}
    for folder, job in by_folder.items():
        check_claim(Run(folder), job.config, resume=True)
    check_known("backend", backend, BACKENDS)
    if workers is not None and workers < 1:
        raise AttractorError(f"workers = {workers}: must be at least 1")
    if backend == "dask" and workers is not None:
        raise AttractorError('backend "dask" uses the workers of the cluster; omit workers')
    if backend == "processes" and (scheduler is not None or resources):
        raise AttractorError('scheduler and resources require backend "dask"; set it as well')
    waiting = {f: job.config for f, job in by_folder.items() if not Run(f).finished}
    root = () if data_root is None else ("--data-root", str(Path(data_root).resolve()))
    here = os.getcwd()  # noqa: PTH109
    tasks = [_Task(config.to_toml(), folder, root, here) for folder, config in waiting.items()]
    number, threads = _local_workers(jobs, workers) if backend == "processes" else (1, 1)
    if backend == "processes" and min(number, len(waiting)) > 1:
        # Fill the cache of images before several processes would each decode them.
        for config in {c.dataset.model_dump_json(): c for c in waiting.values()}.values():
            with suppress(AttractorError):  # the run reports it
                make_plan(config, data_root).load_training()
    errors: dict[Path, str] = {}
    with ExitStack() as connection:
        if backend == "dask" and waiting:
            needs = dict(resources or {})
            client = connection.enter_context(connected(scheduler, needs))
            running = _on_cluster(tasks, client, needs, reporter)
        else:
            running = _in_processes(tasks, number, threads, reporter)
        connection.enter_context(closing(running))  # an error below also stops the trainings
        for parent in {folder.parent for folder in by_folder}:
            remove_leftovers(parent)
        _write_states(by_folder, {})
        start = time.perf_counter()
        for folder, error in running:
            errors[folder] = error
            _write_states(by_folder, errors)
            trained = sum(not line for line in errors.values())
            done, left = len(jobs) - len(waiting) + len(errors), len(waiting) - len(errors)
            seconds = (time.perf_counter() - start) / trained * left if trained else None
            if error:
                reporter.note(f"{folder} failed: {error}")
            reporter.progress("training runs", done, len(jobs), f"{done}/{len(jobs)} runs", seconds)
    return SweepReport(
        finished=tuple(by_folder[f] for f in waiting if not errors[f]),
        skipped=tuple(job for f, job in by_folder.items() if f not in waiting),
        failed=tuple(
            Failure(by_folder[f], errors[f], Run(f).log_file) for f in waiting if errors[f]
        ),
    )


# ---- one run as a child process ----------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    config: str
    folder: Path
    options: tuple[str, ...]
    here: str
    """Current folder of the sweep, which relative paths in the config refer to."""


class _Child:
    """Child process ``attractor-ae train --resume`` of a task, restarted once if it is killed."""

    def __init__(self, task: _Task, threads: int) -> None:
        self._task, self._threads, self._deaths = task, threads, 0
        self._files = tempfile.TemporaryDirectory(prefix="attractor-ae-")
        self._config = Path(self._files.name) / f"{task.folder.name}.toml"
        self._config.write_text(task.config, encoding="utf-8")
        self._start()

    def _start(self) -> None:
        self._output = Path(self._files.name) / "stderr"
        # -P: no module is imported from the current folder, which may contain a random.py.
        command = [sys.executable, "-P", "-m", "attractor_ae", "train", str(self._config)]
        command += ["--out", str(self._task.folder), "--resume", *self._task.options]
        threads = {"OMP_NUM_THREADS": str(self._threads), PARENT_VARIABLE: str(os.getpid())}
        with self._output.open("wb") as stderr:
            # A new session: only the parent receives Ctrl-C from the terminal and stops the child.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                # A worker of a cluster may have been started in another folder.
                cwd=self._task.here,
                env={**os.environ, **threads, "COLUMNS": "1000"},
                start_new_session=True,
            )

    def ended(self) -> str | None:
        """Return None while the process runs, then the error in one line, empty on success."""
        code = self.process.poll()
        if code is None:
            return None
        self._deaths += code < 0
        if code < 0 and self._deaths < _MOST_DEATHS:
            self._start()
            return None
        output = self._output.read_text(encoding="utf-8", errors="replace").strip()
        self.close()
        if code == 0:
            return ""
        error = output.splitlines()[-1].removeprefix("error: ") if output else ""
        if code < 0:
            error = (
                f"its process was killed {self._deaths} times (signal {-code}), "
                "perhaps for lack of memory; use fewer workers"
            )
        where = f"failed on {platform.node()}, threads: {self._threads}"
        _log_failure(Run(self._task.folder), f"{where}\n{output or error}")
        return error or f"its process ended with exit code {code}"

    def close(self) -> None:
        """Terminate the process, which writes its checkpoint first."""
        self.process.terminate()
        self.process.wait()
        self._files.cleanup()


def _log_failure(run: Run, line: str) -> None:
    with suppress(AttractorError, OSError):
        run.path.mkdir(parents=True, exist_ok=True)
        run.log(line)


def _in_processes(
    tasks: Sequence[_Task], number: int, threads: int, reporter: Reporter
) -> Generator[tuple[Path, str]]:
    """Train tasks on this machine, and yield folder and error of each as it ends."""
    waiting, running = list(tasks), dict[Path, _Child]()
    try:
        while waiting or running:
            while waiting and len(running) < number:
                task = waiting.pop(0)
                running[task.folder] = _Child(task, threads)
            for folder, child in list(running.items()):
                if (error := child.ended()) is not None:
                    del running[folder]
                    yield folder, error
            time.sleep(0.05)
    finally:  # Ctrl-C, or the caller has failed
        if running:
            reporter.note("stopping: each run writes its checkpoint ...")
        try:
            for child in running.values():
                child.process.terminate()
            for child in running.values():
                child.close()
        except KeyboardInterrupt:
            for child in running.values():
                child.process.kill()
                child.close()
            raise


def _local_workers(jobs: Sequence[Job], workers: int | None) -> tuple[int, int]:
    """Return the number of runs at once, and the number of threads of each."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    devices = {job.config.training.device for job in jobs}
    if "auto" in devices and not workers:
        import torch  # slow to import

        devices.add("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = any(not device.startswith("cpu") for device in devices - {"auto"})
    number = workers or (1 if on_gpu else cores)
    # All jobs count, not only unfinished ones: weights are bitwise reproducible only with the same
    # number of threads, so it must not change when a sweep is continued.
    number = min(number, len(jobs))
    threads, limit = max(1, cores // number), os.environ.get("OMP_NUM_THREADS", "")
    return number, min(threads, int(limit)) if limit.isdigit() and int(limit) else threads


# ---- a cluster ---------------------------------------------------------------------------------


def _on_cluster(
    tasks: Sequence[_Task],
    client: Any,  # noqa: ANN401
    needs: dict[str, float],
    reporter: Reporter,
) -> Generator[tuple[Path, str]]:
    """Train tasks on a cluster of dask.distributed, which must be running."""
    from distributed import Event, as_completed

    stop = Event(f"stop-{uuid4().hex}", client=client)
    futures = {
        client.submit(
            _train_on_worker,
            task,
            needs,
            stop.name,
            key=f"train-{task.folder.name}-{uuid4().hex}",
            pure=False,
            resources=needs or None,
        ): task.folder
        for task in tasks
    }
    try:
        for future in as_completed(list(futures), loop=client.loop, raise_errors=False):
            folder = futures[future]
            if future.status == "finished":
                yield folder, future.result()
                continue
            error = cluster_error(future)
            _log_failure(Run(folder), f"failed: {error}")
            yield folder, error
    except BaseException:  # Ctrl-C, or the caller has failed
        reporter.note("stopping: each run writes its checkpoint ...")
        stop.set()
        client.gather(list(futures), errors="skip")  # waits until they have ended
        raise


def _train_on_worker(task: _Task, needs: dict[str, float], stop: str) -> str:
    """Train a task on a worker, and return the error, empty on success."""
    from distributed import Event, get_client, get_worker

    worker = get_worker()
    threads = max(1, worker.state.nthreads // max(1, slots_of_worker(needs, worker)))
    stopped = Event(stop, client=get_client())
    if stopped.is_set():
        return "interrupted"
    with closing(_Child(task, threads)) as child:
        while (error := child.ended()) is None and not stopped.is_set():
            time.sleep(0.2)
    return "interrupted" if error is None else error


def cluster_error(future: Any) -> str:  # noqa: ANN401
    """Return why a task of a cluster has not finished, in one line."""
    from distributed import KilledWorker

    if future.status != "error":
        return "the connection to the scheduler was lost; start it and repeat the command"
    reason = future.exception()
    if isinstance(reason, KilledWorker):
        return f"{reason.allowed_failures + 1} workers died during this task; see their logs"
    return f"could not be run on the cluster: {_first_line(reason)}"


@contextmanager
def connected(scheduler: str | None, needs: Mapping[str, float]) -> Iterator[Any]:
    """Connect to a scheduler that has workers with these resources."""
    if scheduler is None:
        raise AttractorError(
            'backend "dask" needs the address of a scheduler, e.g. tcp://localhost:8786'
        )
    for name, amount in needs.items():
        if not amount > 0:
            raise AttractorError(f"resource {name} = {amount:g}: must be more than 0")
    distributed = optional_package("distributed", "cluster", 'backend "dask"')

    where = f"scheduler {scheduler}"
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:  # a TimeoutError is an OSError
        reason = f"cannot be reached ({_first_line(error)}); to start one, run: dask scheduler"
        raise AttractorError(f"{where}: {reason}") from None
    with client:
        offer = " ".join(f"{name}={amount:g}" for name, amount in needs.items())
        start = f"dask worker {scheduler}" + (f' --resources "{offer}"' if offer else "")
        try:
            client.wait_for_workers(1, timeout=WORKER_SECONDS)
        except TimeoutError:
            raise AttractorError(f"{where}: has no workers; to start one, run: {start}") from None
        try:
            slots = sum(client.run(slots_of_worker, needs).values())
        except Exception as error:
            reason = f"its workers cannot use this package ({_first_line(error)})"
            raise AttractorError(f"{where}: {reason}; install the same version on them") from None
        if not slots:
            reason = f"no worker has enough of {offer}; to start one, run: {start}"
            raise AttractorError(f"{where}: {reason}")
        yield client


def slots_of_worker(needs: Mapping[str, float], dask_worker: Any) -> int:  # noqa: ANN401
    """Return the number of runs that a worker of a cluster trains at once."""
    offers = dask_worker.state.total_resources
    # One per thread, unless a resource is used up before; 0.1 fits three times into 0.3.
    limits = [int(offers.get(name, 0) / amount + 1e-9) for name, amount in needs.items()]
    return min(dask_worker.state.nthreads, *limits) if limits else dask_worker.state.nthreads


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


# ---- the folder of a sweep ---------------------------------------------------------------------


def _write_states(folders: Collection[Path], errors: Mapping[Path, str]) -> None:
    """Write ``sweep.json`` in the parents of run folders; keep its entries of other runs.

    A run is ``"finished"``, ``"failed"`` with an ``"error"``, or ``"unfinished"``.
    """
    for parent in {folder.parent for folder in folders}:
        path = parent / SWEEP_FILE
        states = _read_states(path) if path.exists() else {}
        for folder in (folder for folder in folders if folder.parent == parent):
            error = errors.get(folder, "")
            state = "finished" if Run(folder).finished else "failed" if error else "unfinished"
            states[folder.name] = {"state": state} | ({"error": error} if error else {})
        write_json(path, {"runs": {name: states[name] for name in sorted(states, key=_natural)}})


def find_runs(*places: str | Path) -> list[Run]:
    """Return the finished runs, without duplicates, in natural order (seed2 before seed10).

    ``places``: run folders, folders of sweeps, and glob patterns such as ``"runs/*/seed[0-4]"``.
    """
    if not places:
        raise AttractorError("give at least one run folder, sweep folder or glob")
    found: dict[Path, Run] = {}
    for place in places:
        path = Path(place)
        matches = [path]
        if not path.exists():
            matches = [Path(n) for n in glob.glob(str(place), recursive=True)]  # noqa: PTH207
            matches = [match for match in matches if _is_run_or_sweep(match)]
        elif path.is_dir() and not _is_run_or_sweep(path):
            raise AttractorError(
                f"{path}: is neither a run nor a sweep (it has no config.toml and no "
                f"{SWEEP_FILE}); to use the runs in it, give '{path}/*'"
            )
        if not matches:
            raise AttractorError(f"{place}: there is no run; make runs with: attractor-ae sweep")
        found |= {run.path.resolve(): run for match in matches for run in _runs_in(match)}
    return sorted(found.values(), key=lambda run: _natural(str(run.path)))


def _is_run_or_sweep(path: Path) -> bool:
    return Run(path).config_file.is_file() or (path / SWEEP_FILE).is_file()


def _runs_in(path: Path) -> list[Run]:
    """Return the run of a run folder, or the runs of a sweep."""
    if Run(path).config_file.is_file() or not (path / SWEEP_FILE).is_file():
        return [Run.open(path)]
    states = _read_states(path / SWEEP_FILE)
    runs = [Run(path / name) for name in states]
    for run in runs:
        if not run.finished:
            error = states[run.path.name].get("error", "")
            raise AttractorError(
                f"{run.path}: its training is not finished{error and f' ({error})'}; repeat "
                "the sweep, or give only the folders of finished runs"
            )
    if not runs:
        raise AttractorError(f"{path}: the sweep has no runs; repeat it")
    return runs


def _read_states(path: Path) -> dict[str, dict[str, str]]:
    try:
        states = json.loads(path.read_text(encoding="utf-8"))["runs"]
        return {str(name): dict(state) for name, state in states.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise AttractorError(f"{path}: cannot be read as a sweep; remove it") from None


def _natural(text: str) -> list[str | int]:
    # Text and numbers alternate, so they are never compared with each other.
    parts = re.split("([0-9]+)", text)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _repeated(values: Sequence[Hashable]) -> list[Hashable]:
    return [value for value, times in Counter(values).items() if times > 1]
