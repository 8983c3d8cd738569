"""Where the texts of annotated news and arguments come from: had from public repositories, verified, kept on disk."""

import argparse
import hashlib
import json
import os
import re
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from data.articles import NEWS, REPOSITORIES, File, NoSource, read_files

LEARNT = ("train", "rest", "world", "arguments")  # the sets of annotations that may be learnt from
ANNOTATIONS = tuple(Path(__file__).parent / "news" / f"{name}.jsonl" for name in (*LEARNT, "dev"))
TABLE = "CREATE TABLE texts (sha1 TEXT PRIMARY KEY, text TEXT NOT NULL)"
COUNTS = {
    "hydrated": "hydrated and verified",
    "already_there": "already there",
    "missing": "left out: the source has no such file",
    "failed": "left out: the file could not be read",
    "changed": "left out: the text is not the one that was annotated",
    "not_public": "left out: their text lies in no public repository",
}


class HydrationError(ValueError):
    """Annotations or a store that cannot be used."""


@dataclass(frozen=True)
class Outcome:
    """What became of the annotated passages (the counts add up to all of them); `problems` by file."""

    hydrated: int = 0
    already_there: int = 0
    missing: int = 0
    failed: int = 0
    changed: int = 0
    not_public: int = 0
    problems: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        lines = [f"{getattr(self, name):>7,} passages {said}" for name, said in COUNTS.items()]
        more = [f"and {len(self.problems) - 5:,} files more"] if len(self.problems) > 5 else []
        return "\n".join([*lines, *self.problems[:5], *more])


def hydrate(
    progress: bool = True, annotations: Sequence[Path] = ANNOTATIONS, timeout: float = 20, backoff: float = 1
) -> Outcome:
    """Has what is not there yet, from where `read_files` reads (which says what `timeout` and `backoff` are).

    Each file is one transaction: a kill loses only what is under way. Raises HydrationError or NoSource.
    """
    wanted, not_public = _read_annotations(annotations)
    counts, problems = Counter(not_public=not_public), list[tuple[bool, str]]()
    with _store("rwc") as store:
        there = {sha1 for (sha1,) in store.execute("SELECT sha1 FROM texts")}
        new = {file: [one for one in passages if one[1] not in there] for file, passages in wanted.items()}
        left = [file for file, passages in new.items() if passages]
        counts["already_there"] = sum(map(len, wanted.values())) - sum(map(len, new.values()))
        bar = tqdm(total=len(left), desc="hydrating", unit=" files", delay=0.5, disable=not progress)
        with bar, closing(read_files(left, timeout, backoff)) as answers:
            for file, answer in answers:
                rows = [] if isinstance(answer, Exception) else [(sha1, answer(place)) for place, sha1 in new[file]]
                rows = [(sha1, text) for sha1, text in rows if text is not None and _is(text, sha1)]
                with store:
                    store.executemany("INSERT OR IGNORE INTO texts VALUES (?, ?)", rows)
                fate = "changed"
                if isinstance(answer, FileNotFoundError):
                    fate = "missing"
                elif isinstance(answer, Exception):
                    fate = "failed"
                    problems.append((isinstance(answer, InterruptedError), f"{' '.join(file)}: {answer}"))
                counts.update({"hydrated": len(rows), fate: len(new[file]) - len(rows)})
                bar.update()
    return Outcome(**counts, problems=tuple(line for _, line in sorted(problems)))  # the telling ones first


def hydrated_texts(sha1s: Iterable[str]) -> dict[str, str]:
    """The texts that are there, by sha1; others are left out. Raises HydrationError."""
    if not _path().is_file():
        return {}
    with _store("rw") as store:  # not "ro": that could not roll back what a killed process left half done
        query = "SELECT sha1, text FROM texts WHERE sha1 IN (SELECT value FROM json_each(?))"
        return dict(store.execute(query, (json.dumps(list(sha1s)),)))


def _is(text: str, sha1: str) -> bool:
    try:
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() == sha1
    except UnicodeEncodeError:  # half a surrogate pair, which could not be stored either
        return False


def _read_annotations(paths: Sequence[Path]) -> tuple[dict[File, list[tuple[int | str, str]]], int]:
    """By file the place and sha1 of each passage, and the number of passages without a public source."""
    wanted: dict[File, list[tuple[int | str, str]]] = {}
    not_public = 0
    for path in paths:
        number = 0
        try:
            for line in path.read_text(encoding="utf-8").strip().split("\n"):
                number += 1
                row = json.loads(line)
                if row["source"] not in REPOSITORIES:
                    not_public += 1
                else:
                    file = row["source"], row["article"]
                    wanted.setdefault(file, []).append((_place(*file, row["paragraph"]), str(row["sha1"])))
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            remedy = "each line is an object with source, article, paragraph and sha1"
            raise HydrationError(f"annotations {path}, line {number}: {error!r}; {remedy}") from error
    return wanted, not_public


def _place(source: str, article: str, place: int | str) -> int | str:
    """Where in its file a passage stands: a paragraph's number from 0, or START+LENGTH in bytes. Raises ValueError."""
    if source == NEWS:
        good = isinstance(place, int) and place >= 0 and re.fullmatch(r"\w[\w-]*", article)
    else:
        inside = ".." not in Path(article).parts and not Path(article).is_absolute()
        good = inside and article.isprintable() and re.fullmatch(r"\d+\+\d+", str(place))
    if not good:
        raise ValueError(f"no address: article {article!r}, paragraph {place!r}")
    return place


def _path() -> Path:
    return Path(os.environ.get("IMMNEWS_CACHE", ".cache"), "news.sqlite")


@contextmanager
def _store(mode: str) -> Iterator[sqlite3.Connection]:
    """The open file with its table; `mode` is SQLite's. Turns what SQLite or the disk say into a HydrationError."""
    path = _path().absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, timeout=60)) as connection:
            tables = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table'").fetchall()
            if not tables:
                connection.execute(TABLE.replace("TABLE", "TABLE IF NOT EXISTS", 1))
            elif tables != [(TABLE,)]:
                raise HydrationError(f"texts of the news, {path}: a database of something else; move it away")
            yield connection
    except (OSError, sqlite3.Error) as error:
        remedy = "see that its folder can be written and has space left; if the file is damaged, delete it"
        raise HydrationError(f"texts of the news, {path}: {error}; {remedy}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m data.hydrate`; 0 when there are texts, 2 when none could be had or the input is wrong."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("annotations", nargs="*", type=Path, default=ANNOTATIONS, help="instead of those in data/news")
    try:
        outcome = hydrate(annotations=parser.parse_args(arguments).annotations)
    except (HydrationError, NoSource) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: what was had is kept; run it again for the rest", file=sys.stderr)
        return 130
    print(outcome)
    if outcome.hydrated or outcome.already_there:
        return 0
    remedy = "see to the network or IMMNEWS_NEWS_URL, or set IMMNEWS_NEWS_DIR to a folder that holds data/jsons"
    print(f"no passage could be hydrated: {remedy}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
