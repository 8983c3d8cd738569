"""How the bodies of requests are read: none too large, none too slowly, and not too much of all of them at once."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import Receive

from serving.refusal import Refused
from serving.schema import MAX_CHARACTERS, MAX_PASSAGES

# A character beyond the basic plane is 12 bytes in escaped JSON (a surrogate pair) and 4 in UTF-8: the largest valid
# request is 512 x (12 x 10,000 + quotes, comma, indentation), 61.5 MB.
MAX_BODY = 64 * 2**20
BODY_SECONDS, SILENT_SECONDS = 60.0, 8.0  # for the whole body, and between two pieces of it
# A body up to the first is always taken; of larger ones a process holds at most the second together, which is one of
# about a megabyte for each request that BentoML admits, or the two largest.
SMALL, MOST = 64 * 2**10, 2 * MAX_BODY


class Disconnected(Exception):
    """The client went away before its request was whole."""


class Bodies:
    """What one process holds of bodies larger than `SMALL`, in bytes."""

    def __init__(self) -> None:
        self.held = 0

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """The share of one body, to be told the body's size whenever it grows; given back at the end of the block.

        What it gives raises Refused (503) where all of them together would be too many.
        """
        own = 0

        def grow(size: int) -> None:
            nonlocal own
            if size <= SMALL:
                return
            if self.held + size - own > MOST:
                message = f"large bodies of {MOST:,} bytes are being read; come back, or send one of up to {SMALL:,}"
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, message, {"Connection": "close"})
            self.held, own = self.held + size - own, size

        try:
            yield grow
        finally:
            self.held -= own


async def read_body(headers: Headers, receive: Receive, grow: Callable[[int], None]) -> bytes:
    """The whole body, at most `MAX_BODY` bytes; what is not small waits on disk until it is whole.

    Raises:
        Refused: too large (413, whatever Content-Length says), too slow (408), or what `grow` raises.
        Disconnected: the client went away.
    """
    limit = f"the body is larger than {MAX_BODY:,} bytes; send at most {MAX_PASSAGES} passages of {MAX_CHARACTERS:,}"
    too_large = Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{limit} characters", {"Connection": "close"})
    declared = headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > MAX_BODY:
        raise too_large
    try:
        async with asyncio.timeout(BODY_SECONDS):
            with tempfile.SpooledTemporaryFile(max_size=SMALL) as spool:
                while True:
                    async with asyncio.timeout(SILENT_SECONDS):
                        message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Disconnected
                    piece = message.get("body", b"")
                    size = spool.tell() + len(piece)
                    if size > MAX_BODY:
                        raise too_large
                    grow(size)
                    spool.write(piece)
                    if not message.get("more_body", False):
                        spool.seek(0)
                        return spool.read()
    except TimeoutError:
        late = f"the body did not arrive within {BODY_SECONDS:g} seconds, or stopped for {SILENT_SECONDS:g}"
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, late, {"Connection": "close"}) from None
