"""The service: one checked model, loaded once a worker, that answers over HTTP as the contract says."""

import sys
import threading
from pathlib import Path
from typing import Any

import bentoml
import uvicorn.config
from _bentoml_sdk import Service  # type: ignore[import-untyped]  # BentoML's public modules do not name it
from bentoml.images import Image
from bentoml.mlflow import MLFLOW_MODEL_FOLDER
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from serving import connections, manifest, openapi
from serving.articles import cut
from serving.batching import Batcher
from serving.corrections import corrections_url, open_store
from serving.draining import Draining
from serving.feedback import feedback
from serving.guard import METHODS, Guard
from serving.observation import Observed, Observer, log_as_json
from serving.page import Page
from serving.schema import (
    MAX_CUT,
    MAX_EXPLAINED,
    OFF_TOPIC,
    ClassifyAnswer,
    ClassifyRequest,
    Codebook,
    Error,
    Explanation,
    Label,
    Mark,
    Model,
    ReadAnswer,
    Reading,
    ReadPassage,
    ReadRequest,
    Served,
)
from serving.settings import seconds, threads
from serving.summary import summarise
from serving.supervisor import watch_closely

NAME = "immigration-news"
# Beyond this many requests at once the next is told to come back (429); within it, each waits its turn.
CONCURRENT = 128
# Between so many passages of a request it is looked whether someone still waits for them, and others get their turn.
AT_ONCE = 16
# So many requests wait for the batcher at once; a batch takes no more of them once it has so many passages; and so many
# may wait for explanations, which take 25 readings a passage: others must get their turn.
WAITING, BATCH, EXPLAINERS = 32, 64, 8


class NoOneWaits(Exception):
    """The request timed out while it was being read: its thread ends here, and no one sees this."""


class Arguments(BaseModel):
    """What `bentoml serve --arg` and `bentoml build --arg` take; a bento keeps what it was built with."""

    model: str = f"{NAME}:latest"


class GuardedService(Service[Any]):
    """A BentoML service behind our guard, described by our own document."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """The guard goes outermost: BentoML puts middleware that it is given inside its own."""
        log_as_json()
        uvicorn.config.HTTP_PROTOCOLS["auto"] = connections.HERE
        return Observed(Draining(Guard(Page(super().to_asgi(is_main=is_main)))), list(METHODS))

    @property
    def openapi_spec(self) -> openapi.Document:
        """BentoML's own lacks routes that are not POST, and answers that may be null."""
        return openapi.describe(self.bento.tag.version or "" if self.bento else "checkout")


async def codebook(_: Request) -> JSONResponse:
    """`GET /codebook`."""
    return JSONResponse(bentoml.get_current_service().codebook)


async def model(_: Request) -> JSONResponse:
    """`GET /model`."""
    return JSONResponse(bentoml.get_current_service().model)


