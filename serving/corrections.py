"""Where corrections of labels are kept: one table in SQLite or PostgreSQL, each row on the disk before it counts."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Column, Engine, Integer, MetaData, Row, String, Table, Text, inspect, select
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.types import TypeDecorator

from serving.database import DEFAULT_URL, VARIABLE, open_engine

log = logging.getLogger(__name__)


def corrections_url() -> str:
    """What `IMMNEWS_FEEDBACK_URL` says, or a file in the working directory."""
    return os.environ.get(VARIABLE) or DEFAULT_URL


class Unavailable(Exception):
    """The store is locked, full or away; nothing was acknowledged. The message holds no text of a passage."""


class KeyTaken(Exception):
    """The key already stands for another correction."""


class Correction(NamedTuple):
    """What somebody says a passage is, and the reading that they saw."""

    passage: str
    topic: str
    stance: str | None
    reading: dict[str, Any] | None = None
    note: str | None = None


class Exact(TypeDecorator[str]):
    """Text in which NUL, which PostgreSQL refuses, is written as backslash zero, and a backslash twice."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """On the way in."""
        return value and value.replace("\\", "\\\\").replace("\0", "\\0")

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """On the way out."""
        return value and re.sub(r"\\([\\0])", lambda found: "\0" if found[1] == "0" else "\\", value)


TABLE = Table(
    "corrections",
    MetaData(),
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("received_at", String(32), nullable=False),  # UTC, ISO 8601
    Column("key", String(200), unique=True),
    Column("passage", Exact, nullable=False),
    Column("sha1", String(40), nullable=False, index=True),
    Column("topic", Text, nullable=False),
    Column("stance", Text),
    Column("reading", Text),  # JSON
    Column("note", Exact),
    *(Column(name, Text, nullable=False) for name in ("model", "version", "codebook", "data_digest")),
    sqlite_autoincrement=True,  # an id is never given twice
)
SAID = [TABLE.c[name] for name in ("passage", "topic", "stance", "reading", "note")]


class Store:
    """One table of corrections; threads and processes may share it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._prepared = False

    def prepare(self) -> None:
        """Make the table where it is not there.

        Raises:
            Unavailable: the database did not answer, or refused.
        """
        try:
            self._prepare()
        except SQLAlchemyError as error:
            raise Unavailable(_reason(error)) from None

    def add(self, correction: Correction, key: str | None, model: Mapping[str, str]) -> int:
        """Keep a correction of the served `model`'s labels and return its id, once it is on the disk.

        A key that already stands for this correction gives the id of then, and nothing is stored.

        Raises:
            KeyTaken: the key stands for another correction.
            Unavailable: the store is locked, full or away. The row may be there nonetheless: try again with the key.
        """
        said = correction._asdict()
        if correction.reading is not None:
            said["reading"] = json.dumps(correction.reading, sort_keys=True, allow_nan=False)
        served = {name: model[name] for name in ("version", "codebook", "data_digest")} | {"model": model["name"]}
        row = {**said, **served, "key": key, "sha1": hashlib.sha1(correction.passage.encode()).hexdigest()}
        row["received_at"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            self._prepare()
            try:
                with self.engine.begin() as connection:
                    return int(connection.execute(TABLE.insert().values(row).returning(TABLE.c.id)).scalar_one())
            except IntegrityError:
                with self.engine.connect() as connection:
                    kept = connection.execute(select(TABLE.c.id, *SAID).where(TABLE.c.key == key)).first()
                if key is None or kept is None:
                    raise
        except SQLAlchemyError as error:
            raise Unavailable(_reason(error)) from None
        if tuple(kept[1:]) != tuple(said.values()):
            raise KeyTaken(f"the key {key!r} stands for another correction; send this one with a key of its own")
        return int(kept.id)

    def latest(self) -> tuple[int, Iterator[Row[Any]]]:
        """How many corrections were superseded by a later one of the same passage, and the others in their order.

        Raises:
            Unavailable: the store is locked or away; also while the rows are read.
        """
        self.prepare()
        try:
            with self.engine.connect() as connection:
                pairs = connection.execute(select(TABLE.c.sha1, TABLE.c.id).order_by(TABLE.c.id)).all()
        except SQLAlchemyError as error:
            raise Unavailable(_reason(error)) from None
        last = {pair.sha1: pair.id for pair in pairs}
        return len(pairs) - len(last), self._rows(set(last.values()))

    def _rows(self, wanted: set[int]) -> Iterator[Row[Any]]:
        try:
            with self.engine.connect().execution_options(yield_per=1000) as connection:
                for row in connection.execute(select(TABLE).order_by(TABLE.c.id)):
                    if row.id in wanted:
                        yield row
        except SQLAlchemyError as error:
            raise Unavailable(_reason(error)) from None

    def _prepare(self) -> None:
        if not self._prepared:
            try:
                TABLE.metadata.create_all(self.engine)
            except DBAPIError:
                # Another process may have made it between our look and our attempt.
                if not inspect(self.engine).has_table(TABLE.name):
                    raise
            self._prepared = True


def open_store(url: str) -> Store:
    """The store at an address. Where its database is away now, the log says so, and every `add` asks again.

    Raises:
        BadUrl: with the address, the choices and the remedy.
    """
    store = Store(open_engine(url))
    try:
        store.prepare()
    except Unavailable as error:
        log.warning("corrections cannot be kept until their database answers: %s", error)
    return store


def _reason(error: SQLAlchemyError) -> str:
    """The first line of what the database said: PostgreSQL shows the row in the next."""
    cause = getattr(error, "orig", None) or error
    return f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"
