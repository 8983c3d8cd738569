"""The datasheet of the bundled corpus: each figure in it is what the expression or command beside it gives today."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasheets import calculator, cells

from data.agreement import agreement, as_markdown
from data.codebook import load_codebook
from data.corpora import BUNDLED, load_bundled

SHEET = (Path(__file__).parents[1] / "data" / "DATASHEET.md").read_text(encoding="utf-8")
FIGURES = re.findall(r"^\| ([^|`]+) \| (\S+) \| `(.+)` \|$", SHEET, re.M)
SERIES = re.findall(r"from\s+`([^`]+)`:\n(`[^|]+?\.)\n\n", SHEET)
CONSTANTS = (
    f"version {load_codebook().version} of the codebook",
    "(2021)",
    "5th, 25th, 50th, 75th and 95th percentile",
    "ISO 3166",
    "70% train, 15% validation and 15% test",
    "UTF-8",
    "CC BY 4.0",
    "Apache License 2.0",
)  # what the prose may say in figures; all else stands where it is computed
TABLES = re.findall(r"[Ff]rom\s+`([^`]+)`:\n\n(\| \|.+?)\n\n", SHEET, re.S)


@pytest.fixture(scope="module")
def compute() -> Callable[[str], Any]:
    return calculator(SHEET)


def test_no_table_or_count_of_the_sheet_escapes_these_tests() -> None:
    rest = SHEET.replace(as_markdown(agreement(load_bundled())), "")
    for checked in (*(listed for _, listed in SERIES), *(table for _, table in TABLES)):
        rest = rest.replace(checked, "")
    rest = re.sub(r"^\| [^|`]+ \| \S+ \| `.+` \|$", "", rest, flags=re.M)
    tables = re.findall(r"^\|.*\|$", rest, re.M)
    assert set(tables) == {"| figure | value | from |", "| --- | ---: | --- |"}
    prose = re.sub(r"```.+?```|`[^`]*`|^\|[^\n]*\|$", "", rest, flags=re.S | re.M)
    for constant in CONSTANTS:
        assert constant in prose, f"{constant!r} is gone from the sheet: take it off CONSTANTS"
        prose = prose.replace(constant, "")
    assert re.findall(r"\d+", prose) == []


@pytest.mark.parametrize(("figure", "value", "expression"), FIGURES)
def test_figure(compute: Callable[[str], Any], figure: str, value: str, expression: str) -> None:
    assert str(compute(expression)) == value, figure


@pytest.mark.parametrize(("expression", "listed"), SERIES)
def test_counts(compute: Callable[[str], Any], expression: str, listed: str) -> None:
    expected = {str(key): str(value) for key, value in compute(expression).items()}
    assert dict(re.findall(r"`([^`]+)`\s+(\d+)", listed)) == expected


@pytest.mark.parametrize(("expression", "table"), TABLES)
def test_table(compute: Callable[[str], Any], expression: str, table: str) -> None:
    frame: pd.DataFrame = compute(expression)
    heading, _, *rows = table.splitlines()
    assert cells(heading)[1:] == list(frame.columns)
    assert [cells(row) for row in rows] == [[name, *map(str, values)] for name, *values in frame.itertuples()]


def test_the_agreement_is_that_of_the_command() -> None:
    assert as_markdown(agreement(load_bundled())) in SHEET


def test_the_weakest_topics_are_named_as_such() -> None:
    topics = sorted(agreement(load_bundled()).topic.labels, key=lambda label: label.kappa)
    first, second, third = (f"`{label.label}`" for label in topics[:3])
    weakest = re.search(r"The weakest topic is (`\w+`).*?(`\w+`) and (`\w+`);", SHEET, re.S)
    assert weakest and weakest.groups() == (first, second, third)


def test_the_totals_are_those_of_the_lines_of_the_file() -> None:
    records = [json.loads(line) for line in BUNDLED.read_text(encoding="utf-8").splitlines()]
    figures = {figure: value for figure, value, _ in FIGURES}
    assert figures["passages"] == str(len(records))
    assert figures["documents"] == str(len({record["doc_id"] for record in records}))
    assert figures["words"] == str(sum(len(record["text"].split()) for record in records))
    assert figures["passages disputed"] == str(sum(record["disputed"] for record in records))
    for table, field in zip(TABLES, ("topic", "genre"), strict=False):
        counts = Counter((record[field], record["stance"]) for record in records)
        heading, _, *rows = (cells(line) for line in table[1].splitlines())
        printed = {
            (row[0], stance): int(count)
            for row in rows
            for stance, count in zip(heading, row, strict=True)
            if "All" not in (row[0], stance) and stance
        }
        assert {pair: count for pair, count in printed.items() if count} == counts
