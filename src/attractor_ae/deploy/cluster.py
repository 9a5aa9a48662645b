"""Scoring on a cluster of dask.distributed: chunks of paths go to workers, in their order."""

import copy
import errno
import os
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from attractor_ae._errors import AttractorError, check_known
from attractor_ae.data.decode import displayed
from attractor_ae.deploy.model import Model, ScoreChunks, load_model
from attractor_ae.deploy.verdicts import Verdict
from attractor_ae.experiment.sweep import cluster_error, connected

LOCAL = "local"
BACKENDS = (LOCAL, "dask")
"""This machine, or a cluster of dask.distributed."""

_PER_THREAD = 4  # chunks that wait for a thread of the cluster, or for the ones before them
_MISSING = os.strerror(errno.ENOENT)
_LOCK = threading.Lock()  # the threads of a worker share the model and the state of decoding


def check_backend(backend: str, scheduler: str | None) -> None:
    """Raise `AttractorError` if the backend is unknown, or the scheduler does not match it."""
    check_known("backend", backend, BACKENDS)
    if backend == LOCAL and scheduler is not None:
        raise AttractorError('scheduler requires backend "dask"; set it as well')


@contextmanager
def scoring(model: Model, backend: str, scheduler: str | None) -> Iterator[ScoreChunks]:
    """Yield the function that scores chunks of paths on a backend.

    Raises:
        AttractorError: If the cluster cannot be reached or used; when chunks are scored, if it is
            lost, or if its workers do not find a file that is here.
    """
    if backend == LOCAL:
        yield model.score_chunks
        return
    with tempfile.TemporaryDirectory() as folder, connected(scheduler, {}) as client:
        file = Path(folder) / "model"
        copy.copy(model).save(file)
        data = client.scatter(file.read_bytes(), broadcast=True, hash=False)
        here = os.getcwd()  # noqa: PTH109

        def score_chunks(
            chunks: Iterator[Sequence[str]], options: dict[str, Any]
        ) -> Iterator[list[Verdict]]:
            waiting, most = deque[Any](), 1
            for place, chunk in enumerate(chunks):
                if place % most == 0:
                    with suppress(OSError):  # the result says that the scheduler was lost
                        most = _PER_THREAD * max(1, sum(client.nthreads().values()))
                waiting.append(client.submit(_score, data, here, chunk, options, pure=False))
                if len(waiting) >= most:
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())

        yield score_chunks


def _result(future: Any) -> list[Verdict]:  # noqa: ANN401
    try:
        verdicts = future.result()
    except AttractorError:  # e.g. the extractor is not installed there
        raise
    except Exception:
        raise AttractorError(cluster_error(future)) from None
    for path in (verdict.path for verdict in verdicts if verdict.reason == _MISSING):
        if os.path.exists(path):  # noqa: PTH110
            raise AttractorError(
                f"{displayed(path)}: a worker of the cluster does not find it; all machines must "
                "share the images under the same path"
            )
    return verdicts


@lru_cache(maxsize=1)
def _loaded(data: bytes) -> Model:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model"
        file.write_bytes(data)
        return load_model(file)


def _score(
    data: bytes, folder: str, paths: Sequence[str], options: dict[str, Any]
) -> list[Verdict]:
    """Score paths, relative to a folder, on a worker."""
    with _LOCK:
        absolute = [os.path.join(folder, path) for path in paths]  # noqa: PTH118
        (verdicts,) = _loaded(data).score_chunks(iter([absolute]), options)
    return [replace(found, path=path) for found, path in zip(verdicts, paths, strict=True)]
