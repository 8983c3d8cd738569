"""Which databases may keep corrections, and how each is told that a commit has reached the disk before it returns."""

import re
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

VARIABLE = "IMMNEWS_FEEDBACK_URL"
DEFAULT_URL = "sqlite:///feedback.db"
CHOICES = "choose sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE"
CONNECTIONS = 4  # a process; the next one waits its turn
WAIT_SECONDS = 20


class BadUrl(ValueError):
    """An address at which no corrections can be kept; the message shows it without its password."""

    def __init__(self, shown: str, why: str) -> None:
        super().__init__(f"{VARIABLE}: {shown!r}: {why}")


def open_engine(url: str) -> Engine:
    """An engine for SQLAlchemy's address, which asks nothing of the database yet.

    Raises:
        BadUrl: with the address, the choices and the remedy.
    """
    parsed = _parse(url)
    try:
        engine = create_engine(
            parsed,
            hide_parameters=True,  # they hold the passage, and would stand in errors
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=WAIT_SECONDS,
            pool_pre_ping=True,
            connect_args=_options(parsed),
        )
    except ImportError as error:
        remedy = f'pip install "psycopg[binary]", or {CHOICES}'
        raise BadUrl(_shown(parsed), f"the driver {error.name!r} is not installed; {remedy}") from None
    event.listen(engine, "connect", _durable_sqlite if parsed.get_backend_name() == "sqlite" else _durable_postgresql)
    return engine


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend, asynchronous = parsed.get_backend_name(), parsed.get_dialect().is_async
    except (SQLAlchemyError, ValueError, ImportError):
        hidden = re.sub(":.*@", ":***@", url, flags=re.DOTALL).partition("?")[0]
        raise BadUrl(hidden, f"is no address of a database; {CHOICES}") from None
    if backend not in ("sqlite", "postgresql") or asynchronous:
        raise BadUrl(_shown(parsed), f"{parsed.drivername!r} is not supported; {CHOICES}")
    if backend == "sqlite":
        _check_file(parsed)
    return parsed


def _check_file(url: URL) -> None:
    """What is in memory would be lost, and a file without a folder would be missed at the first correction only."""
    name = url.database or ":memory:"
    if ":memory:" in name or url.query:
        raise BadUrl(_shown(url), f"must be a file, without options; {CHOICES}")
    if not Path(name).absolute().parent.is_dir() or Path(name).is_dir():
        raise BadUrl(_shown(url), "a file cannot stand there; make the folder, or name a file in another")


def _shown(url: URL) -> str:
    # libpq takes a password in the query too.
    return url.set(query={}).render_as_string(hide_password=True)


def _options(url: URL) -> dict[str, Any]:
    """How long a database is waited for that does not answer; what stands in the address goes before."""
    if url.get_backend_name() == "sqlite":
        return {"timeout": WAIT_SECONDS}
    if url.get_driver_name() != "psycopg":
        return {}
    patience = {"connect_timeout": 5, "tcp_user_timeout": 1000 * WAIT_SECONDS}
    return {name: value for name, value in patience.items() if name not in url.query}


def _durable_sqlite(connection: Any, _: Any) -> None:
    """EXTRA is FULL where there is a write-ahead log; where there is none, it syncs the folder of the journal too."""
    connection.execute("PRAGMA synchronous=EXTRA")
    # Fails while another process is at it, where nothing may be written, or on some file systems: then without.
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA journal_mode=WAL")


def _durable_postgresql(connection: Any, _: Any) -> None:
    """Whatever the server's own settings are; nor is a lock waited for without end."""
    cursor = connection.cursor()
    cursor.execute("SET synchronous_commit = 'on'")
    cursor.execute(f"SET statement_timeout = '{WAIT_SECONDS}s'")
    cursor.close()
    connection.commit()
