"""How passages are read from a JSONL, CSV or Parquet file into one typed dataset, whatever the format."""

import csv
import hashlib
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Value

from data.passages import InvalidPassages, Problem, complete, features, find_problems

Numbered = list[tuple[int, dict[str, Any]]]  # row or line, counted from 1, and the record as the file has it


class UnreadableFile(ValueError):
    """A file that is missing, empty, or not of the format that its name promises."""


def corpus_features() -> Features:
    """The columns of a passage plus `sha1`, that of its text in UTF-8, in lower-case hexadecimal."""
    return Features({**features(), "sha1": Value("string")})


def read_passages(path: Path, source: str) -> Dataset:
    """Reads, checks and types the passages of one file, in their order; `source` is its name in messages.

    The file is read afresh each time and nothing is left on the disk. Raises InvalidPassages, or UnreadableFile.
    Warns of columns that are not fields of a passage; they are left out.
    """
    numbered = _read(path, source)
    if not numbered:
        raise UnreadableFile(f"{source}: holds no passages; give at least one")
    _warn_of_unknown_columns(numbered, source)
    problems = list(find_problems(numbered, source))
    if problems:
        raise InvalidPassages(problems)
    rows = [complete(record) for _, record in numbered]
    for row in rows:
        row["sha1"] = hashlib.sha1(row["text"].encode("utf-8")).hexdigest()
    return Dataset.from_list(rows, features=corpus_features())


def _read(path: Path, source: str) -> Numbered:
    if not path.is_file():
        raise UnreadableFile(f"{source}: there is no such file at {path.resolve()}; check the path")
    # The library's cache could serve an edited file stale, and would fill up with copies: a throw-away one cannot.
    with tempfile.TemporaryDirectory(prefix="immigration-news-") as cache, _quiet():
        # The library takes a path for a pattern ("news[1].csv" would read news1.csv): this one holds nothing to match.
        plain = Path(cache) / f"passages{path.suffix}"
        plain.symlink_to(path.resolve())
        try:
            return READERS[path.suffix](plain, source, {"cache_dir": cache, "keep_in_memory": True})
        except InvalidPassages:
            raise
        except Exception as error:  # a parser's, a decoder's or Arrow's own, mostly wrapped by the library
            cause = error.__cause__ or error
            message = f"{source}: cannot be read as {path.suffix[1:].upper()} in UTF-8 ({cause}); repair or rename it"
            raise UnreadableFile(message) from error


def _read_jsonl(path: Path, source: str, options: dict[str, Any]) -> Numbered:
    # As lines of text: the library's JSON reader would turn a column of dates (ids often are) into timestamps,
    # lose count of lines, and stop at the first malformed one.
    with path.open(encoding="utf-8-sig") as file:
        if not file.read(1):
            return []
    lines = Dataset.from_text(str(path), encoding="utf-8-sig", **options)["text"]
    numbered, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(Problem(source, number, "record", line, f"not JSON ({error}); write one object a line"))
            continue
        if isinstance(record, dict):
            numbered.append((number, record))
        else:
            problems.append(Problem(source, number, "record", record, "not an object; write one object a line"))
    if problems:
        problems += find_problems(numbered, source)
        raise InvalidPassages(sorted(problems, key=lambda problem: problem.row))
    return numbered


def _read_csv(path: Path, source: str, options: dict[str, Any]) -> Numbered:
    # A row longer than the header would push all cells into their neighbours' columns, where they may even look right.
    csv.field_size_limit(2**31 - 1)  # a column that will be left out may hold whole pages
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = (row for row in csv.reader(file) if len(row) > 1 or "".join(row).strip())
        header, count, problems = next(rows, []), 0, []
        for count, row in enumerate(rows, start=1):
            if len(row) > len(header):
                remedy = f"{len(row)} cells for {len(header)} columns; put a cell that holds a comma in quotation marks"
                problems.append(Problem(source, count, "record", row, remedy))
    if problems:
        raise InvalidPassages(problems)
    if not count:
        return []
    # Every cell as the text it is: "007" stays an id, and "NA" is the country Namibia. So too in the columns that will
    # be left out: guessed types change from one chunk of the file to the next, and then Arrow refuses it.
    text = dict.fromkeys([*features(), *header], str)
    table = Dataset.from_csv(str(path), encoding="utf-8-sig", converters=text, keep_default_na=False, **options)
    flags = {"true": True, "false": False}
    numbered = []
    for number, row in enumerate(table, start=1):
        record = {field: None if value == "" else value for field, value in row.items()}
        disputed = record.get("disputed")
        if isinstance(disputed, str):
            record["disputed"] = flags.get(disputed.lower(), disputed)
        numbered.append((number, record))
    return numbered


def _read_parquet(path: Path, source: str, options: dict[str, Any]) -> Numbered:
    if pq.read_metadata(path).num_rows == 0:
        return []
    table = Dataset.from_parquet(str(path), **options)
    # A typed dataset saved by the library comes back with numbers for names.
    labels = {name: feature for name, feature in table.features.items() if isinstance(feature, ClassLabel)}
    numbered = []
    for number, row in enumerate(table, start=1):
        named = {name: label.int2str(row[name]) for name, label in labels.items() if row[name] is not None}
        numbered.append((number, {**row, **named}))
    return numbered


READERS: Mapping[str, Callable[[Path, str, dict[str, Any]], Numbered]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _warn_of_unknown_columns(numbered: Numbered, source: str) -> None:
    unknown = sorted({column for _, record in numbered for column in record} - set(corpus_features()))
    if unknown:
        known = ", ".join(features())
        warnings.warn(f"{source}: columns left out: {', '.join(unknown)}; a passage has {known}", stacklevel=4)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the library's progress bars and its log, then puts both back as they were."""
    bars, level = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    if bars:
        datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
