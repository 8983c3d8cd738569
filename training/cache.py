"""Embeddings on disk, one row an encoder recipe and text: what was encoded once is never encoded again."""

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from tqdm import tqdm

from training.model.encoder import Codes, SentenceEncoder

CHUNK = 256  # texts encoded between two commits: at most this much is lost by a kill


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
        """As `encoder.encode(texts)`, encoding only texts that the file does not hold, with a progress bar."""
        recipe, keys = encoder.recipe, [sha1(text) for text in texts]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=60)) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS embeddings (recipe TEXT, sha1 TEXT, codes BLOB, PRIMARY KEY (recipe, sha1)) "
                "WITHOUT ROWID"
            )
            known = _known(connection, recipe, set(keys))
            missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
            # Similar lengths together, so that the bar's rate means something and threads finish together.
            order = sorted(missing, key=lambda key: len(missing[key]))
            bar = tqdm(total=len(order), desc="encoding", unit=" passages", disable=not order)
            for start in range(0, len(order), CHUNK):
                chunk = order[start : start + CHUNK]
                codes = encoder.encode([missing[key] for key in chunk])
                rows = [(recipe, key, row.tobytes()) for key, row in zip(chunk, codes, strict=True)]
                with connection:
                    connection.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?, ?)", rows)
                known.update({key: row for (_, key, row) in rows})
                bar.update(len(chunk))
            bar.close()
        if not keys:
            return encoder.encode([])
        return np.frombuffer(b"".join(known[key] for key in keys), np.int8).reshape(len(keys), -1)


def _known(connection: sqlite3.Connection, recipe: str, keys: Iterable[str]) -> dict[str, bytes]:
    wanted, found = sorted(keys), {}
    for start in range(0, len(wanted), 500):
        part = wanted[start : start + 500]
        marks = ",".join("?" * len(part))
        query = f"SELECT sha1, codes FROM embeddings WHERE recipe = ? AND sha1 IN ({marks})"
        found.update(dict(connection.execute(query, (recipe, *part))))
    return found
