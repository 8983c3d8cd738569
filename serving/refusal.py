"""A request that goes no further, and the answer that says so."""

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse

RETRY_SECONDS = 1


class Refused(Exception):
    """A request that goes no further: status, message, and headers beside it."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})

    def response(self) -> JSONResponse:
        """The contract's `{"error": ...}`."""
        headers = self.headers
        if self.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            headers = {"Retry-After": str(RETRY_SECONDS), **headers}
        return JSONResponse({"error": self.message}, self.status, headers)
