"""An HTTP server for verdicts: images in, the rows of ``score`` out (extra ``serve``).

Images of all requests share one queue. One thread scores all waiting images; others decode.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
import prometheus_client
from fastapi import FastAPI, HTTPException, Response, UploadFile
from PIL import Image
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attractor_ae import __version__
from attractor_ae.data.decode import (
    UndecodableError,
    decode_quietly,
    readable_formats,
    without_warnings,
)
from attractor_ae.deploy.model import CHUNK, Model
from attractor_ae.deploy.verdicts import UNSCORED, Verdict


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        bytes: Size of a request.
        pixels: Pixels of an image.
        queue: Images that are waiting or being scored; a request that would exceed it is refused.
        seconds: Duration of a request, its upload included.
    """

    bytes: int = 32 * 2**20
    pixels: int = 50_000_000
    queue: int = 512
    seconds: float = 30.0


def make_app(model: Model, *, alpha: float | None = None, limits: Limits | None = None) -> FastAPI:
    """Return the application that serves a model, for uvicorn or another ASGI server.

    ``POST /score`` with one or more files ``images`` returns one row per image; ``GET /health`` and
    ``GET /metrics`` (Prometheus) are for operation; ``/docs`` describes the interface. ``alpha``
    replaces the model's.

    Raises:
        AttractorError: If alpha needs more calibration images.
    """
    limits = limits or Limits()
    alpha = model.checked_alpha(alpha)
    scorer = _Scorer(model, alpha, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with without_warnings():  # a state of the whole process
            task = asyncio.create_task(scorer.run())
            yield
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    app = FastAPI(title="attractor-ae", version=__version__, lifespan=lifespan)
    app.add_middleware(_Limited, limits=limits)

    @app.post("/score")
    async def score(images: list[UploadFile], scores: bool = False) -> list[dict[str, Any]]:
        """Return one row per image, with the columns of ``attractor-ae score``.

        An image that cannot be read has the verdict "unscored" and a reason. ``scores`` adds the
        p-value of each component of the OOD score.
        """
        files = [(file.filename or "", await file.read()) for file in images]
        return [verdict.row(scores) for verdict in await scorer.verdicts(files)]

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Return the model that is served."""
        classes = list(model.classes)
        return {"status": "ok", "model": model.digest, "alpha": alpha, "classes": classes}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return counts of verdicts, seconds of scoring and the length of the queue."""
        text = prometheus_client.generate_latest(scorer.registry)
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    return app


class _Scorer:
    """Decodes images, and scores those that are waiting together."""

    def __init__(self, model: Model, alpha: float, limits: Limits) -> None:
        self.model, self.alpha, self.limits = model, alpha, limits
        self.waiting: asyncio.Queue[tuple[Any, asyncio.Future[Verdict]]] = asyncio.Queue()
        self.decoders, self.thread = ThreadPoolExecutor(2), ThreadPoolExecutor(1)
        self.images = 0
        registry = self.registry = prometheus_client.CollectorRegistry()
        names = {"registry": registry, "namespace": "attractor_ae"}
        self.counts = prometheus_client.Counter("verdicts", "Images", ["verdict"], **names)
        self.seconds = prometheus_client.Summary("batch_seconds", "Scoring of a batch", **names)
        gauge = prometheus_client.Gauge("images_in_progress", "Images in progress", **names)
        gauge.set_function(lambda: self.images)

    async def verdicts(self, files: list[tuple[str, bytes]]) -> list[Verdict]:
        if self.images + len(files) > self.limits.queue:
            busy = f"{self.images} images are waiting; try again later"
            raise HTTPException(503, busy, headers={"Retry-After": "1"})
        self.images += len(files)
        try:
            return await asyncio.gather(*(self._verdict(*file) for file in files))
        finally:
            self.images -= len(files)

    async def _verdict(self, name: str, data: bytes) -> Verdict:
        loop = asyncio.get_running_loop()
        try:
            image = await loop.run_in_executor(self.decoders, self._decode, data)
        except UndecodableError as error:
            verdict = Verdict(name, UNSCORED, reason=error.reason)
        else:
            scored: asyncio.Future[Verdict] = loop.create_future()
            await self.waiting.put((image, scored))
            verdict = replace(await scored, path=name)
        self.counts.labels(verdict.verdict).inc()
        return verdict

    def _decode(self, data: bytes) -> Any:  # noqa: ANN401
        width = height = 0
        with suppress(Exception), Image.open(BytesIO(data), formats=readable_formats()) as image:
            width, height = image.size
        if width * height > self.limits.pixels:
            reason = f"has {width} x {height} pixels; this server reads {self.limits.pixels}"
            raise UndecodableError("image", reason)
        return decode_quietly(data, self.model.image_format)

    async def run(self) -> None:
        """Score the images that are waiting, until the task is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self.waiting.get()]
            while len(batch) < CHUNK and not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            batch = [(image, scored) for image, scored in batch if not scored.done()]
            if not batch:  # their requests have ended before
                continue
            try:
                with self.seconds.time():
                    images = [image for image, _ in batch]
                    found = await loop.run_in_executor(self.thread, self._score, images)
            except Exception as error:
                for _, scored in batch:
                    if not scored.done():
                        scored.set_exception(error)
                continue
            for (_, scored), verdict in zip(batch, found, strict=True):
                if not scored.done():
                    scored.set_result(verdict)

    def _score(self, images: list[Any]) -> list[Verdict]:
        return self.model.score(np.stack(images), alpha=self.alpha)


class _Limited:
    """Middleware that bounds the size and the duration of a request."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        received, started = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limits.bytes:
                larger = f"the request is larger than {self.limits.bytes} bytes"
                raise HTTPException(413, larger)
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with asyncio.timeout(self.limits.seconds):
                await self.app(scope, counted, noted)
        except TimeoutError:
            if not started:
                detail = f"the request took longer than {self.limits.seconds:g} seconds"
                await JSONResponse({"detail": detail}, 504)(scope, receive, send)
