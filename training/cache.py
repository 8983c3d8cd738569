"""Embeddings on disk, one row an encoder recipe and text: what was encoded once is never encoded again."""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from training.model.encoder import Codes, SentenceEncoder, as_texts

CHUNK = 256  # texts encoded between two commits: at most this much is lost by a kill
TABLE = "CREATE TABLE embeddings (recipe TEXT, sha1 TEXT, codes BLOB, PRIMARY KEY (recipe, sha1)) WITHOUT ROWID"
DAMAGED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


class CacheError(ValueError):
    """The file of the cache cannot be read or written."""


def sha1(text: str) -> str:
    """Content address of a text (UTF-8; lone surrogates as they stand)."""
    return hashlib.sha1(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


class EmbeddingCache:
    """A SQLite file of int8 embeddings, keyed by (encoder recipe, sha1 of the text).

    SQLite's own locking makes it safe for several processes; each chunk is one transaction, so a kill leaves
    whole rows or none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def encode(self, encoder: SentenceEncoder, texts: Sequence[str]) -> Codes:
        """As `encoder.encode(texts)`, encoding only texts that the file does not hold, with a progress bar.

        Raises:
            CacheError: the file is damaged, is no cache, or cannot be written.
        """
        texts = as_texts(texts)
        recipe, keys = encoder.recipe, [sha1(text) for text in texts]
        if not keys:
            return encoder.encode([])
        with self._connection() as connection:
            known = _known(connection, recipe, set(keys))
            missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
            # Similar lengths together, so that the bar's rate means something and threads finish together.
            order = sorted(missing, key=lambda key: len(missing[key]))
            with tqdm(total=len(order), desc="encoding", unit=" passages", disable=not order) as bar:
                for start in range(0, len(order), CHUNK):
                    chunk = order[start : start + CHUNK]
                    codes = encoder.encode([missing[key] for key in chunk])
                    rows = [(recipe, key, row.tobytes()) for key, row in zip(chunk, codes, strict=True)]
                    with connection:
                        connection.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?, ?)", rows)
                    known.update({key: row for (_, key, row) in rows})
                    bar.update(len(chunk))
        length = encoder.dimensions
        if any(not isinstance(row, bytes) or len(row) != length for row in known.values()):
            raise CacheError(f"embedding cache {self.path} holds rows of a wrong length: delete it, it fills up again")
        return np.frombuffer(bytearray().join(known[key] for key in keys), np.int8).reshape(len(keys), -1)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """The open file, its table there; what SQLite and the file system say against it becomes a CacheError."""
        writable = "see that its folder can be written, has space left, and that no other process holds the file"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(f"embedding cache {self.path}: {error}; {writable}") from error
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as connection:
                tables = dict(connection.execute("SELECT name, sql FROM sqlite_master"))
                if not tables:
                    connection.execute(TABLE.replace("TABLE", "TABLE IF NOT EXISTS", 1))
                elif tables != {"embeddings": TABLE}:
                    raise CacheError(
                        f"embedding cache {self.path} is a database of something else (it holds {', '.join(tables)}): "
                        f"move it away, or delete it if no one needs it"
                    )
                yield connection
        except sqlite3.Error as error:
            damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED
            remedy = "it is damaged, or no cache: delete it, it fills up again" if damaged else writable
            raise CacheError(f"embedding cache {self.path}: {error}; {remedy}") from error


def _known(connection: sqlite3.Connection, recipe: str, keys: Iterable[str]) -> dict[str, bytes]:
    wanted = sorted(keys)
    found: dict[str, bytes] = {}
    for start in range(0, len(wanted), 500):
        part = wanted[start : start + 500]
        marks = ",".join("?" * len(part))
        query = f"SELECT sha1, codes FROM embeddings WHERE recipe = ? AND sha1 IN ({marks})"
        found.update(dict(connection.execute(query, (recipe, *part))))
    return found