@bentoml.service(
    name=NAME,
    service_class=GuardedService,
    image=Image(python_version="3.11", lock_python_packages=False),
    workers=1,
    threads=WAITING,  # they only wait: one thread reads, by IMMNEWS_THREADS more
    traffic={"timeout": seconds("IMMNEWS_TIMEOUT_SECONDS"), "max_concurrency": CONCURRENT},
    # Spans cost a fifth of the throughput even where nothing collects them.
    tracing={"excluded_urls": ".*"},
    logging={"access": {"enabled": False}},  # `Observed` says more
)
@bentoml.asgi_app(
    Starlette(
        routes=[
            Route("/codebook", codebook),
            Route("/model", model),
            Route("/feedback", feedback, methods=["POST"]),
        ]
    )
)
class ImmigrationNews:
    """Topic and stance of news passages on immigration."""

    stored = bentoml.models.BentoModel(bentoml.use_arguments(Arguments).model)
    # Called in the process that starts the workers, before it starts any.
    supervised = bentoml.on_deployment(watch_closely)

    def __init__(self) -> None:
        stored = self.stored
        # The model's own code must not leave bytecode beside it: unlisted files are refused at the next start.
        sys.dont_write_bytecode = True
        registered = stored.info.metadata
        manifest.check_exactly(Path(stored.path_of(MLFLOW_MODEL_FOLDER)), registered["manifest"])
        self.reader = bentoml.mlflow.load_model(stored).unwrap_python_model()
        card = self.reader.card
        self.codebook = Codebook.model_validate(card["codebook"]).model_dump(mode="json")
        self.topics = [topic["name"] for topic in self.codebook["topics"]]
        self.stances = [stance["name"] for stance in self.codebook["stances"]]
        described = {**card, **registered, "codebook": self.codebook["version"]}
        self.model = Model.model_validate(described).model_dump(mode="json")
        self.served = Served.model_validate(self.model)
        self.observer = Observer(self.served.version)
        self.batcher = Batcher(self._read_together, BATCH)
        self.explaining = threading.BoundedSemaphore(threads())
        self.explainers = threading.BoundedSemaphore(EXPLAINERS)
        self.corrections = open_store(corrections_url())

    @bentoml.api(input_spec=ClassifyRequest, output_spec=ClassifyAnswer)  # type: ignore[untyped-decorator]
    def classify(self, passages: list[str], ctx: bentoml.Context) -> ClassifyAnswer | Error:
        """Topic and stance of each passage, in order."""
        if refusal := _refusal(len(passages), ctx):
            return refusal
        read = self._readings(passages, ctx)
        if read is None:
            return _busy(ctx)
        return ClassifyAnswer(readings=[Reading(**reading) for reading in read], model=self.served)

    @bentoml.api(input_spec=ReadRequest, output_spec=ReadAnswer)  # type: ignore[untyped-decorator]
    def read(self, article: str, title: str | None, ctx: bentoml.Context) -> ReadAnswer | Error:
        """The article's passages, each read on its own: the title is no part of any, and sways none."""
        text, spans = cut(article)
        if refusal := _refusal(len(spans), ctx):
            return refusal
        passages = [text[start:end] for start, end in spans]
        readings = self._readings(passages, ctx)
        if readings is None:
            return _busy(ctx)
        read = [
            ReadPassage(text=passage, start=start, end=end, **reading)
            for passage, (start, end), reading in zip(passages, spans, readings, strict=True)
        ]
        stances = [passage.stance.label if passage.stance else None for passage in read]
        abstained = [passage.abstained for passage in read]
        labels = [passage.topic.label for passage in read]
        summary = summarise(labels, stances, abstained, self.topics, self.stances)
        return ReadAnswer(article=text, passages=read, summary=summary, model=self.served)

    def _readings(self, passages: list[str], ctx: bentoml.Context) -> list[dict[str, Any]] | None:
        """The fields of a reading for each passage; None where too many others wait for explanations."""
        different, over, explained = list(dict.fromkeys(passages)), ctx.request.state.over, _explains(ctx)
        if explained and not self.explainers.acquire(blocking=False):
            return None
        try:
            read: list[Any] = []
            for at in range(0, len(different), AT_ONCE):
                _go_on(over)
                read += self.batcher(different[at : at + AT_ONCE])
            readings = [self._reading(one) for one in read]
            if explained:
                for passage, one, reading in zip(different, read, readings, strict=True):
                    reading["explanation"] = self._explanation(passage, one, bool(reading["stance"]), over)
        finally:
            if explained:
                self.explainers.release()
        by_text = dict(zip(different, readings, strict=True))
        all_of_them = [by_text[passage] for passage in passages]
        topics = [reading["topic"].label for reading in all_of_them]
        stances = [reading["stance"] and reading["stance"].label for reading in all_of_them]
        abstained = [reading["abstained"] for reading in all_of_them]
        ctx.request.state.record.update(self.observer.count(passages, topics, stances, abstained))
        return all_of_them

    def _explanation(self, passage: str, read: Any, on_topic: bool, over: threading.Event) -> Explanation:
        """What moved the model's reading of one passage; as many are explained at once as there are threads."""
        while not self.explaining.acquire(timeout=0.2):
            _go_on(over)
        try:
            _go_on(over)
            [marks] = self.reader.explain([passage], read)
        finally:
            self.explaining.release()
        topic, stance = ([Mark(**mark._asdict()) for mark in head] for head in marks)
        return Explanation(topic=topic, stance=stance if on_topic else None)

    def _read_together(self, passages: list[str]) -> list[Any]:
        """The model's readings of passages of any requests, each as if the passage had been read alone."""
        self.observer.count_batch(len(passages))
        read = self.reader.read(passages)
        return [read._make(column[at : at + 1] for column in read) for at in range(len(passages))]

    def _reading(self, read: Any) -> dict[str, Any]:
        """The fields of an answer from the model's reading of one passage."""
        topic = _label(read.topic[0], read.topic_scores[0], self.topics)
        stance = _label(read.stance[0], read.stance_scores[0], self.stances) if topic.label != OFF_TOPIC else None
        return {"topic": topic, "stance": stance, "abstained": bool(read.abstained[0])}


def _go_on(over: threading.Event) -> None:
    """Raises NoOneWaits where the request's client has been told to come back."""
    if over.is_set():
        raise NoOneWaits


def _busy(ctx: bentoml.Context) -> Error:
    ctx.response.status_code = 429
    return Error(error=f"{EXPLAINERS} requests for explanations are being answered; come back, or leave explain out")


def _refusal(passages: int, ctx: bentoml.Context) -> Error | None:
    """A 400 where there are too many passages; what is raised would leave a traceback in the log."""
    if passages > MAX_CUT:
        error = f"article: it has {passages:,} passages, at most {MAX_CUT:,} are read; send it in parts"
    elif passages > MAX_EXPLAINED and _explains(ctx):
        remedy = f"at most {MAX_EXPLAINED} are explained at once; explain them in parts, or leave it out"
        error = f"explain: there are {passages} passages; {remedy}"
    else:
        return None
    ctx.response.status_code = 400
    return Error(error=error)


def _explains(ctx: bentoml.Context) -> bool:
    """Whether the query asks for explanations; the guard let nothing else pass."""
    return bool(ctx.request.query_params.get("explain") == "true")


def _label(index: int, scores: Any, names: list[str]) -> Label:
    """One answer from a row of scores, in the order of the names."""
    by_name = dict(zip(names, scores.tolist(), strict=True))
    return Label(label=names[index], confidence=by_name[names[index]], scores=by_name)
