"""What a run of batch scoring keeps as it goes, so that a kill costs a part: finished parts, scores, counts."""

import fcntl
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from serving.batch.locations import PARTS, Target, replace
from serving.batch.readings import Score

DESCRIPTION, LOCK, STORE, PART = "description.json", "lock", "scores.sqlite", "part-"
CACHE_VARIABLE, CACHE = "IMMNEWS_CACHE", ".cache"
TABLES = """
CREATE TABLE IF NOT EXISTS scores (
    digest BLOB PRIMARY KEY, topic TEXT, topic_confidence REAL, stance TEXT, stance_confidence REAL, abstained INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (number INTEGER PRIMARY KEY, counts TEXT);
"""


class OtherRun(Exception):
    """The folder belongs to a run that is not this one, or that is at work now; the message says what differs."""


def folder_of(target: Target) -> Path:
    """Where the parts of an output lie: beside it, or in the cache folder if it is not on this machine."""
    if target.local:
        return target.local.parent / f".{target.local.name}{PARTS}"
    name = "".join(one if one.isalnum() or one in ".-" else "_" for one in target.url)
    return Path(os.environ.get(CACHE_VARIABLE, CACHE), "score", f"{name}{PARTS}").absolute()


class Parts:
    """The parts of one run, numbered from 0 and finished in this order."""

    def __init__(self, folder: Path, ending: str, store: sqlite3.Connection) -> None:
        self.folder, self.ending, self.store = folder, ending, store
        self.done = 0
        while self.path(self.done).exists():
            self.done += 1

    def path(self, number: int) -> Path:
        """Where a part lies; it is there only if it is whole."""
        return self.folder / f"{PART}{number:08}{self.ending}"

    def scores(self, digests: Iterable[bytes]) -> dict[bytes, Score]:
        """The scores of those texts that earlier parts had."""
        query = "SELECT topic, topic_confidence, stance, stance_confidence, abstained FROM scores WHERE digest = ?"
        found = {digest: self.store.execute(query, (digest,)).fetchone() for digest in digests}
        return {digest: Score._make((*row[:4], bool(row[4]))) for digest, row in found.items() if row}

    def met_first(self, digests: Iterable[bytes]) -> list[bytes]:
        """Those that this run has not asked for yet, in their order."""
        self.store.execute("CREATE TEMP TABLE IF NOT EXISTS met (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        with self.store:
            insert = "INSERT OR IGNORE INTO met VALUES (?)"
            return [digest for digest in digests if self.store.execute(insert, (digest,)).rowcount]

    def finish(
        self, number: int, scores: Mapping[bytes, Score], counts: Mapping[str, int], write: Callable[[Path], None]
    ) -> None:
        """Keep what a part adds, then let `write` make its file.

        In this order, and all scores of a part at once: a part that is done again after a kill finds all or none of its
        own scores, so that the same texts are scored together as in a run without a kill.
        """
        rows = [(digest, *score) for digest, score in scores.items()]
        with self.store:
            self.store.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?, ?, ?)", rows)
            self.store.execute("INSERT OR IGNORE INTO parts VALUES (?, ?)", (number, json.dumps(dict(counts))))
        unfinished = self.folder / f"unfinished{self.ending}"
        write(unfinished)
        replace(unfinished, self.path(number))
        self.done = number + 1

    def counts(self) -> dict[str, int]:
        """What the finished parts counted, added up."""
        total: dict[str, int] = {}
        for (counts,) in self.store.execute("SELECT counts FROM parts WHERE number < ?", (self.done,)):
            for name, count in json.loads(counts).items():
                total[name] = total.get(name, 0) + count
        return total

    def paths(self) -> list[Path]:
        """The finished parts in order."""
        return [self.path(number) for number in range(self.done)]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder and hold it: no other process can while this one lives. Without a description it is removed again.

    Raises:
        OtherRun: another process holds it.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it before may have removed it meanwhile.
            if (folder / LOCK).exists() and os.path.samestat(os.fstat(lock), (folder / LOCK).stat()):
                try:
                    yield
                finally:
                    if read_description(folder) is None:
                        clear(folder)
                        (folder / LOCK).unlink()
                        folder.rmdir()
                return
        except BlockingIOError:
            raise OtherRun(f"another process is writing this output (it holds {folder}); wait for it") from None
        finally:
            os.close(lock)


def check(folder: Path, description: Mapping[str, str]) -> None:
    """Whether what lies in a folder may be gone on with, or costs nothing to drop.

    Raises:
        OtherRun: another run has finished parts there.
    """
    before = read_description(folder)
    if before not in (None, description) and any(folder.glob(f"{PART}*")):
        remedy = "repeat the call that began it, or begin anew with --restart"
        raise OtherRun(f"{folder} holds the parts of another run: {difference(before or {}, description)}; {remedy}")


@contextmanager
def opened(folder: Path, ending: str, description: Mapping[str, str]) -> Iterator[Parts]:
    """The parts in a folder that this process holds: those that a run so described has left, if any."""
    if read_description(folder) != description:
        clear(folder)
        unfinished = folder / "unfinished.json"
        unfinished.write_text(json.dumps(description, indent=1), encoding="utf-8")
        replace(unfinished, folder / DESCRIPTION)
    with closing(sqlite3.connect(folder / STORE)) as store:
        store.execute("PRAGMA synchronous=EXTRA")
        store.executescript(TABLES)
        yield Parts(folder, ending, store)


def read_description(folder: Path) -> dict[str, str] | None:
    """What run the parts in a folder are of; None if there are none."""
    try:
        described: dict[str, str] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return described


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How two descriptions differ, in words; of many differences, the first three."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    told = [f"{name} was {before.get(name, 'not there')}, is {now.get(name, 'not there')}" for name in names[:3]]
    return ", ".join(told) + more


def clear(folder: Path) -> None:
    """Empty a folder that this process holds; the description goes first, so that what is left is known for rubbish."""
    (folder / DESCRIPTION).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.name != LOCK:
            drop(path)


def drop(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
