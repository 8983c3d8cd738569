"""What a scored table looks like, and how its parts are written and put together."""

import csv
import gzip
import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from serving.batch import jsontypes
from serving.batch.readings import Score
from serving.batch.sources import Kept, Problem, grouped

METADATA = b"immigration_news"
DIGEST = b"immigration_news_sha256"
SIDECAR = ".meta.json"
# Rows that are made at once, and after how many bytes fewer will do; in Parquet they are a row group.
PIECE_ROWS, PIECE_BYTES = 100_000, 16 * 2**20
ANSWERS = pa.schema(
    [
        ("topic", pa.string()),
        ("topic_confidence", pa.float64()),
        ("stance", pa.string()),
        ("stance_confidence", pa.float64()),
        ("abstained", pa.bool_()),
        ("error", pa.string()),
    ]
)
PASSAGES = pa.schema([("row", pa.int64()), ("start", pa.int64()), ("end", pa.int64()), ("passage", pa.string())])


class Row(NamedTuple):
    """One row of the output: which row of its block it comes from, and the text to score or why there is none."""

    at: int
    text: str | None
    problem: Problem | None
    start: int | None = None
    end: int | None = None


class Table:
    """The layout of an output.

    Parameters:
        ending: one of `locations.WRITABLE`.
        schema: of the columns kept; None where they are JSON objects.
        articles: whether a row is a passage of an article.
        minimum: the topic's confidence under which an answer counts as abstained, whatever the model says.
    """

    def __init__(self, ending: str, schema: pa.Schema | None, articles: bool, minimum: float) -> None:
        self.ending, self.articles, self.minimum = ending, articles, minimum
        fields = [*(schema or []), *self.added(articles)]
        self.schema = pa.schema(fields, schema.metadata if schema else None)

    @staticmethod
    def added(articles: bool) -> pa.Schema:
        """The columns that scoring adds."""
        return pa.schema([*(PASSAGES if articles else []), *ANSWERS])

    def abstains(self, score: Score) -> bool:
        """Whether an answer counts as none."""
        return score.abstained or score.topic_confidence < self.minimum

    def write(self, path: Path, kept: Kept, rows: Sequence[Row], scores: Sequence[Score | None], first: int) -> None:
        """Write a part: the columns kept of a block, whose first row is number `first` of the input, and answers.

        It is made piece by piece: what is kept of an article stands in the rows of all its passages.
        """
        sizes = row_sizes(kept) if self.articles else []
        if isinstance(kept, pa.Table):
            kept = kept.unify_dictionaries().combine_chunks()
        given = zip(rows, scores, strict=True)
        pieces = grouped(given, lambda one: sizes[one[0].at] if sizes else 0, PIECE_ROWS, PIECE_BYTES)
        if self.ending == ".parquet":
            with pq.ParquetWriter(path, self.schema, compression="zstd") as writer:
                for piece in pieces:
                    writer.write_table(self.rows_of(kept, piece, first), len(piece))
            return
        with path.open("wb") as file:
            packed = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if self.ending.endswith(".gz") else file
            with packed:
                for piece in pieces:
                    packed.write(self.lines(kept, piece, first))

    def lines(self, kept: Kept, piece: Sequence[tuple[Row, Score | None]], first: int) -> bytes:
        """Some rows of a part, as CSV or JSON."""
        if isinstance(kept, list):
            added = self.answers(piece, first)
            objects = map(joined, [kept[row.at] for row, _ in piece], jsontypes.objects(added, len(piece)))
            return "".join(f"{line}\n" for line in objects).encode("utf-8")
        table = self.rows_of(kept, piece, first)
        return as_csv(zip(*map(jsontypes.plain_values, table.columns), strict=True))

    def rows_of(self, kept: pa.Table, piece: Sequence[tuple[Row, Score | None]], first: int) -> pa.Table:
        """Some rows of a part."""
        at = pa.array([row.at for row, _ in piece], pa.int64())
        columns = kept.take(at).columns if kept.num_columns else []
        return pa.table([*columns, *self.answers(piece, first).columns], schema=self.schema)

    def answers(self, piece: Sequence[tuple[Row, Score | None]], first: int) -> pa.Table:
        """The added columns."""
        rows, scores = zip(*piece, strict=True)
        columns: list[list[Any]] = []
        if self.articles:
            passages = [None if row.text is None else jsontypes.printable(row.text) for row in rows]
            columns = [
                [first + row.at for row in rows],
                [row.start for row in rows],
                [row.end for row in rows],
                passages,
            ]
        given: list[tuple[Any, ...]] = [
            (None,) * 5 if score is None else (*score[:4], self.abstains(score)) for score in scores
        ]
        columns += [list(column) for column in zip(*given, strict=True)]
        columns.append([row.problem and row.problem.message for row in rows])
        return pa.table(columns, schema=self.added(self.articles))

    def put_together(self, parts: Iterable[Path], path: Path, metadata: Mapping[str, Any]) -> None:
        """Write the whole from its parts. Metadata goes into Parquet's own, with a digest of all bytes before them.

        Other formats have no place for it.
        """
        if self.ending == ".parquet":
            noted = {**(self.schema.metadata or {}), METADATA: json.dumps(metadata).encode("utf-8")}
            schema = self.schema.with_metadata(noted)
            with path.open("w+b") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for part in parts:
                    with pq.ParquetFile(part, pre_buffer=False) as opened:
                        for group in range(opened.num_row_groups):
                            # On one thread: each further one keeps memory of its own.
                            table = opened.read_row_group(group, use_threads=False).replace_schema_metadata(noted)
                            writer.write_table(table, len(table))
                # Whatever rewrites the file drops this key, or leaves it as it was.
                writer.add_key_value_metadata({DIGEST: digest(file, file.tell())})
            return
        with path.open("wb") as whole:
            if self.ending == ".csv":
                whole.write(as_csv([self.schema.names]))
            elif self.ending == ".jsonl.gz":
                whole.write(gzip.compress(b"", mtime=0))  # or a table without rows would be no gzip
            for part in parts:
                with part.open("rb") as opened_part:
                    shutil.copyfileobj(opened_part, whole, 2**20)


def digest(file: BinaryIO, length: int) -> str:
    """SHA-256 of the first bytes of a file, in hexadecimal; it is left at their end."""
    file.seek(0)
    found, left = hashlib.sha256(), length
    while some := file.read(min(left, 2**20)):
        found.update(some)
        left -= len(some)
    return found.hexdigest()


def row_sizes(kept: Kept) -> Sequence[int]:
    """How many bytes rows have each, roughly, without dictionaries, which they share; empty if that is nothing."""
    if isinstance(kept, list):
        return list(map(len, kept))
    own = [field.name for field in kept.schema if not pa.types.is_dictionary(field.type)]
    return [batch.slice(at, 1).nbytes for batch in kept.select(own).to_batches() for at in range(batch.num_rows)]


def joined(one: str, other: str) -> str:
    """Two JSON objects as one, as they stand."""
    inside = one[1:-1].strip()
    return f"{{{inside}, {other[1:]}" if inside else other


def as_csv(rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows as CSV: null is empty, lists and objects are JSON."""
    text = io.StringIO(newline="")
    # With this line terminator Python quotes every cell that holds a return or a new line.
    csv.writer(text, lineterminator="\r\n").writerows([cell(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8")


def cell(value: Any) -> Any:
    """A value as CSV has it."""
    match value:
        case bool():
            return "true" if value else "false"
        case list() | dict():
            return jsontypes.dump(value)
    return value
