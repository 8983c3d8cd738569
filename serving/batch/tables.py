"""What a scored table looks like, and how its parts are written and put together."""

import csv
import gzip
import io
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from serving.batch import jsontypes
from serving.batch.readings import Score
from serving.batch.sources import Kept, Problem

METADATA = b"immigration_news"
SIDECAR = ".meta.json"
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
        """Write a part: the columns kept of a block, whose first row is number `first` of the input, and answers."""
        at = [row.at for row in rows]
        added = self.answers(rows, scores, first)
        if isinstance(kept, list):
            objects = [kept[one] for one in at]
            lines = map(joined, objects, jsontypes.objects(added, len(rows)))
            content = "".join(f"{line}\n" for line in lines).encode("utf-8")
            path.write_bytes(gzip.compress(content, mtime=0) if self.ending.endswith(".gz") else content)
            return
        if self.articles and kept.num_columns:
            kept = kept.unify_dictionaries().take(pa.array(at, pa.int64()))
        columns = kept.columns if kept.num_columns else []
        table = pa.table([*columns, *added.columns], schema=self.schema)
        if self.ending == ".csv":
            values = [jsontypes.plain_values(column) for column in table.columns]
            path.write_bytes(as_csv(zip(*values, strict=True)))
        else:
            pq.write_table(table, path, compression="zstd")

    def answers(self, rows: Sequence[Row], scores: Sequence[Score | None], first: int) -> pa.Table:
        """The added columns."""
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
        """Write the whole from its parts. Metadata goes into Parquet's own; other formats have no place for it."""
        if self.ending == ".parquet":
            noted = {**(self.schema.metadata or {}), METADATA: json.dumps(metadata).encode("utf-8")}
            with pq.ParquetWriter(path, self.schema.with_metadata(noted), compression="zstd") as writer:
                for part in parts:
                    with pq.ParquetFile(part) as opened:
                        table = opened.read().replace_schema_metadata(noted)
                    writer.write_table(table, max(1, len(table)))
            return
        with path.open("wb") as whole:
            if self.ending == ".csv":
                whole.write(as_csv([self.schema.names]))
            elif self.ending == ".jsonl.gz":
                whole.write(gzip.compress(b"", mtime=0))  # or a table without rows would be no gzip
            for part in parts:
                with part.open("rb") as opened_part:
                    shutil.copyfileobj(opened_part, whole, 2**20)


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
