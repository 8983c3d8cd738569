"""The description of the HTTP interface at `/docs.json` (OpenAPI 3.1, because answers may be null)."""

from http import HTTPStatus
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.feedback import MAX_KEY, FeedbackAnswer, FeedbackRequest
from serving.page import ASSETS
from serving.schema import (
    MAX_EXPLAINED,
    ClassifyAnswer,
    ClassifyRequest,
    Codebook,
    Error,
    Model,
    ReadAnswer,
    ReadRequest,
)

EXPLAIN = {
    "name": "explain",
    "in": "query",
    "description": f"whether each reading names the phrases that moved it; at most {MAX_EXPLAINED} passages",
    "schema": {"type": "boolean", "default": False},
}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "makes it safe to send a correction again: the same key is stored once",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": "^[ -~]+$"},
}


class Route(NamedTuple):
    """One path; with a request body its method is POST, otherwise GET."""

    path: str
    summary: str
    answer: type[BaseModel] | None = None
    request: type[BaseModel] | None = None
    parameters: tuple[dict[str, Any], ...] = ()
    errors: tuple[int, ...] = ()  # besides those of all routes of its kind


ROUTES = [
    Route("/classify", "Topic and stance of passages", ClassifyAnswer, ClassifyRequest, (EXPLAIN,)),
    Route("/read", "An article cut into passages, each read", ReadAnswer, ReadRequest, (EXPLAIN,)),
    Route(
        "/feedback",
        "A correction, kept before it is acknowledged",
        FeedbackAnswer,
        FeedbackRequest,
        (IDEMPOTENCY_KEY,),
        (409,),
    ),
    Route("/codebook", "The labels, what they mean and how to choose between them", Codebook),
    Route("/model", "What is served: versions, digests, measured quality", Model),
    *(Route(path, "The page for people: " + name) for path, (name, _) in ASSETS.items()),
    Route("/livez", "Whether the process lives"),
    Route("/readyz", "Whether the model is loaded"),
    Route("/metrics", "Figures for Prometheus"),
    Route("/docs.json", "This description"),
    Route("/schema.json", "BentoML's own description, which its client reads"),
]
OPEN = {"/livez", "/readyz"}
BODY_ERRORS: tuple[int, ...] = (400, 408, 413, 415)
ALWAYS_ERRORS = (429, 503)


class Document(dict[str, Any]):
    """The description as BentoML asks for it."""

    def asdict(self) -> dict[str, Any]:
        """The description itself."""
        return dict(self)


def describe(version: str) -> Document:
    """The whole interface, for a service of one version."""
    bodies: list[type[BaseModel]] = [Error]
    for route in ROUTES:
        bodies += [model for model in (route.request, route.answer) if model is not None]
    _, schemas = models_json_schema(
        [(model, "validation") for model in bodies], ref_template="#/components/schemas/{model}"
    )
    return Document(
        openapi="3.1.0",
        info={"title": "immigration-news", "version": version, "description": "Topic and stance of news passages."},
        servers=[{"url": "."}],
        paths={route.path: {"post" if route.request else "get": _operation(route)} for route in ROUTES},
        components={
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    )


def _operation(route: Route) -> dict[str, Any]:
    errors = (BODY_ERRORS if route.request else ()) + route.errors
    errors += () if route.path in OPEN else (401, 421, *ALWAYS_ERRORS)
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.path.strip("/").replace(".", "_") or "page",
        "responses": {
            "200": {"description": "OK", **(_json(route.answer) if route.answer else {})},
            **{str(status): {"description": HTTPStatus(status).phrase, **_json(Error)} for status in errors},
        },
    }
    if route.path not in OPEN:
        # An empty requirement beside it: the token is asked for only where one is set.
        operation["security"] = [{}, {"token": []}]
    if route.parameters:
        operation["parameters"] = list(route.parameters)
    if route.request:
        operation["requestBody"] = {"required": True, **_json(route.request)}
    return operation


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}}
