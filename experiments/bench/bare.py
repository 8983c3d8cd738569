"""The least that a service can be: Starlette and uvicorn around the same model, without checks or limits."""

import os

import anyio
import anyio.to_thread
import mlflow.pyfunc
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

reader = mlflow.pyfunc.load_model(os.environ["BENCH_MODEL"]).unwrap_python_model()
topics = [label["name"] for label in reader.card["codebook"]["topics"]]
stances = [label["name"] for label in reader.card["codebook"]["stances"]]
limiter: anyio.CapacityLimiter | None = None


def read(passages: list[str]) -> list[dict[str, object]]:
    """The same answer as the service's, as plain dictionaries."""
    read = reader.read(passages)
    out: list[dict[str, object]] = []
    for row, abstained in enumerate(read.abstained.tolist()):
        topic = dict(zip(topics, read.topic_scores[row].tolist(), strict=True))
        stance = dict(zip(stances, read.stance_scores[row].tolist(), strict=True))
        out.append(
            {
                "topic": {"label": topics[read.topic[row]], "scores": topic},
                "stance": {"label": stances[read.stance[row]], "scores": stance},
                "abstained": abstained,
            }
        )
    return out


async def classify(request: Request) -> JSONResponse:
    """As many at once as there are threads, like the service."""
    global limiter
    limiter = limiter or anyio.CapacityLimiter(int(os.environ.get("IMMNEWS_THREADS", "2")))
    body = await request.json()
    return JSONResponse({"readings": await anyio.to_thread.run_sync(read, body["passages"], limiter=limiter)})


async def ready(_: Request) -> PlainTextResponse:
    """For the benchmark to wait for."""
    return PlainTextResponse("")


app = Starlette(routes=[Route("/classify", classify, methods=["POST"]), Route("/readyz", ready)])
