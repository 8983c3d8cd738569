"""The run itself: blocks of rows become parts, new texts become tasks, answers become finished parts, in order."""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import ceil
from typing import Any, NamedTuple

import pyarrow as pa

from serving.articles import cut
from serving.batch.parts import Parts
from serving.batch.readings import Score
from serving.batch.sources import Block, Problem, grouped
from serving.batch.tables import Row, Table
from serving.schema import MAX_ARTICLE, MAX_CHARACTERS, MAX_CUT

# A part ends earlier if its rows are long.
PART_BYTES = 32 * 2**20
TASK = 200


class Pending(NamedTuple):
    """A part whose texts are being scored. `new` are the texts that no part before it had, by digest."""

    number: int
    first: int
    block: Block
    rows: list[Row]
    digests: list[bytes | None]
    new: dict[bytes, str]
    tasks: list[Callable[[], list[Score]]]


class Run(NamedTuple):
    """What parts are made of and with."""

    parts: Parts
    table: Table
    submit: Callable[[Sequence[str]], Callable[[], list[Score]]]  # hands texts to the workers
    ahead: int  # so many parts wait for their scores while the next is read
    advance: Callable[[int], Any]  # told how many rows more are done

    def over(self, blocks: Iterator[Block]) -> None:
        """Make all parts that are not there yet."""
        pending: deque[Pending] = deque()
        done, first = self.parts.done, 0
        for number, block in enumerate(blocks):
            if number >= done:
                waiting = {digest for part in pending for digest in part.new}
                pending.append(self.begin(number, first, block, waiting))
                if len(pending) > self.ahead:
                    self.finish(pending.popleft())
            first += len(block.texts)
        while pending:
            self.finish(pending.popleft())

    def begin(self, number: int, first: int, block: Block, waiting: set[bytes]) -> Pending:
        """Hand the new texts of a part to the workers; `waiting` are those that they have already."""
        rows = list(rows_of(block, self.table.articles))
        digests = digests_of(rows)
        unscored = without_score(self.parts, digests, rows)
        new = {key: text for key, text in unscored.items() if key not in waiting}
        return Pending(number, first, block, rows, digests, new, [self.submit(some) for some in tasks(new.values())])

    def finish(self, part: Pending) -> None:
        """Wait for a part's scores, and write it."""
        answers: list[Score] = []
        told, total = 0, len(part.block.texts)
        for at, task in enumerate(part.tasks, start=1):
            answers += task()
            self.advance(total * at // len(part.tasks) - told)
            told = total * at // len(part.tasks)
        self.advance(total - told)
        new = dict(zip(part.new, answers, strict=True))
        by_digest = {**self.parts.scores({key for key in part.digests if key} - set(new)), **new}
        scores = [by_digest[key] if key else None for key in part.digests]
        self.parts.finish(
            part.number,
            new,
            self.counts(part, scores),
            lambda path: self.table.write(path, part.block.kept, part.rows, scores, part.first),
        )

    def counts(self, part: Pending, scores: list[Score | None]) -> Counter[str]:
        """What a part adds to the figures at the end."""
        given = [one for one in scores if one is not None]
        counts = Counter(f"error: {row.problem.kind}" for row in part.rows if row.problem)
        counts["rows"] = len(part.block.texts)
        counts["scored"] = len(part.new)
        counts["duplicates"] = len(given) - len(part.new)
        counts["abstained"] = sum(map(self.table.abstains, given))
        return counts


def to_submit(parts: Parts, articles: bool, blocks: Iterator[Block]) -> Iterator[list[str]]:
    """The texts that a run over these blocks will hand to the workers, list by list."""
    for number, block in enumerate(blocks):
        if number >= parts.done:
            rows = list(rows_of(block, articles))
            unscored = without_score(parts, digests_of(rows), rows)
            yield from tasks(unscored[key] for key in parts.met_first(unscored))


def digests_of(rows: Iterable[Row]) -> list[bytes | None]:
    """What the texts of rows are known by; None where there is none to score."""
    return [None if row.text is None else digest(row.text) for row in rows]


def without_score(parts: Parts, digests: Sequence[bytes | None], rows: Sequence[Row]) -> dict[bytes, str]:
    """The texts of rows that no finished part had, by digest."""
    by_digest = {key: row.text for key, row in zip(digests, rows, strict=True) if key and row.text is not None}
    known = parts.scores(by_digest)
    return {key: text for key, text in by_digest.items() if key not in known}


def tasks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in lists, each of which one process reads."""
    return grouped(texts, lambda _: 0, TASK)


def ahead(processes: int, part_rows: int) -> int:
    """How many parts wait for their scores, so that no process waits for the next part."""
    return ceil(2 * processes * TASK / part_rows)


def part_blocks(blocks: Iterator[Block], rows: int) -> Iterator[Block]:
    """Small blocks put together to parts of so many rows."""
    have: list[Block] = []
    room = rows
    for block in blocks:
        while block.texts:
            piece, block = split(block, room)
            have.append(piece)
            room -= len(piece.texts)
            if not room or sum(one.size for one in have) >= PART_BYTES:
                yield merged(have)
                have, room = [], rows
    if have:
        yield merged(have)


def split(block: Block, rows: int) -> tuple[Block, Block]:
    """The first so many rows of a block, and the others."""
    kept = block.kept
    size = block.size * min(rows, len(block.texts)) // len(block.texts)
    head, tail = (kept[:rows], kept[rows:]) if isinstance(kept, list) else (kept.slice(0, rows), kept.slice(rows))
    return (
        Block(block.texts[:rows], block.problems[:rows], head, size),
        Block(block.texts[rows:], block.problems[rows:], tail, block.size - size),
    )


def merged(blocks: list[Block]) -> Block:
    """Blocks as one."""
    texts = [one for block in blocks for one in block.texts]
    problems = [one for block in blocks for one in block.problems]
    lists = [block.kept for block in blocks if isinstance(block.kept, list)]
    tables = [block.kept for block in blocks if isinstance(block.kept, pa.Table)]
    kept = pa.concat_tables(tables) if tables else [one for some in lists for one in some]
    return Block(texts, problems, kept, sum(block.size for block in blocks))


def rows_of(block: Block, articles: bool) -> Iterator[Row]:
    """Each row, or each passage of the article that it holds."""
    return passages(block) if articles else texts(block)


def texts(block: Block) -> Iterator[Row]:
    """Each row with the text that it has."""
    for at, (text, whole) in enumerate(zip(block.texts, block.problems, strict=True)):
        problem = whole or text_problem(text, MAX_CHARACTERS)
        yield Row(at, None if problem else text, problem)


def passages(block: Block) -> Iterator[Row]:
    """Each passage of the article that a row holds; one row for an article that cannot be cut."""
    for at, (text, whole) in enumerate(zip(block.texts, block.problems, strict=True)):
        problem = whole or text_problem(text, MAX_ARTICLE)
        article = None if problem else cut(text)
        if article and not article.spans:
            problem = Problem("no passages", "the article holds no text; give one that does")
        elif article and len(article.spans) > MAX_CUT:
            many = f"the article has {len(article.spans):,} passages, at most {MAX_CUT:,} are read; give it in parts"
            problem = Problem("too many passages", many)
        if problem or not article:
            yield Row(at, None, problem)
        else:
            yield from (Row(at, article.text[start:end], None, start, end) for start, end in article.spans)


def text_problem(text: Any, longest: int) -> Problem | None:
    """Why a value cannot be read, if it cannot."""
    remedy = f"give 1 to {longest:,} characters"
    if text is None:
        return Problem("null", f"the text is null; {remedy}")
    if not isinstance(text, str):
        return Problem("not a string", f"the text is {type(text).__name__}, not a string; {remedy}")
    if not text:
        return Problem("empty", f"the text is empty; {remedy}")
    if len(text) > longest:
        return Problem("too long", f"the text has {len(text):,} characters; {remedy}")
    return None


def digest(text: str) -> bytes:
    """What a text is known by."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
