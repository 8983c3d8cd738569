"""How CSV and JSONL are read, line by line: cells as they stand, objects by the types that a first reading finds.

By Python's own readers: those of `datasets` and pyarrow stop at the first bad line, and here each gets its error.
"""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from serving.batch import jsontypes
from serving.batch.locations import READABLE, File, suffix
from serving.batch.sources import BadInput, Block, Kept, Problem, Source, Wanted, grouped, readable, unique

MAX_CELL = 2**24
MAX_COLUMNS = 10_000
MAX_DEPTH = 50  # of objects and lists in one another: what Parquet's readers take


class CsvSource(Source):
    """CSV: every cell is a string, as it stands. A cell that a row lacks is null."""

    def survey(self) -> pa.Schema:
        """The header of each file; rows are counted."""
        csv.field_size_limit(MAX_CELL)
        fields: dict[str, pa.Field] = {}
        for file in self.files:
            with readable(file), file.open() as opened:
                rows = filled_rows(opened)
                header = next(rows, None)
                if header is None:
                    raise BadInput(f"{file.url}: is empty; the first line of CSV names its columns")
                schema = unique(pa.schema([(jsontypes.printable(name), pa.string()) for name in header]), file)
                fields |= {field.name: field for field in schema}
                self.rows += sum(1 for _ in rows)
        return pa.schema(fields.values())

    def read(self, opened: Any, file: File) -> Iterator[Block]:
        """The blocks of one file; lines that are quite empty are passed over."""
        rows = filled_rows(opened)
        header = [jsontypes.printable(name) for name in next(rows)]
        for some in grouped(rows, characters):
            columns = dict(zip(header, zip(*(padded(row, len(header)) for row in some), strict=True), strict=True))
            texts = list(columns.get(self.wanted.text, [None] * len(some)))
            kept = [jsontypes.column(columns.get(name, [None] * len(some)), "string") for name in self.names]
            table = pa.table(kept, schema=self.schema)
            size = sum(map(characters, some))
            yield Block(texts, [row_problem(row, len(header)) for row in some], self.as_kept(table, len(some)), size)


class JsonSource(Source):
    """JSONL: one object a line; lines without anything are passed over. Names and types come from a first reading."""

    def survey(self) -> pa.Schema:
        """Read everything: the names in the order of their appearance, and their types unless JSONL is wanted."""
        self.kinds: dict[str, jsontypes.Kind] = {}
        for file in self.files:
            with readable(file), file.open() as opened:
                for line in filled_lines(opened):
                    self.rows += 1
                    record = parsed(line)
                    if isinstance(record, dict):
                        self.learn(record)
        types = {name: jsontypes.arrow_type(found) or pa.string() for name, found in self.kinds.items()}
        return unique(pa.schema([(jsontypes.printable(name), chosen) for name, chosen in types.items()]), self.files[0])

    def learn(self, record: dict[str, Any]) -> None:
        """Take one object into account."""
        for name, value in record.items():
            before = self.kinds.setdefault(name, jsontypes.NULL)
            if not self.wanted.as_json:
                self.kinds[name] = jsontypes.unify(before, jsontypes.kind(value))
        if len(self.kinds) > MAX_COLUMNS:
            raise BadInput(f"the objects have more than {MAX_COLUMNS:,} different names; give each row the same few")

    def read(self, opened: Any, file: File) -> Iterator[Block]:
        """The blocks of one file."""
        original = {jsontypes.printable(name): name for name in self.kinds}
        whole = self.wanted.columns is None and not self.wanted.without_text
        for some in grouped(filled_lines(opened), len):
            read = [parsed(line) for line in some]
            problems = [one if isinstance(one, Problem) else None for one in read]
            records: list[dict[str, Any]] = [one if isinstance(one, dict) else {} for one in read]
            kept: Kept
            if self.wanted.as_json:
                kept = [
                    # White space between values may hold a return, at which some would end the line.
                    line.decode("utf-8-sig").replace("\r", " ").strip()
                    if whole and record and standard(line)
                    else jsontypes.dump(
                        {name: record[name] for name in map(original.get, self.names) if name in record}
                    )
                    for line, record in zip(some, records, strict=True)
                ]
            else:
                kept = self.table(records, [original[name] for name in self.names])
            texts = [record.get(original.get(self.wanted.text, "")) for record in records]
            yield Block(texts, problems, kept, sum(map(len, some)))

    def table(self, records: list[dict[str, Any]], names: list[str]) -> pa.Table:
        """Some columns of some objects, in the types found."""
        columns = [
            jsontypes.column([one.get(name) for one in records], self.kinds[name], words=name == self.wanted.text)
            for name in names
        ]
        return pa.table(columns, schema=self.schema)


