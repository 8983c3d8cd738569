"""What stands before BentoML: token, routes, types and sizes are checked here, and every error leaves as the contract
says. A request that is refused here costs no place in BentoML's queue, and no traceback in the log."""

import base64
import hmac
import json
import os
import re
import reprlib
from collections.abc import Set
from http import HTTPStatus

from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import openapi
from serving.bodies import Bodies, Disconnected, read_body
from serving.page import ASSETS
from serving.parsing import BadBody, parse
from serving.refusal import Refused

# Routes of BentoML that the description does not name (its upload page, its task queue) stay closed.
METHODS: dict[str, tuple[str, ...]] = {
    route.path: ("POST",) if route.request else ("GET", "HEAD") for route in openapi.ROUTES
}
EXPLAIN = {route.path for route in openapi.ROUTES if openapi.EXPLAIN in route.parameters}
LOOPBACK = {"localhost", "127.0.0.1", "[::1]", "::1"}
BODIES = {route.path: route.request for route in openapi.ROUTES if route.request}


class Guard:
    """ASGI application around BentoML's. The settings `IMMNEWS_API_TOKEN` and `IMMNEWS_ALLOWED_HOSTS` (names with
    commas between) are read once, at start."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.bodies = app, Bodies()
        self.token = os.environ.get("IMMNEWS_API_TOKEN") or None
        self.hosts = {name.strip().lower() for name in os.environ.get("IMMNEWS_ALLOWED_HOSTS", "").split(",")} - {""}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit or refuse one request; websockets are refused unseen."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        try:
            headers = Headers(scope=scope)
            check_token(self.token, scope["path"], headers)
            check_host(self.hosts, scope, headers)
            check_path(scope["path"])
            posted = scope["method"] == "POST" and scope["path"] in BODIES
            if posted or has_body(headers):
                check_type(headers)
            check_method(scope["method"], scope["path"])
            check_query(scope["path"], QueryParams(scope["query_string"]))
            send_on = contract_errors(scope, receive, send)
            if not posted:
                return await self.app(scope, receive, send_on)
            with self.bodies.share() as grow:
                body = await read_body(headers, receive, grow)
                parse(body, BODIES[scope["path"]])
                await self.app(scope, replay(body, receive), send_on)
        except Refused as refusal:
            await refusal.response()(scope, receive, send)
        except BadBody as error:
            await Refused(HTTPStatus.BAD_REQUEST, str(error)).response()(scope, receive, send)
        except Disconnected:
            return


def check_token(token: str | None, path: str, headers: Headers) -> None:
    """Refuse (401) a request without the token, if one is set. The comparison takes the same time for any guess."""
    if token is None or path in openapi.OPEN:
        return
    scheme, _, given = headers.get("authorization", "").partition(" ")
    secret = given.strip().encode("latin-1")  # as header values arrive
    if scheme.lower() == "basic":
        secret = _password(secret)
    if scheme.lower() not in ("bearer", "basic") or not hmac.compare_digest(secret, token.encode()):
        message = "this service wants the header `Authorization: Bearer <token>` with its token"
        raise Refused(HTTPStatus.UNAUTHORIZED, message, {"WWW-Authenticate": _challenge(path)})


def _password(credentials: bytes) -> bytes:
    """A browser cannot send a bearer token when it opens a page: it asks for a password, which is the token."""
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except ValueError:
        return b""


def _challenge(path: str) -> str:
    return 'Basic realm="immigration-news: the token as password", charset="UTF-8"' if path in ASSETS else "Bearer"


def check_host(allowed: Set[str], scope: Scope, headers: Headers) -> None:
    """Refuse (421) a request for another host: a page elsewhere whose name was made to point here (DNS rebinding).

    Without `allowed` names, what comes over the loopback interface must name it, and anything else may name any host.
    Health and readiness are open here too: whoever probes them names an address.
    """
    if scope["path"] in openapi.OPEN:
        return
    name = headers.get("host", "").strip().lower()
    host = name.rpartition(":")[0] if re.search(r":\d*$", name) else name
    server = (scope.get("server") or ("",))[0]
    if not allowed and not (server in LOOPBACK or server.startswith("127.")):
        return
    if host not in (allowed or LOOPBACK):
        known = ", ".join(sorted(allowed or LOOPBACK))
        message = (
            f"the Host header names {reprlib.repr(host)}; served are {known}; others go into IMMNEWS_ALLOWED_HOSTS"
        )
        raise Refused(HTTPStatus.MISDIRECTED_REQUEST, message)


def check_query(path: str, query: QueryParams) -> None:
    """Refuse (400) a parameter that an explaining route does not know."""
    if path not in EXPLAIN:
        return
    for name, value in query.multi_items():
        if name != "explain" or value not in ("true", "false"):
            given = f"{reprlib.repr(name)}={reprlib.repr(value)}"
            raise Refused(
                HTTPStatus.BAD_REQUEST, f"query: {given} is not known; {path} takes explain=true or explain=false"
            )


def check_path(path: str) -> None:
    """Refuse an unknown path (404)."""
    if path not in METHODS:
        raise Refused(HTTPStatus.NOT_FOUND, f"no such route; there are {', '.join(METHODS)}")


def check_method(method: str, path: str) -> None:
    """Refuse a method that a path does not take (405)."""
    if method not in METHODS[path]:
        allowed = ", ".join(METHODS[path])
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} takes {allowed}", {"Allow": allowed})


def has_body(headers: Headers) -> bool:
    """Whether a request brings one, which only some routes take."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def check_type(headers: Headers) -> None:
    """Refuse (415) whatever is not plain JSON before a byte is read: BentoML would take forms, and pickles inside."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "compressed bodies (Content-Encoding) are refused")


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands out a body already read, then whatever follows (a disconnection)."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def contract_errors(scope: Scope, receive: Receive, send: Send) -> Send:
    """A `send` that passes answers on, and rewrites errors of BentoML and Starlette to `{"error": ...}`."""
    status, body = 0, b""

    async def rewritten(message: Message) -> None:
        nonlocal status, body
        if message["type"] == "http.response.start" and message["status"] >= HTTPStatus.BAD_REQUEST:
            # BentoML's 504 says that a request waited too long; to the client that is overload.
            status = 503 if message["status"] == HTTPStatus.GATEWAY_TIMEOUT else message["status"]
        elif not status:
            await send(message)
        else:
            body += message.get("body", b"")
            if not message.get("more_body", False):
                await Refused(status, error_text(status, body)).response()(scope, receive, send)

    return rewritten


def error_text(status: int, body: bytes) -> str:
    """The message inside an error answer: BentoML sends an object, or a list of one; Starlette plain text."""
    try:
        answer = json.loads(body)
        answer = answer[0] if isinstance(answer, list) else answer
        return str(answer["error"])
    except (ValueError, LookupError, TypeError):
        return HTTPStatus(status).phrase
