"""On SIGTERM the service first says that it is no longer ready, answers on for a moment, and only then closes."""

import asyncio
import signal
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.settings import seconds


class Draining:
    """ASGI application around the service's; `IMMNEWS_DRAIN_SECONDS` is read once, at start."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.seconds = seconds("IMMNEWS_DRAIN_SECONDS")
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; while draining `/readyz` says 503, and every answer that its connection will close."""

        async def closing(message: Message) -> None:
            if self.draining and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        if scope["type"] == "lifespan":
            self._delay_the_server()
        elif self.draining and scope.get("path") == "/readyz":
            answer = JSONResponse({"error": "the service is shutting down"}, 503, {"Retry-After": "1"})
            return await answer(scope, receive, closing)
        await self.app(scope, receive, closing)

    def _delay_the_server(self) -> None:
        """Put a pause before what uvicorn does on SIGTERM: it stops accepting at once, and finishes what it has."""
        server, loop = signal.getsignal(signal.SIGTERM), asyncio.get_running_loop()
        if not callable(server):
            return  # not under uvicorn

        def drain(number: int, frame: Any) -> None:
            if not self.draining:
                self.draining = True
                loop.call_soon_threadsafe(loop.call_later, self.seconds, server, number, None)

        signal.signal(signal.SIGTERM, drain)
