"""Batch scoring: every format, bad rows, articles, the same bytes after kills and with more processes, flat memory."""

import csv
import datetime
import gzip
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import mlflow
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, Champion, Store
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import score
from serving.batch import locations
from serving.batch.linewise import open_source
from serving.batch.sources import BYTES_AT_ONCE, Wanted

ANSWERS = ["topic", "topic_confidence", "stance", "stance_confidence", "abstained", "error"]
TYPES = [pa.string(), pa.float64(), pa.string(), pa.float64(), pa.bool_(), pa.string()]
INPUTS = ["parquet", "jsonl", "jsonl.gz", "csv", "csv.gz"]
OUTPUTS = ["parquet", "jsonl", "jsonl.gz", "csv"]

with (ROOT / "data" / "corpus" / "passages.jsonl").open(encoding="utf-8") as corpus:
    PASSAGES = [json.loads(line)["text"] for line in corpus]
SENTENCES = [sentence for passage in PASSAGES for sentence in passage.split(". ") if sentence]


def run(store: Store, *arguments: object) -> str:
    code, said = store.call(score.main, *map(str, arguments))
    assert code == 0, said
    return said


def refused(store: Store, *arguments: object) -> str:
    """The one line in which a call is refused."""
    code, said = store.call(score.main, *map(str, arguments))
    assert code == 2 and said.startswith("error: ") and len(said.splitlines()) == 1, said
    return said


def start(store: Store, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "serving.score", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=store.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str], part: Path) -> None:
    """Until a part is there."""
    for _ in range(2_400):
        if part.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise TimeoutError(part)


def parts_of(output: Path) -> Path:
    return output.parent / f".{output.name}.parts"


def columns(texts: Sequence[Any]) -> dict[str, list[Any]]:
    numbers = range(len(texts))
    return {"id": [f"00{n}" for n in numbers], "text": list(texts), "note": [f'a "{n}",\r\nb\u2028 é' for n in numbers]}


def write(path: Path, given: dict[str, list[Any]]) -> Path:
    rows = [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)]
    opened = gzip.open if path.suffix == ".gz" else open
    if path.suffix == ".parquet":
        pq.write_table(pa.table(given), path)
    elif ".csv" in path.suffixes:
        with opened(path, "wt", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([list(given), *(row.values() for row in rows)])
    else:
        with opened(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of an output; of CSV, answers in the types that they have elsewhere."""
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="") as file:
        if ".csv" not in path.suffixes:
            return [json.loads(line) for line in file.read().split("\n")[:-1]]
        rows = list(csv.DictReader(file))
    for row in rows:
        row.update({name: row[name] or None for name in ANSWERS})
        row.update({name: row[name] and float(row[name]) for name in ANSWERS if name.endswith("confidence")})
        row["abstained"] = {"true": True, "false": False, None: None}[row["abstained"]]
    return rows


def expected(store: Store, texts: Sequence[str]) -> list[dict[str, Any]]:
    """The answers by MLflow's own way."""
    mlflow.set_tracking_uri(store.uri)
    read = mlflow.pyfunc.load_model("models:/immigration-news@champion").predict(pd.DataFrame({"text": texts}))
    rows = read.to_dict("records")
    for row in rows:
        if row["topic"] == "off_topic":
            row["stance"] = row["stance_confidence"] = None
    return [{**row, "error": None} for row in rows]


def answers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in ANSWERS} for row in rows]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("given", INPUTS)
def test_every_format_becomes_every_other(history: Champion, tmp_path: Path, given: str, output: str) -> None:
    texts = PASSAGES[:30]
    source, target = write(tmp_path / f"in.{given}", columns(texts)), tmp_path / f"out.{output}"
    run(history, source, target, "--part-rows", 7)
    rows = read(target)
    assert [list(row) for row in rows] == [["id", "text", "note", *ANSWERS]] * len(texts)
    kept = [dict(zip(columns(texts), row, strict=True)) for row in zip(*columns(texts).values(), strict=True)]
    assert [{name: row[name] for name in kept[0]} for row in rows] == kept
    assert answers(rows) == expected(history, texts)
    assert not parts_of(target).exists()


