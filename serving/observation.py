"""What an operator sees of each request: one line of JSON in the log, and figures for Prometheus. Never its text."""

import asyncio
import logging
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

from prometheus_client import Counter, Histogram
from pythonjsonlogger.json import JsonFormatter
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("immigration_news")

REQUESTS = Counter("immigration_news_requests", "Requests, refused ones included", ["route", "status", "model_version"])
SECONDS = Histogram(
    "immigration_news_request_seconds", "From a request's head to the end of its answer", ["route", "model_version"]
)
SIZES = Histogram(
    "immigration_news_request_passages", "Passages in a request", ["model_version"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)  # fmt: skip
BATCHES = Histogram(
    "immigration_news_batch_passages", "Passages read together, of one or several requests", ["model_version"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
)  # fmt: skip
LENGTHS = Histogram(
    "immigration_news_passage_characters", "Length of a passage", ["model_version"],
    buckets=(50, 100, 200, 400, 800, 1600, 3200, 10_000),
)  # fmt: skip
LABELS = Counter("immigration_news_labels", "Labels given", ["model_version", "head", "label"])
ABSTENTIONS = Counter("immigration_news_abstentions", "Passages on which the model abstained", ["model_version"])

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


class Observed:
    """ASGI application around the service's: times and logs each request, and gives it an `X-Request-ID`.

    `scope["state"]` takes what only the service knows (`record`), and holds an event that is set once the answer is
    out or the client has been told that it took too long (`over`), so that work that no one waits for stops. The
    connection says there which answer it gave in the middle of a body (`refused`). Status 0: the client left first.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[str]) -> None:
        self.app, self.routes = app, frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        over, record = threading.Event(), dict[str, Any]()
        scope.setdefault("state", {}).update(over=over, record=record)
        start, status = time.perf_counter(), 0

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, seen)
        except BaseException as error:
            if not status:  # what uvicorn would say is not JSON, and would not be counted
                cut = isinstance(error, asyncio.CancelledError)  # the time to shut down is over
                code, why = (
                    (503, "the service is shutting down") if cut else (500, "the service failed; its log says how")
                )
                with suppress(Exception):
                    await JSONResponse({"error": why}, code, {"Retry-After": "1"} if cut else {})(scope, receive, seen)
            raise
        finally:
            over.set()
            # An unknown path or method is the client's text, and an endless supply of label values.
            method = scope["method"] if scope["method"] in METHODS else "other"
            route, seconds = scope["path"] if scope["path"] in self.routes else "other", time.perf_counter() - start
            status = scope["state"].get("refused", status)
            count_request(route, status)
            SECONDS.labels(route, Observer.served).observe(seconds)
            if route not in ("/livez", "/readyz", "/metrics"):
                facts = {"request_id": request_id, "method": method, "route": route, "status": status}
                log.info("request", extra={**facts, "milliseconds": round(1000 * seconds, 1), **record})


class Observer:
    """Counts what one served model reads. `served` is the version that this process serves, "" until it has loaded."""

    served: ClassVar[str] = ""

    def __init__(self, version: str) -> None:
        self.version = Observer.served = version
        self.logs_text = os.environ.get("IMMNEWS_LOG_TEXT", "").lower() == "true"

    def count_batch(self, passages: int) -> None:
        """Count what was read at once."""
        BATCHES.labels(self.version).observe(passages)

    def count(
        self, passages: Sequence[str], topics: Sequence[str], stances: Sequence[str | None], abstained: Sequence[bool]
    ) -> dict[str, Any]:
        """Count a request's passages; gives what its line in the log says of them."""
        SIZES.labels(self.version).observe(len(passages))
        for passage in passages:
            LENGTHS.labels(self.version).observe(len(passage))
        for head, labels in (("topic", topics), ("stance", stances)):
            for label in labels:
                if label is not None:
                    LABELS.labels(self.version, head, label).inc()
        ABSTENTIONS.labels(self.version).inc(sum(abstained))
        facts = {"passages": len(passages), "characters": sum(map(len, passages)), "abstained": sum(abstained)}
        return {**facts, "model_version": self.version} | ({"texts": list(passages)} if self.logs_text else {})


def count_request(route: str, status: int) -> None:
    """Count a request that has its answer."""
    REQUESTS.labels(route, status, Observer.served).inc()


class JsonLines(JsonFormatter):
    """A record as one line of JSON. Of an exception only the type and the place: its message may quote a passage."""

    def __init__(self) -> None:
        names = {"asctime": "time", "levelname": "level", "name": "logger"}
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S%z", rename_fields=names)

    def formatException(self, ei: Any) -> str:  # noqa: N802 (the library's name)
        """The frames, and the type's name."""
        frames = [line for line in str(super().formatException(ei)).splitlines() if line.startswith("  File ")]
        return "\n".join([*frames, ei[0].__name__])


def log_as_json() -> None:
    """Have this process log JSON to its output, BentoML's lines and uvicorn's too."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    log.setLevel(logging.INFO)
    for logger in (logging.getLogger(), logging.getLogger("bentoml"), logging.getLogger("uvicorn.error"), log):
        logger.handlers = [handler]
        logger.propagate = False