FORMATS: dict[str, type[Source]] = {".parquet": Source, ".csv": CsvSource, ".jsonl": JsonSource}


def open_source(files: list[File], wanted: Wanted) -> Source:
    """The reader for files of one format.

    Raises:
        BadInput: a file is broken, or a column is not there.
    """
    return FORMATS[suffix(files[0].path, READABLE).removesuffix(".gz")](files, wanted)


def filled_rows(opened: Any) -> Iterator[list[str]]:
    """The rows of CSV that are not quite empty. Bytes that are no UTF-8 become halves of surrogate pairs."""
    text = io.TextIOWrapper(opened, encoding="utf-8-sig", errors="surrogateescape", newline="")
    yield from (row for row in csv.reader(text) if row)


def filled_lines(opened: Any) -> Iterator[bytes]:
    """The lines that hold anything."""
    return (line for line in opened if line.strip())


def characters(row: list[str]) -> int:
    """The length of all cells together."""
    return sum(map(len, row))


def padded(row: list[str], length: int) -> list[str | None]:
    """A row of CSV at the length of its header: what is missing is null, what is too much is dropped."""
    return [*row[:length], *[None] * (length - len(row))]


def row_problem(row: list[str], length: int) -> Problem | None:
    """What is wrong with a row of CSV as a whole."""
    if len(row) != length:
        remedy = "put a cell that holds a comma in quotation marks"
        return Problem("malformed CSV", f"the row has {len(row)} cells for {length} columns; {remedy}")
    if any("\udc80" <= character <= "\udcff" for cell in row if not cell.isascii() for character in cell):
        return Problem("not UTF-8", "the row is not UTF-8; convert the file")
    return None


def standard(line: bytes) -> bool:
    """Whether a line that Python takes for JSON is JSON, which has neither NaN nor infinity."""
    if b"NaN" not in line and b"Infinity" not in line:
        return True
    found: list[str] = []
    json.loads(line.decode("utf-8-sig"), parse_constant=found.append)
    return not found


def parsed(line: bytes) -> dict[str, Any] | Problem:
    """The object on a line of JSONL, or what is wrong with it."""
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Problem("not UTF-8", f"the line is not UTF-8 ({error.reason}); convert the file")
    except (ValueError, RecursionError) as error:
        return Problem("not JSON", f"the line is not JSON ({error}); write one object a line")
    if not isinstance(record, dict):
        return Problem(
            "not a JSON object", f"the line is {type(record).__name__}, not an object; write one object a line"
        )
    if line.count(b"{") + line.count(b"[") > MAX_DEPTH and deep(record):
        return Problem("nested too deeply", f"the line is nested over {MAX_DEPTH} levels deep; flatten it")
    return record


def deep(value: Any) -> bool:
    """Whether a JSON value is nested over `MAX_DEPTH` levels deep."""
    layer = [value]
    for _ in range(MAX_DEPTH):
        objects = [one.values() if isinstance(one, dict) else one for one in layer if isinstance(one, dict | list)]
        layer = [inner for one in objects for inner in one]
    return any(isinstance(one, dict | list) for one in layer)