def test_the_real_champion_by_the_command_says_what_mlflow_says_with_any_number_of_processes(
    champion: Champion, tmp_path: Path
) -> None:
    texts = PASSAGES[:210]  # two tasks
    source, target = write(tmp_path / "in.parquet", columns(texts)), tmp_path / "out.parquet"
    run(champion, source, target)
    assert answers(read(target)) == expected(champion, texts)
    alone = target.read_bytes()
    done = champion.run("serving.score", str(source), str(target), "--processes", "2", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == alone


def test_columns_of_parquet_keep_their_types(history: Champion, tmp_path: Path) -> None:
    table = pa.table(
        {
            "when": pa.array([datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), None], pa.timestamp("us", "UTC")),
            "small": pa.array([1, None], pa.int8()),
            "kind": pa.array(["a", "b"]).dictionary_encode(),
            "tags": pa.array([["x", None], []], pa.list_(pa.large_string())),
            "text": pa.array(["The border was closed.", None], pa.large_string()),
            "raw": pa.array([b"\xff", b""]),
            "share": pa.array([float("nan"), 0.5], pa.float32()),
        },
        metadata={"mine": "kept"},
    )
    pq.write_table(table, tmp_path / "in.parquet")
    run(history, tmp_path / "in.parquet", tmp_path / "out.parquet")
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.schema.names == [*table.schema.names, *ANSWERS]
    assert out.schema.types == [*table.schema.types, *TYPES]
    assert out.select(table.schema.names).slice(1).equals(table.slice(1))
    assert out.schema.metadata[b"mine"] == b"kept"
    run(history, tmp_path / "in.parquet", tmp_path / "out.jsonl")
    row = read(tmp_path / "out.jsonl")[0]
    assert (row["when"], row["tags"], row["raw"], row["share"]) == (
        "2026-01-02T00:00:00+00:00",
        ["x", None],
        "/w==",
        None,
    )


def test_dictionaries_that_differ_from_file_to_file(history: Champion, tmp_path: Path) -> None:
    for name, kinds in {"a": ["x", "y"], "b": ["z", None]}.items():
        kind = pa.array(kinds).dictionary_encode()
        pq.write_table(pa.table({"text": PASSAGES[:2], "kind": kind}), tmp_path / f"{name}.parquet")
    for options in ([], ["--articles"]):
        run(history, tmp_path / "[ab].parquet", tmp_path / "out.parquet", "--overwrite", *options)
        out = pq.read_table(tmp_path / "out.parquet")
        assert out["kind"].to_pylist() == ["x", "y", "z", None]
        assert pa.types.is_dictionary(out.schema.field("kind").type)


