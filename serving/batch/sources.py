"""How tables are read: a few rows at a time, however long the files; here Parquet, and what all formats share."""

import csv
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from serving.batch import jsontypes
from serving.batch.locations import File

CHANGED = "changed while it was read; leave it as it is, and begin anew with --restart"

# Rows that are read at once, and after how many bytes fewer will do.
AT_ONCE, BYTES_AT_ONCE = 200, 4 * 2**20

Item = TypeVar("Item")

# A list of JSON objects where JSONL is wanted, else a table.
Kept: TypeAlias = pa.Table | list[str]


class BadInput(ValueError):
    """The files cannot be read as what they are named, or lack a column; the message says which and the remedy."""


class Problem(NamedTuple):
    """Why a row is not scored: what it is counted as, and the message that its row gets."""

    kind: str
    message: str


class Block(NamedTuple):
    """Rows in their order: what stands in the text column, what is wrong with a row as a whole, the columns kept."""

    texts: list[Any]
    problems: list[Problem | None]
    kept: Kept
    size: int  # in bytes, roughly


class Wanted(NamedTuple):
    """What the output needs of the input; `columns` is None for all, `without_text` drops the text from these."""

    text: str
    columns: Sequence[str] | None
    without_text: bool
    as_json: bool


class Source:
    """Files of one format and the columns they have. Parquet's own; the other two formats differ in what they override.

    Attributes:
        rows: how many there are.
        schema: of the columns kept; None where rows stay JSON.
    """

    def __init__(self, files: Sequence[File], wanted: Wanted) -> None:
        self.files, self.wanted = files, wanted
        self.rows = 0
        self.schema: pa.Schema | None = None
        found = self.survey()
        names = [field.name for field in found]
        needed = [wanted.text, *(wanted.columns or [])]
        missing = [name for name in needed if name not in names]
        if names and missing:  # of what holds nothing, nothing is missing
            raise BadInput(f"no column {missing[0]!r} in {self.files[0].url}; there are: {', '.join(names)}")
        kept = names if wanted.columns is None else list(dict.fromkeys(wanted.columns))
        self.names = [name for name in kept if name in names and not (wanted.without_text and name == wanted.text)]
        self.found = found
        self.schema = pa.schema([found.field(name) for name in self.names], found.metadata)

    def survey(self) -> pa.Schema:
        """Read the schemas of all files; count the rows."""
        merged: pa.Schema | None = None
        for file in self.files:
            with readable(file), file.open() as opened, pq.ParquetFile(opened) as parquet:
                self.rows += parquet.metadata.num_rows
                schema = unique(parquet.schema_arrow, file)
                try:
                    merged = schema if merged is None else pa.unify_schemas([merged, schema])
                except pa.ArrowException as error:
                    raise BadInput(
                        f"{file.url}: its columns do not fit those before ({error}); score it alone"
                    ) from None
        assert merged is not None
        if len(self.files) > 1:
            fields = [field.with_nullable(True) for field in merged]
            merged = pa.schema(fields, merged.metadata)
        return merged

    def blocks(self) -> Iterator[Block]:
        """All rows, in blocks of at most `AT_ONCE`; the same files give the same blocks.

        Raises:
            BadInput: a file is broken.
        """
        for file in self.files:
            with readable(file), file.open() as opened:
                yield from self.read(opened, file)

    def read(self, opened: Any, file: File) -> Iterator[Block]:
        """The blocks of one file."""
        names = list(dict.fromkeys([*self.names, self.wanted.text]))
        # Columns are read page by page: a row group may be larger than the memory.
        with pq.ParquetFile(opened, buffer_size=2**20, pre_buffer=False) as parquet:
            there = [name for name in names if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(rows_at_once(parquet), columns=there, use_threads=False):
                table = pa.Table.from_batches([batch])
                for name in names:
                    if name not in there:
                        table = table.append_column(
                            self.found.field(name), pa.nulls(len(table), self.found.field(name).type)
                        )
                texts, problems = words(table[self.wanted.text]), unreadable(table)
                kept = table.select(self.names)
                if not kept.schema.equals(self.schema):
                    kept = kept.cast(self.schema)
                rows = self.as_kept(kept, len(texts))
                # As JSON, a value that Parquet holds once for many rows stands in each.
                written = sum(map(len, rows)) if isinstance(rows, list) else 0
                yield Block(texts, problems, rows, batch.nbytes + written)

    def as_kept(self, table: pa.Table, rows: int) -> Kept:
        """A table as the output wants it; `rows`, because one without columns does not know."""
        return jsontypes.objects(table, rows) if self.wanted.as_json else table


@contextmanager
def readable(file: File) -> Iterator[None]:
    """Turns what goes wrong in reading a file into a `BadInput` that names it."""
    try:
        yield
    except csv.Error as error:
        raise BadInput(f"{file.url}: is not CSV ({error}); is a quotation mark not closed?") from None
    except (OSError, EOFError, UnicodeError, zlib.error, pa.ArrowException) as error:
        raise BadInput(f"{file.url}: cannot be read ({error}); repair it, or leave it out") from None


def unique(schema: pa.Schema, file: File) -> pa.Schema:
    """A schema in which no name stands twice.

    Raises:
        BadInput: one does.
    """
    if twice := [name for name in schema.names if schema.names.count(name) > 1]:
        raise BadInput(f"{file.url}: column {twice[0]!r} is there twice; rename one")
    return schema


def words(values: pa.ChunkedArray) -> list[Any]:
    """The values of the text column; what is no string stays what it is, and is not scored."""
    try:
        return jsontypes.decoded(values)
    except OverflowError:  # a time that Python has no date for
        return [value if value.is_valid else None for value in values]


def unreadable(table: pa.Table) -> list[Problem | None]:
    """What is wrong with those rows in which a string is not UTF-8. Parquet keeps its bytes, other outputs cannot."""
    problems: list[Problem | None] = [None] * len(table)
    for name, values in zip(table.column_names, table.columns, strict=True):
        try:
            values.validate(full=True)
        except pa.ArrowInvalid:
            for at, value in enumerate(values):
                if not jsontypes.decodes(value):
                    problems[at] = Problem("not UTF-8", f"column {name!r} is not UTF-8; convert the file")
    return problems


def rows_at_once(parquet: pq.ParquetFile) -> int:
    """How many rows come to `BYTES_AT_ONCE` in the row group that has the longest; at most `AT_ONCE`."""
    groups = map(parquet.metadata.row_group, range(parquet.num_row_groups))
    longest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return max(1, min(AT_ONCE, BYTES_AT_ONCE // max(1, longest)))


def grouped(
    items: Iterable[Item], size: Callable[[Item], int], most: int = AT_ONCE, most_bytes: int = BYTES_AT_ONCE
) -> Iterator[list[Item]]:
    """Items in lists of `most`, or fewer if these come to `most_bytes`."""
    some: list[Item] = []
    total = 0
    for item in items:
        some.append(item)
        total += size(item)
        if len(some) == most or total >= most_bytes:
            yield some
            some, total = [], 0
    if some:
        yield some
