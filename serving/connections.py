"""Connections that say nothing, or never say all of it, or do not listen, are closed: uvicorn waits without end."""

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from serving.observation import count_request

HEAD_SECONDS = 8.0  # from a connection's start, or from the first byte of its next request, to the end of the head
UNREAD_SECONDS = 20.0  # how long an answer may wait for a client that does not read
# What has more lines than the first must have so many bytes in each; a body, which is no row of short requests, so
# many. A chunk of one byte costs as much as a large one: ten clients that send nothing else would keep out all others.
LINES, LINE, BODY_LINE = 4_000, 8, 64
NOT_HTTP = b'{"error": "this is not HTTP, or in tiny chunks; send whole requests, each with a Host header"}'
HERE = f"{__name__}:Impatient"  # as uvicorn names a protocol


class Impatient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # one of two classes, by what is installed
    """uvicorn's HTTP protocol, which closes a connection whose head takes longer than `HEAD_SECONDS`, and one that
    leaves more than the send buffer unread for `UNREAD_SECONDS`, since it would keep its place among the requests. What
    is not HTTP, or has too many too short lines, is refused as the contract says.

    uvicorn's own timer runs between requests only, and any byte stops it.
    """

    _late: asyncio.TimerHandle  # set as soon as there is a connection
    _unread: asyncio.TimerHandle | None = None
    _lines = _bytes = 0  # of this request

    def connection_made(self, transport: Any) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Stop the clock while a request is being answered; start it where another has begun; parse no tiny chunks."""
        self._lines, self._bytes = self._lines + data.count(b"\r\n"), self._bytes + len(data)
        within = self.cycle is not None and self.cycle.more_body
        if self._lines > LINES and self._bytes < (BODY_LINE if within else LINE) * self._lines:
            return self.send_400_response("")
        super().data_received(data)
        if self._answering():
            self._late.cancel()
        elif self._late.cancelled():
            self._wait_for_head()

    def on_response_complete(self) -> None:
        """The next request is counted anew."""
        self._lines = self._bytes = 0
        super().on_response_complete()

    def send_400_response(self, _: str) -> None:
        """Refuse what is not HTTP as the contract says, and count it; a request that has begun counts itself."""
        if not self._answering():
            count_request("other", 400)
        elif not self.cycle.response_started:
            self.cycle.scope["state"]["refused"] = 400
        if not self._answering() or not self.cycle.response_started:
            head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(NOT_HTTP)}\r\n"
            self.transport.write(head.encode() + b"connection: close\r\n\r\n" + NOT_HTTP)
        self.transport.close()

    def pause_writing(self) -> None:
        """The send buffer is full: start another clock."""
        super().pause_writing()
        self._unread = asyncio.get_running_loop().call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads: stop it."""
        self._stop_unread()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop both clocks."""
        self._late.cancel()
        self._stop_unread()
        super().connection_lost(exc)

    def _answering(self) -> bool:
        """Whether a request has begun whose answer is not yet out."""
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self._late = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.transport.close)

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
