"""Corrections over HTTP and out again: what `POST /feedback` takes and answers, and a corpus of all that was kept."""

import argparse
import asyncio
import json
import logging
import os
import reprlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import bentoml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Row
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse

from serving.corrections import Correction, KeyTaken, Unavailable, corrections_url, open_store
from serving.database import CONNECTIONS, BadUrl
from serving.parsing import BadBody, parse
from serving.schema import MAX_CHARACTERS, OFF_TOPIC, Passage, Reading

NEUTRAL = "neutral"  # the stance that a corpus gives to what is off topic
MAX_NOTE = 2_000
MAX_READING = 10_000
MAX_KEY = 200
# A little more than the database is given: its own reason is the better one.
PATIENCE_SECONDS = 25.0

log = logging.getLogger(__name__)
writers = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="feedback")


def _as_answered(reading: dict[str, Any] | None) -> dict[str, Any] | None:
    """The reading as it was sent, once it is known to be one."""
    if reading is None:
        return None
    try:
        size = len(json.dumps(reading, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
        Reading.model_validate(reading, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # Deeper than two, the names are the client's.
        raise ValueError(f"{'.'.join(map(str, first['loc'][:2]))}: {first['msg']}") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if size > MAX_READING:
        raise ValueError(f"it is {size:,} characters long")
    return reading


class FeedbackRequest(BaseModel):
    """A correction: what a passage is in truth, and optionally the reading that was wrong."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    passage: Annotated[Passage, Field(description=f"a string of 1 to {MAX_CHARACTERS:,} characters")]
    topic: Annotated[str, Field(description="the name of a topic of the codebook")]
    stance: Annotated[
        str | None, Field(description=f"the name of a stance of the codebook, and null where the topic is {OFF_TOPIC}")
    ] = None
    reading: Annotated[
        dict[str, Any] | None,
        AfterValidator(_as_answered),
        Field(description=f"null, or the reading as it was answered, up to {MAX_READING:,} characters as JSON"),
    ] = None
    note: Annotated[
        str | None, Field(max_length=MAX_NOTE, description=f"null, or a string of up to {MAX_NOTE:,} characters")
    ] = None


class FeedbackAnswer(BaseModel):
    """The correction is on the disk, under this id."""

    id: int
    stored: Literal[True] = True


async def feedback(request: Request) -> JSONResponse:
    """`POST /feedback`: nothing but a correction that is on the disk is answered with 200."""
    service = bentoml.get_current_service()
    try:
        body = parse(await request.body(), FeedbackRequest)
        check_labels(body, service.topics, service.stances)
        key = idempotency_key(request.headers)
        correction, model = Correction(**body.model_dump()), service.served.model_dump()
        async with asyncio.timeout(PATIENCE_SECONDS):
            number = await asyncio.get_running_loop().run_in_executor(
                writers, service.corrections.add, correction, key, model
            )
    except BadBody as error:
        return JSONResponse({"error": str(error)}, 400)
    except KeyTaken as error:
        return JSONResponse({"error": f"Idempotency-Key: {error}"}, 409)
    except (Unavailable, TimeoutError) as error:
        log.error("a correction was not acknowledged: %s", error or f"no answer within {PATIENCE_SECONDS:g} s")
        remedy = "send it again, with an Idempotency-Key so that it cannot be kept twice"
        return JSONResponse({"error": f"the correction could not be kept now; {remedy}"}, 503)
    return JSONResponse(FeedbackAnswer(id=number).model_dump())


def check_labels(request: FeedbackRequest, topics: Sequence[str], stances: Sequence[str]) -> None:
    """Refuse labels that the served codebook does not have, or that do not go together.

    Raises:
        BadBody: with the value, the choices and the remedy.
    """
    if request.topic not in topics:
        raise BadBody(f"topic: {reprlib.repr(request.topic)} is not known; choose one of {', '.join(topics)}")
    if request.topic == OFF_TOPIC:
        if request.stance is not None:
            given = reprlib.repr(request.stance)
            raise BadBody(f"stance: {given} with the topic {OFF_TOPIC}, which has none; send null or another topic")
    elif request.stance not in stances:
        given = "missing or null" if request.stance is None else f"{reprlib.repr(request.stance)} is not known"
        raise BadBody(f"stance: {given}; choose one of {', '.join(stances)}, or the topic {OFF_TOPIC}")


def idempotency_key(headers: Headers) -> str | None:
    """What the header `Idempotency-Key` holds, if it is sent.

    Raises:
        BadBody: it is sent twice, or is not 1 to 200 printable ASCII characters.
    """
    keys = headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not (keys[0].isascii() and keys[0].isprintable() and 1 <= len(keys[0]) <= MAX_KEY):
        given = reprlib.repr(keys[0]) if len(keys) == 1 else f"sent {len(keys)} times"
        raise BadBody(f"Idempotency-Key: {given}; it must be one of 1 to {MAX_KEY} printable ASCII characters")
    return keys[0]


def passage(row: Row[Any]) -> dict[str, Any]:
    """A correction as a record of a corpus; who said so, and of which model, stands in its one annotation."""
    name = f"feedback-{row.sha1}"  # of the text: a later correction stays in the same split
    stance = row.stance or NEUTRAL
    corrected = {field: getattr(row, field) for field in ("model", "version", "codebook", "data_digest")}
    provenance = {
        "annotator": f"feedback-{row.id}",
        "at": row.received_at,
        "note": row.note,
        "corrected": {**corrected, "reading": row.reading and json.loads(row.reading)},
    }
    labels = {"topic": row.topic, "secondary_topic": None, "stance": stance}
    return {"id": name, "doc_id": name, "text": row.passage, **labels, "annotations": [{**labels, **provenance}]}


def records(rows: Iterable[Row[Any]]) -> Iterator[str]:
    """The lines of the corpus, in ASCII: what reads lines may end one at U+2028."""
    for row in rows:
        if row.passage.strip():
            yield json.dumps(passage(row))
        else:
            print(f"left out correction {row.id}: its passage is blank", file=sys.stderr)


def write(lines: Iterator[str], path: Path | None) -> int:
    """Write lines to a file, whole or not at all, or to standard output; returns how many."""
    count = 0
    partial = path and path.with_name(f".{path.name}.{os.getpid()}.partial")
    file = partial.open("w", encoding="ascii") if partial else sys.stdout
    try:
        for line in lines:
            count += file.write(line + "\n") > 0
        file.flush()
        if partial and path and count:
            os.fsync(file.fileno())
            partial.replace(path)
    finally:
        if partial:
            file.close()
            partial.unlink(missing_ok=True)
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where all is well, also with nothing to write; otherwise 2, with the reason on the error stream."""
    parser = argparse.ArgumentParser(prog="serving.feedback", description="Writes the corrections as a corpus (JSONL).")
    parser.add_argument("--output", default="-", help="the file; - is standard output")
    output = parser.parse_args(arguments).output
    try:
        superseded, rows = open_store(corrections_url()).latest()
        count = write(records(rows), None if output == "-" else Path(output))
    except (BadUrl, Unavailable, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    said = f"{count:,} corrections written" if count else "there are no corrections to write"
    print(f"{said}; {superseded:,} superseded by a later one of the same passage", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