def test_values_of_jsonl_pass_unchanged_and_their_types_are_found_for_parquet(
    history: Champion, tmp_path: Path
) -> None:
    lines = [
        '{"text": "A wall.", "n": 1, "big": 12345678901234567890, "f": 1, "o": {"a": 1}, '
        '"m": 1, "l": [1], "s": "\\ud800"}',
        '  {"text":"A visa.","f":2.50,"o":{"b":["x"]},"m":"1","l":[2.5],"new":true, "e": 1e400}  ',
        '{"text": "A ferry.", "n": null, "big": 0, "late": "\\u00e9\\u2028"}',
        "{}",
    ]
    (tmp_path / "in.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    run(history, tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--part-rows", 1)
    out = (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    for line, written in zip(lines, out, strict=True):
        assert written.startswith(line.strip()[:-1])
    run(history, tmp_path / "in.jsonl", tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    found = {name: str(table.schema.field(name).type) for name in table.schema.names[:-6]}
    assert found == {
        "text": "string", "n": "int64", "big": "string", "f": "double",
        "o": "struct<a: int64, b: list<element: string>>",
        "m": "string", "l": "list<element: double>", "s": "string", "new": "bool", "e": "double", "late": "string",
    }  # fmt: skip
    assert table["m"].to_pylist() == ["1", '"1"', None, None]
    assert table["big"].to_pylist()[0] == "12345678901234567890"
    assert table["s"].to_pylist()[0] == "\N{REPLACEMENT CHARACTER}"
    run(history, tmp_path / "in.jsonl", tmp_path / "some.jsonl", "--columns", "new,text")
    assert [list(row)[:-6] for row in read(tmp_path / "some.jsonl")] == [["text"], ["new", "text"], ["text"], []]


def test_what_is_no_number_in_json_is_null(history: Champion, tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    lines = [
        '{"text": "A wall.",  "n": NaN, "l": [1, -Infinity], "e": 1e400}',
        '{"text": "NaN, Infinity",  "n": 1.50}',
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for options in ([], ["--columns", "n,l,text"]):
        run(history, tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--overwrite", *options)
        written = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
        row = json.loads(written[0], parse_constant=refuse)
        assert (row["n"], row["l"], row["text"], row.get("e")) == (None, [1, None], "A wall.", None)
        assert written[1].startswith(lines[1][:-1]) != bool(options)
        assert json.loads(written[1], parse_constant=refuse)["text"] == "NaN, Infinity"
    run(history, tmp_path / "in.jsonl", tmp_path / "some.jsonl", "--columns", "e")
    assert read(tmp_path / "some.jsonl")[0]["e"] is None
    run(history, tmp_path / "in.jsonl", tmp_path / "out.parquet")
    assert str(pq.read_table(tmp_path / "out.parquet")["n"].to_pylist()) == "[nan, 1.5]"


BAD = {
    "null": '{"text": null, "id": 1}',
    "empty": '{"text": "", "id": 2}',
    "not a string": '{"text": 5, "id": 3}',
    "too long": json.dumps({"text": "x" * 10_001, "id": 4}),
    "not a JSON object": "[1]",
    "not JSON": '{"text": ',
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_bad_rows_get_an_error_and_are_counted_and_the_others_are_scored(
    history: Champion, tmp_path: Path, output: str
) -> None:
    lines = [line.encode() for line in BAD.values()] + [b'{"text": "\xff"}', json.dumps({"text": PASSAGES[0]}).encode()]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    said = run(history, tmp_path / "in.jsonl", tmp_path / f"out.{output}")
    rows = read(tmp_path / f"out.{output}")
    assert answers(rows)[-1:] == expected(history, PASSAGES[:1])
    for row in rows[:-1]:
        assert row["error"] and [row[name] for name in ANSWERS[:-1]] == [None] * 5
    assert rows[-1]["text"] == PASSAGES[0]
    for kind in [*BAD, "not UTF-8"]:
        assert f"{kind} 1" in said
    assert "errors      7 (" in said and "rows        8\n" in said and "scored      1\n" in said


def test_bad_rows_of_csv_and_parquet(history: Champion, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"\xef\xbb\xbfid,text\r\n1,A wall.\r\n2\r\n3,a,b\r\n\r\n4,\xff\r\n5,\r\n")
    said = run(history, tmp_path / "in.csv", tmp_path / "out.csv")
    assert "errors      4 (empty 1, malformed CSV 2, not UTF-8 1)" in said
    assert [row["id"] for row in read(tmp_path / "out.csv")] == ["1", "2", "3", "4", "5"]
    times = pa.array([None, 0, 2**52], pa.timestamp("ms"))  # the last is later than Python's calendar
    for texts, counted in ((pa.array([1, 2]), "(not a string 2)"), (times, "(not a string 2, null 1)")):
        pq.write_table(pa.table({"text": texts}), tmp_path / "in.parquet")
        assert counted in run(history, tmp_path / "in.parquet", tmp_path / "out.parquet", "--overwrite")


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_is_nested_too_deeply_is_a_bad_row(history: Champion, tmp_path: Path, output: str) -> None:
    def line(levels: int) -> str:
        return '{"text": "The visa rule changed.", "more": ' + '[{"a":' * levels + "1" + "}]" * levels + "}\n"

    (tmp_path / "in.jsonl").write_text(line(24) + line(25) + line(400) + line(40_000))
    said = run(history, tmp_path / "in.jsonl", tmp_path / f"out.{output}")
    rows = read(tmp_path / f"out.{output}")
    assert [bool(row["error"]) for row in rows] == [False, True, True, True] and rows[0]["topic"]
    assert "(nested too deeply 2, not JSON 1)" in said
    assert "1" in str(rows[0]["more"])


def as_strings(values: list[bytes | None]) -> pa.Array:
    """Strings that are what the bytes are, UTF-8 or not."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values).buffers())


def test_strings_of_parquet_that_are_not_utf_8(history: Champion, tmp_path: Path) -> None:
    texts, notes = [*map(str.encode, PASSAGES[:3]), b"\xffa"], [b"\xc3\xa9", None, b"caf\xe9", b""]
    lists = pa.ListArray.from_arrays([0, 1, 2, 3, 4], as_strings([b"x", b"\xe9", b"y", b"z"]))
    text = as_strings(texts).cast(pa.large_string())
    given = pa.table({"text": text, "note": as_strings(notes), "l": lists, "n": [1, 2, 3, 4]})
    pq.write_table(given, tmp_path / "in.parquet")
    for output in OUTPUTS:
        said = run(history, tmp_path / "in.parquet", tmp_path / f"out.{output}", "--part-rows", 2)
        assert "scored      1\n" in said and "errors      3 (not UTF-8 3)" in said
    table = pq.read_table(tmp_path / "out.parquet")
    errors = table["error"].to_pylist()
    for error, name in zip(errors[1:], ["l", "note", "text"], strict=True):
        assert error == f"column {name!r} is not UTF-8; convert the file"
    assert table["text"].cast(pa.binary()).to_pylist() == texts
    assert table["note"].cast(pa.binary()).to_pylist() == notes
    for output in OUTPUTS[1:]:
        rows = read(tmp_path / f"out.{output}")
        assert [row["error"] for row in rows] == errors
        assert [row["text"] for row in rows] == [*PASSAGES[:3], "\N{REPLACEMENT CHARACTER}a"]
        assert [row["note"] or "" for row in rows] == ["é", "", "caf\N{REPLACEMENT CHARACTER}", ""]
        assert [row["l"] or None for row in rows][1] is None
        assert answers(rows)[:1] == expected(history, PASSAGES[:1])
    said = run(history, tmp_path / "in.parquet", tmp_path / "few.csv", "--columns", "n")
    assert "errors      1 (not UTF-8 1)" in said


def test_what_has_no_rows_gives_an_output_without_rows(history: Champion, tmp_path: Path) -> None:
    for ending in INPUTS:
        for output in OUTPUTS:
            target = tmp_path / f"{ending}.{output}"
            run(history, write(tmp_path / f"in.{ending}", columns([])), target)
            assert read(target) == []


def test_long_rows_of_parquet_are_read_few_at_a_time(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [f"{n:09}" * 10**5 for n in range(20)]}), tmp_path / "in.parquet")
    source = open_source(locations.find(str(tmp_path / "in.parquet")), Wanted("text", None, False, False))
    blocks = list(source.blocks())
    assert [text for block in blocks for text in block.texts] == pq.read_table(tmp_path / "in.parquet")[0].to_pylist()
    assert max(block.size for block in blocks) <= 1.1 * BYTES_AT_ONCE


def test_a_text_is_scored_once_in_the_whole_run(history: Champion, tmp_path: Path) -> None:
    texts = [*PASSAGES[:10], *PASSAGES[:10], "", PASSAGES[3], *PASSAGES[10:12]]
    source = write(tmp_path / "in.parquet", columns(texts))
    said = run(history, source, tmp_path / "out.parquet", "--part-rows", 4)
    assert "scored      12\n" in said and "duplicates  11\n" in said and "errors      1 (empty 1)" in said
    rows = answers(read(tmp_path / "out.parquet"))
    assert rows[:10] == rows[10:20] == expected(history, PASSAGES[:10])


def test_folders_patterns_and_urls(history: Champion, tmp_path: Path) -> None:
    many = tmp_path / "many"
    (many / "deeper").mkdir(parents=True)
    write(many / "b.parquet", {"text": PASSAGES[2:4], "n": [1, 2]})
    write(many / "a.parquet", {"n": [None, None], "text": PASSAGES[:2]})
    write(many / "deeper" / "c.parquet", {"text": PASSAGES[4:6]})
    write(many / "_d.parquet", {"text": PASSAGES[6:8]})
    (many / "notes.txt").write_text("not a table")
    for place in (many, f"file://{many}", f"{many}/**/[abc].parquet"):
        run(history, place, tmp_path / "out.parquet", "--overwrite")
        rows = read(tmp_path / "out.parquet")
        assert [row["text"] for row in rows] == PASSAGES[:6]
        assert [row["n"] for row in rows] == [None, None, 1, 2, None, None]
    for ending in ("csv", "jsonl", "jsonl.gz"):  # of these too, a folder is one table
        (tmp_path / ending).mkdir()
        write(tmp_path / ending / f"b.{ending}", {"text": PASSAGES[2:4], "n": [1, 2]})
        write(tmp_path / ending / f"a.{ending}", {"n": [3, 4], "text": PASSAGES[:2]})
        run(history, tmp_path / ending, tmp_path / "out.parquet", "--overwrite")
        rows = read(tmp_path / "out.parquet")
        assert [(row["text"], int(row["n"])) for row in rows] == list(zip(PASSAGES[:4], (3, 4, 1, 2), strict=True))
    memory = fsspec.filesystem("memory")
    memory.put(str(many / "a.parquet"), "/in/a.parquet")
    run(history, "memory://in/*.parquet", "memory://out/a.jsonl")
    assert [json.loads(line)["text"] for line in memory.cat("/out/a.jsonl").splitlines()] == PASSAGES[:2]
    assert [Path(path).name for path in memory.ls("/out", detail=False)] == ["a.jsonl", "a.jsonl.meta.json"]
    assert "nothing to do" in run(history, "memory://in/*.parquet", "memory://out/a.jsonl")
    assert not list(Path(history.env["IMMNEWS_CACHE"]).glob("score/*"))
    literal = write(tmp_path / "in[1].jsonl", {"text": PASSAGES[:1]})
    run(history, literal, tmp_path / "out.jsonl")


@pytest.mark.parametrize("output", OUTPUTS)
def test_articles_give_a_row_a_passage(history: Champion, tmp_path: Path, output: str) -> None:
    articles = ["\n\n".join(PASSAGES[:3]), " \n ", None, "x" * 200_001, PASSAGES[3], f"<p>{PASSAGES[4]}</p>"]
    source = write(tmp_path / "in.jsonl", {"id": list("abcdef"), "body": articles})
    said = run(history, source, tmp_path / f"out.{output}", "--text", "body", "--articles", "--part-rows", 2)
    assert "errors      3 (no passages 1, null 1, too long 1)" in said and "scored      5\n" in said
    rows = read(tmp_path / f"out.{output}")
    assert list(rows[0]) == ["id", "row", "start", "end", "passage", *ANSWERS]
    assert [(row["id"], int(row["row"])) for row in rows] == list(
        zip("aaabcdef", [0, 0, 0, 1, 2, 3, 4, 5], strict=True)
    )
    for row in rows[:3]:
        assert articles[0] is not None and row["passage"] == articles[0][int(row["start"]) : int(row["end"])]
    scored = [row for row in rows if not row["error"]]
    assert [row["passage"] for row in scored] == PASSAGES[:5]
    assert answers(scored) == expected(history, PASSAGES[:5])
    assert all(not row["passage"] and row["topic"] is None for row in rows if row["error"])


def test_articles_of_a_table_with_nothing_else(history: Champion, tmp_path: Path) -> None:
    for output in OUTPUTS:
        source = write(tmp_path / "in.parquet", {"text": ["\n".join(PASSAGES[:2])]})
        run(history, source, tmp_path / f"out.{output}", "--articles")
        assert [row["passage"] for row in read(tmp_path / f"out.{output}")] == PASSAGES[:2]


def test_min_confidence_abstains_more(history: Champion, tmp_path: Path) -> None:
    source, usual = write(tmp_path / "in.parquet", columns(PASSAGES[:60])), expected(history, PASSAGES[:60])
    least = sorted(row["topic_confidence"] for row in usual)[-2]
    run(history, source, tmp_path / "out.csv", "--min-confidence", least)
    found = [row["abstained"] for row in read(tmp_path / "out.csv")]
    assert found == [row["abstained"] or row["topic_confidence"] < least for row in usual]
    assert 60 > sum(found) > sum(row["abstained"] for row in usual)


def test_columns_chosen_and_names_that_are_taken(history: Champion, tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", {"text": PASSAGES[:3], "topic": list("abc"), "n": [1, 2, 3]})
    said = refused(history, source, tmp_path / "out.parquet")
    assert "'topic'" in said and "--columns" in said
    run(history, source, tmp_path / "out.parquet", "--columns", "n")
    assert pq.read_schema(tmp_path / "out.parquet").names == ["n", *ANSWERS]
    write(tmp_path / "in.csv", {"text": PASSAGES[:1], "passage": ["p"]})
    assert "'passage'" in refused(history, tmp_path / "in.csv", tmp_path / "out.csv", "--articles")


def test_what_cannot_be_is_refused_in_one_line(
    history: Champion, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, out = write(tmp_path / "good.csv", columns(PASSAGES[:2])), tmp_path / "out.csv"
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "broken.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}')[:-9])
    (tmp_path / "twice.csv").write_text("text,text\na,b\n")
    (tmp_path / "mixed").mkdir()
    write(tmp_path / "mixed" / "a.csv", columns([]))
    write(tmp_path / "mixed" / "a.jsonl", columns([]))
    cases = [
        ([tmp_path / "none.csv", out], "no file is there"),
        ([tmp_path, tmp_path / "out.txt"], "let it end in .parquet"),
        ([tmp_path / "mixed", out], ".csv and .jsonl"),
        ([__file__, out], "its format is not known"),
        ([good, tmp_path / "nowhere" / "out.csv"], "there is no folder"),
        ([good, good, "--overwrite"], "is a file of the input"),
        ([good, out, "--text", "body"], "no column 'body' in file://"),
        ([good, out, "--columns", "id,nme"], "there are: id, text, note"),
        ([tmp_path / "broken.parquet", out], "cannot be read"),
        ([tmp_path / "broken.jsonl.gz", out], "cannot be read"),
        ([tmp_path / "twice.csv", out], "'text' is there twice"),
        (["nope://x.csv", out], "cannot be reached"),
    ]
    for arguments, message in cases:
        assert message in refused(history, *arguments)
        assert not parts_of(out).exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "make train" in refused(Store(empty), good, out)
    options = {"--min-confidence": ("2", "x"), "--processes": ("0", "1e3"), "--part-rows": ("-1", "2000000")}
    for option, values in options.items():
        for value in values:
            with pytest.raises(SystemExit, match="2"):
                score.main([str(good), str(out), option, value])
            said = capsys.readouterr().err
            assert f"{option}: {value!r} is not a " in said and "from " in said and "give " in said


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_that_is_there_stays_unless_it_is_to_be_replaced(
    history: Champion, tmp_path: Path, output: str
) -> None:
    source, target = write(tmp_path / "in.csv", columns(PASSAGES[:5])), tmp_path / f"out.{output}"
    run(history, source, target)
    before = target.read_bytes()
    assert "nothing to do" in run(history, source, target)
    assert "--overwrite" in refused(history, source, target, "--min-confidence", "0.5")
    run(history, source, target, "--overwrite")
    assert target.read_bytes() == before
    target.write_bytes(b"mine")
    assert "--overwrite" in refused(history, source, target)
    assert target.read_bytes() == b"mine" and not parts_of(target).exists()
    parts_of(target).mkdir()  # another call, allowed to replace it, was interrupted before its first part
    (parts_of(target) / "description.json").write_text("{}")
    assert "--overwrite" in refused(history, source, target)
    assert target.read_bytes() == b"mine"


def test_a_parquet_output_that_was_changed_is_not_taken_for_finished(history: Champion, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.csv", columns(PASSAGES[:5])), tmp_path / "out.parquet"
    run(history, source, target)
    made = target.read_bytes()
    table = pq.read_table(target)
    changed = table.set_column(table.schema.get_field_index("topic"), "topic", pa.array(["border"] * 5))
    assert b"immigration_news" in changed.schema.metadata
    for rewritten in (changed, table.rename_columns(["no", *table.schema.names[1:]]), table):
        pq.write_table(rewritten, target, compression="zstd")
        assert "is there already; name another" in refused(history, source, target)
    at = made.index(PASSAGES[0][:20].encode()) if PASSAGES[0][:20].encode() in made else len(made) // 4
    target.write_bytes(made[:at] + bytes([made[at] ^ 1]) + made[at + 1 :])
    assert "is there already; name another" in refused(history, source, target)
    target.write_bytes(made)
    assert "nothing to do" in run(history, source, target)


def test_a_pattern_does_not_find_the_parts_of_a_run(history: Champion, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", columns(PASSAGES[:5]))
    (tmp_path / ".out.csv.parts").mkdir()
    (tmp_path / ".out.csv.parts" / "part-00000000.csv").write_text("text\nhalf\n")
    said = run(history, f"{tmp_path}/**/*.csv", tmp_path / "out.jsonl")
    assert "rows        5" in said and source.exists()


def test_an_output_says_how_it_was_made(history: Champion, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", columns(PASSAGES[:2]))
    mlflow.set_tracking_uri(history.uri)
    version = mlflow.MlflowClient().get_model_version_by_alias("immigration-news", "champion")
    for output in OUTPUTS:
        target = tmp_path / f"out.{output}"
        run(history, source, target, "--columns", "id", "--processes", "1")
        if output == "parquet":
            noted = json.loads(pq.read_schema(target).metadata[b"immigration_news"])
        else:
            noted = json.loads(Path(f"{target}.meta.json").read_text())
            assert noted["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
        assert noted["command"] == f"python -m serving.score {source} {target} --columns id"
        assert noted["model"]["version"] == history.version and noted["options"]["columns"] == "id"
        for tag in ("manifest", "data_digest", "codebook", "run_id"):
            assert noted["model"][tag] == version.tags[tag]
    assert (tmp_path / "out.jsonl.gz").read_bytes()[4:8] == b"\0\0\0\0"


def many(path: Path, rows: int) -> Path:
    """A file of short texts of which most differ, written a line at a time."""
    chosen = random.Random(5)
    with path.open("w", encoding="utf-8") as file:
        for row in range(rows):
            text = " ".join(chosen.sample(SENTENCES, 2))[:150] if row % 11 else SENTENCES[row % 100]
            file.write(json.dumps({"id": row, "text": text if row % 101 else None}) + "\n")
    return path


def test_an_interrupted_run_goes_on_and_one_of_another_kind_does_not_unless_begun_anew(
    history: Champion, tmp_path: Path
) -> None:
    source, target = many(tmp_path / "in.jsonl", 10_000), tmp_path / "out.parquet"
    call = (source, target, "--part-rows", 500)
    undisturbed = run(history, *call)
    whole = target.read_bytes()
    target.unlink()

    process = start(history, *call)
    wait_for(process, parts_of(target) / "part-00000001.parquet")
    process.send_signal(signal.SIGSTOP)
    assert "another process is writing" in refused(history, *call)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said
    assert re.search(r"scoring: .* \d+/10000 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+ rows/s\]", said)  # time left, and rate
    done = len(list(parts_of(target).glob("part-*")))
    assert said.splitlines()[-1] == f"interrupted; the same command goes on from part {done}"
    first = parts_of(target) / "part-00000000.parquet"
    made = first.stat().st_mtime_ns

    assert "--part-rows 500, is" in refused(history, *call[:2])
    assert "--min-confidence 0.5" in refused(history, *call, "--min-confidence", "0.5")
    state = source.stat()
    os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    said = refused(history, *call)
    assert f"input file://{source} was {state.st_size} bytes, mtime" in said and "--restart" in said
    os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert first.stat().st_mtime_ns == made

    few, other = write(tmp_path / "few.csv", columns(PASSAGES[:3])), tmp_path / "other.parquet"
    shutil.copytree(parts_of(target), parts_of(other))
    assert "--restart" in refused(history, few, other)
    run(history, few, other, "--restart")
    assert len(read(other)) == 3 and not parts_of(other).exists()

    again = run(history, *call)
    assert target.read_bytes() == whole
    assert figures(again) == figures(undisturbed)


@pytest.mark.slow
def test_a_file_that_changes_while_it_is_read_is_refused(history: Champion, tmp_path: Path) -> None:
    source, target = many(tmp_path / "in.jsonl", 3_000), tmp_path / "out.jsonl"
    process = start(history, source, target, "--part-rows", 300)
    wait_for(process, parts_of(target) / "part-00000000.jsonl")
    process.send_signal(signal.SIGSTOP)
    os.utime(source, ns=(0, 10**9))
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and not target.exists()
    assert re.fullmatch(r"error: .*in\.jsonl: changed while it was read; .* --restart", said.splitlines()[-1])
    run(history, source, target, "--part-rows", 300, "--restart")
    assert len(read(target)) == 3_000


def test_a_file_behind_http_is_known_by_its_time_of_change(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", {"text": PASSAGES[:1]})
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        [file] = locations.find(f"http://127.0.0.1:{server.server_port}/in.jsonl")
        assert not file.changed()
        os.utime(source, ns=(0, 10**9))
        assert file.changed()
        server.shutdown()


def figures(said: str) -> list[str]:
    """What a run counted, without how fast."""
    return [
        line
        for line in said.splitlines()
        if line.split(" ")[0] in {"rows", "scored", "duplicates", "abstained", "errors"}
    ]


@pytest.mark.slow
def test_processes_that_die_and_processes_left_alone(history: Champion, tmp_path: Path) -> None:
    source, target = many(tmp_path / "in.jsonl", 12_000), tmp_path / "out.jsonl.gz"
    call = (source, target, "--part-rows", 1_000)
    run(history, *call)
    whole = target.read_bytes()
    target.unlink()

    process = start(history, *call, "--processes", 2)
    wait_for(process, parts_of(target) / "part-00000000.jsonl.gz")
    workers(process.pid)[0].kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in said
    assert "a worker process died" in said.splitlines()[-1] and "goes on from part" in said.splitlines()[-1]

    process = start(history, *call, "--processes", 2)
    while len(left := workers(process.pid)) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.kill()
    process.communicate()
    gone, alive = psutil.wait_procs(left, timeout=60)
    assert len(gone) == 2 and not alive

    process = start(history, *call, "--processes", 2)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert target.read_bytes() == whole


def workers(pid: int) -> list[psutil.Process]:
    """The worker processes of a run."""
    living = [child for child in psutil.Process(pid).children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if "spawn_main" in " ".join(child.cmdline())]


DIES = """
import os, signal, sys
from serving import bundle, score
import training.model.reader

arguments, folder, at = sys.argv[1:-2], sys.argv[-2], int(sys.argv[-1])
WATCHED = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "open")

def child(at):
    seen = 0
    def hook(event, given):
        nonlocal seen
        if event in WATCHED and folder in str(given[0]) and "/model" not in str(given[0]):
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    sys.addaudithook(hook)
    os._exit(score.main(arguments))

def outcome(at):
    pid = os.fork()
    if not pid:
        child(at)
    return os.waitpid(pid, 0)[1]

while True:
    killed = outcome(at)
    if killed != signal.SIGKILL:
        sys.exit(1 if killed else 0)
    print("killed", at, flush=True)
    if os.path.exists(arguments[1]):  # all of it or nothing is to be seen
        with open(arguments[1], "rb") as file:
            print("made", file.read().hex(), flush=True)
    if outcome(-1):
        sys.exit(f"not finished after a kill at {at}")
    with open(arguments[1], "rb") as file:
        print("made", file.read().hex(), flush=True)
    os.remove(arguments[1])
    at += 1
"""


@pytest.mark.slow
@pytest.mark.parametrize("output", ["parquet", "jsonl"])
def test_a_kill_before_any_change_on_disk_costs_nothing(history: Champion, tmp_path: Path, output: str) -> None:
    """The run kills itself where it is about to open, rename or remove a file, at one place after another."""
    source, target = many(tmp_path / "in.jsonl", 30), tmp_path / f"out.{output}"
    call = (str(source), str(target), "--part-rows", "10")
    run(history, *call)
    whole = target.read_bytes()
    target.unlink()
    done = subprocess.run(
        [sys.executable, "-c", DIES, *call, f"out.{output}", "1"],
        cwd=ROOT, env=history.env, capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-500:]
    made = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("made ")]
    assert len(made) > 20
    assert set(made) == {whole.hex()}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_kills_at_random_moments_change_no_byte(history: Champion, tmp_path: Path, processes: int) -> None:
    source, target = many(tmp_path / "in.jsonl", 60_000), tmp_path / "out.parquet"
    call = (source, target, "--part-rows", 1_000, "--processes", processes)
    run(history, *call[:4])
    whole = target.read_bytes()
    target.unlink()
    chosen, kills = random.Random(7), 0
    while True:
        process = start(history, *call)
        try:
            # Longer each time: on a busy machine it must get somewhere too.
            _, said = process.communicate(timeout=chosen.uniform(3, 14) + kills)
            assert process.returncode == 0, said
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            # Or after its end had become visible, and before the process ended.
            assert not target.exists() or target.read_bytes() == whole
    assert kills
    assert target.read_bytes() == whole and not parts_of(target).exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(history: Champion, tmp_path: Path) -> None:
    peaks = [
        peak(history, many(tmp_path / "in.jsonl", rows), tmp_path / f"{rows}.parquet") for rows in (100_000, 1_000_000)
    ]
    print(peaks)
    assert peaks[1] <= 1.1 * peaks[0]


@pytest.mark.slow
@pytest.mark.parametrize("output", ["parquet", "jsonl", "csv"])
def test_what_is_kept_of_an_article_is_not_in_memory_for_each_passage(
    history: Champion, tmp_path: Path, output: str
) -> None:
    """5 articles of 100 passages with a megabyte each: 500 MB in the output, all in one part."""
    chosen = random.Random(3)
    small = ["\n".join(PASSAGES[:100])] * 5
    large = ["".join(chosen.choices("abcdefgh", k=2**20)) for _ in small]
    peaks = []
    for name, kept in {"small": ["x"] * len(small), "large": large}.items():
        source = write(tmp_path / f"{name}.parquet", {"text": small, "html": kept})
        target = tmp_path / f"{name}.out.{output}"
        peaks.append(peak(history, source, target, "--articles"))
        target.unlink()  # pytest keeps the folder
    print(peaks)
    assert peaks[1] - peaks[0] < 200 * 2**20


def peak(store: Store, *arguments: object) -> int:
    """The most memory that a run has resident, in bytes."""
    process, most = start(store, *arguments), 0
    while process.poll() is None:
        most = max(most, psutil.Process(process.pid).memory_info().rss)
        time.sleep(0.05)
    assert process.returncode == 0, process.communicate()
    return most


PRINTABLE = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return tmp_path_factory.mktemp("property")


@settings(max_examples=12, deadline=None)
@given(
    texts=st.lists(st.tuples(PRINTABLE, PRINTABLE), min_size=1, max_size=30),
    source_format=st.sampled_from(["parquet", "jsonl", "csv"]),
    output=st.sampled_from(OUTPUTS),
)
def test_any_text_survives_from_any_format_to_any_other(
    history: Champion, working: Path, texts: list[tuple[str, str]], source_format: str, output: str
) -> None:
    given_columns = {"text": [text for text, _ in texts], "other": [other for _, other in texts]}
    source, target = write(working / f"in.{source_format}", given_columns), working / f"out.{output}"
    run(history, source, target, "--overwrite", "--restart", "--part-rows", 11)
    rows = read(target)
    assert [(row["text"], row["other"]) for row in rows] == texts
    assert [bool(row["error"]) for row in rows] == [not text for text, _ in texts]


@settings(max_examples=6, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=30))
def test_halves_of_surrogate_pairs_pass_through_jsonl_and_stop_nothing(
    history: Champion, working: Path, texts: list[str]
) -> None:
    source = write(working / "halves.jsonl", {"text": texts})
    run(history, source, working / "halves.out.jsonl", "--overwrite", "--restart")
    # JSON joins two halves that stand together.
    assert [row["text"] for row in read(working / "halves.out.jsonl")] == [
        json.loads(json.dumps(text)) for text in texts
    ]
    run(history, source, working / "halves.out.parquet", "--overwrite", "--restart")
    assert len(read(working / "halves.out.parquet")) == len(texts)
