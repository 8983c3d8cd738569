"""Reading files: the three formats give the same passages, and a bad file is refused with its line and its remedy."""

import csv
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from data.codebook import NEUTRAL, OFF_TOPIC, load_codebook
from data.files import READERS, UnreadableFile, corpus_features, read_passages
from data.passages import InvalidPassages, complete, features

Records = Sequence[Mapping[str, Any]]
FORMATS = tuple(READERS)
PASSAGE = {"id": "p1", "doc_id": "d1", "text": "The ferry left.", "topic": "border", "stance": "restrictive"}
PITFALLS = ["007", "NA", "null", "nan", "True", "1e5", "2024-01-31", "-", " p ", "=1+1", '"', "a,b;c\td", "a\r\nb\rc"]


def write_jsonl(path: Path, records: Records) -> None:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def write_csv(path: Path, records: Records) -> None:
    columns = list(dict.fromkeys(column for record in records for column in record))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(records)


def write_parquet(path: Path, records: Records) -> None:
    pd.DataFrame(list(records)).to_parquet(path)


WRITERS: dict[str, Callable[[Path, Records], None]] = {
    ".jsonl": write_jsonl,
    ".csv": write_csv,
    ".parquet": write_parquet,
}


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_passages(path, path.name).to_list()
    return rows


texts = (
    st.text('az AZ09\n\r\t",;|\\_-—é日\u2028\x85\x1c\ufeff\0\U0001f6a2', min_size=1) | st.sampled_from(PITFALLS)
).filter(str.strip)


@st.composite
def passages(draw: st.DrawFn) -> list[dict[str, Any]]:
    codebook = load_codebook()
    rows = []
    for name in draw(st.lists(texts, min_size=1, max_size=4, unique=True)):
        topic, second = draw(st.permutations(codebook.topic_names))[:2]
        row: dict[str, Any] = {"id": name, "doc_id": draw(texts), "text": draw(texts), "topic": topic}
        row["stance"] = NEUTRAL if topic == OFF_TOPIC else draw(st.sampled_from(codebook.stance_names))
        row["secondary_topic"] = None if OFF_TOPIC in (topic, second) else draw(st.sampled_from([None, second]))
        row["genre"] = draw(st.none() | st.sampled_from(codebook.genres))
        row["country"] = draw(st.sampled_from(["CA", "NA", "ZZ"]))
        rows.append(row | {"disputed": draw(st.booleans())})
    return rows


@settings(max_examples=20, deadline=None)
@given(passages())
def test_all_formats_give_back_the_passages_that_were_written(rows: list[dict[str, Any]]) -> None:
    hashes = [hashlib.sha1(row["text"].encode("utf-8")).hexdigest() for row in rows]
    expected = [{**complete(row), "sha1": sha1} for row, sha1 in zip(rows, hashes, strict=True)]
    topics, stances = features()["topic"], features()["stance"]
    for row in expected:
        row |= {"topic": topics.str2int(row["topic"]), "stance": stances.str2int(row["stance"])}
    with tempfile.TemporaryDirectory() as folder:
        for suffix, write in WRITERS.items():
            path = Path(folder, f"passages{suffix}")
            write(path, rows)
            dataset = read_passages(path, path.name)
            assert dataset.to_list() == expected, suffix
            assert dataset.features == corpus_features()


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_annotations_come_back_from_the_formats_that_can_hold_them(tmp_path: Path, suffix: str) -> None:
    readings = [
        {"topic": "border", "secondary_topic": "asylum", "stance": "neutral"},
        {"topic": "asylum", "secondary_topic": None, "stance": "restrictive"},
    ]
    path = tmp_path / f"passages{suffix}"
    WRITERS[suffix](path, [{**PASSAGE, "annotations": readings}, {**PASSAGE, "id": "p2", "annotations": []}])
    assert [row["annotations"] for row in read(path)] == [readings, []]


def test_a_dataset_saved_by_the_library_comes_back_the_same(tmp_path: Path) -> None:
    second = {**PASSAGE, "id": "p2", "topic": "asylum", "stance": "neutral", "disputed": True}
    readings = [{"topic": "asylum", "stance": "neutral"}, {"topic": "border", "stance": "neutral"}]
    write_jsonl(tmp_path / "passages.jsonl", [PASSAGE, {**second, "annotations": readings}])
    dataset = read_passages(tmp_path / "passages.jsonl", "passages.jsonl")
    dataset.to_parquet(str(tmp_path / "saved.parquet"))
    assert read(tmp_path / "saved.parquet") == dataset.to_list()


def test_numbers_of_a_saved_dataset_are_read_by_its_own_names(tmp_path: Path) -> None:
    text = Value("string")
    own = Features(
        {
            "id": text,
            "doc_id": text,
            "text": text,
            "stance": ClassLabel(names=["restrictive", "supportive", "neutral"]),
            "topic": ClassLabel(names=["politics", "border", "asylum", "courts"]),
            "genre": ClassLabel(names=["wire", "op_ed"]),
            "annotations": List({"topic": text, "stance": text}),
        }
    )
    rows: list[dict[str, Any]] = [
        {**PASSAGE, "genre": "op_ed"},
        {**PASSAGE, "id": "p2", "topic": "courts", "genre": None},
    ]
    path = tmp_path / "saved.parquet"
    Dataset.from_list([{**row, "annotations": []} for row in rows], features=own).to_parquet(str(path))
    dataset = read_passages(path, path.name)
    assert dataset.features == corpus_features()
    assert dataset.features["topic"].int2str(dataset["topic"][:]) == ["border", "courts"]
    assert dataset.features["stance"].int2str(dataset["stance"][:]) == ["restrictive"] * 2
    assert dataset["genre"][:] == ["op_ed", None]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "ids", [["2024-01-31", "2024-02-01"], ["007", "0x10"], ["1", "2"], ["1.0", "1e5"], ["true", "false"], ["NA", "nan"]]
)
def test_a_whole_column_of_ids_that_look_like_something_else_stays_text(
    tmp_path: Path, suffix: str, ids: list[str]
) -> None:
    path = tmp_path / f"mine{suffix}"
    WRITERS[suffix](path, [{**PASSAGE, "id": name, "doc_id": name, "country": "NA"} for name in ids])
    assert [(row["id"], row["doc_id"], row["country"]) for row in read(path)] == [(name, name, "NA") for name in ids]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_byte_order_mark_is_no_part_of_the_passages(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    WRITERS[suffix](path, [PASSAGE])
    plain = read(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(path) == plain


def test_columns_may_be_missing_and_null_means_missing(tmp_path: Path) -> None:
    for suffix, write in WRITERS.items():
        write(tmp_path / f"passages{suffix}", [{**PASSAGE, "genre": None, "disputed": None}])
        (row,) = read(tmp_path / f"passages{suffix}")
        assert (row["genre"], row["country"], row["disputed"], row["annotations"]) == (None, "ZZ", False, [])


def test_bad_lines_are_reported_with_their_line_numbers_all_at_once(tmp_path: Path) -> None:
    good = json.dumps(PASSAGE)
    lines = [good, "", '{"id": ', json.dumps({**PASSAGE, "id": "p4", "topic": "boarder"}), "[1]", "", good]
    path = tmp_path / "mine.jsonl"
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    with pytest.raises(InvalidPassages) as caught:
        read_passages(path, "mine.jsonl")
    found = [(problem.source, problem.row, problem.field, problem.value) for problem in caught.value.problems]
    assert found == [
        ("mine.jsonl", 3, "record", '{"id": '),
        ("mine.jsonl", 4, "topic", "boarder"),
        ("mine.jsonl", 5, "record", [1]),
        ("mine.jsonl", 7, "id", "p1"),
    ]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_reports_every_bad_record(tmp_path: Path, suffix: str) -> None:
    rows: list[dict[str, Any]] = [{**PASSAGE, "id": f"p{number}", "genre": "report"} for number in range(1, 7)]
    rows[1]["topic"] = "bordr"
    rows[3]["genre"] = "blog"
    rows[4]["text"] = " "
    WRITERS[suffix](tmp_path / f"mine{suffix}", rows)
    with pytest.raises(InvalidPassages) as caught:
        read(tmp_path / f"mine{suffix}")
    found = [(problem.row, problem.field, problem.value) for problem in caught.value.problems]
    assert found == [(2, "topic", "bordr"), (4, "genre", "blog"), (5, "text", " ")]


HEADER = b"id,doc_id,text,topic,stance\n"


@pytest.mark.parametrize(
    "rows",
    [
        "p1,d1,At dawn, they left.,border,neutral\n",  # all rows: pandas would take ids for an index, shifting the rest
        "p1,d1,At dawn.,border,neutral,\n",
        'p1,d1,"At dawn, they left.",border,neutral\n\np2,d1,At noon, they came.,border,neutral\n',
    ],
)
def test_a_csv_row_longer_than_the_header_is_named_and_shifts_nothing(tmp_path: Path, rows: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(HEADER + rows.encode() + b"p3,d3,Off, they went.,border,neutral\n")
    with pytest.raises(
        InvalidPassages, match=r"6 cells for 5 columns; put a cell that holds a comma in quot"
    ) as caught:
        read(path)
    last = rows.count("\np2") + 2
    assert [problem.row for problem in caught.value.problems] == [last - 1, last]
    assert caught.value.problems[-1].value == ["p3", "d3", "Off", " they went.", "border", "neutral"]


@pytest.mark.filterwarnings("ignore:.*columns left out")
def test_a_left_out_csv_column_may_hold_whole_pages(tmp_path: Path) -> None:
    write_csv(tmp_path / "mine.csv", [{**PASSAGE, "page": "<p>" * 100_000}])
    assert [row["id"] for row in read(tmp_path / "mine.csv")] == ["p1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", b"", "holds no passages; give at least one"),
        ("blank.jsonl", b"\n\n", "holds no passages; give at least one"),
        ("mark.jsonl", b"\xef\xbb\xbf", "holds no passages; give at least one"),
        ("none.csv", b"", "holds no passages; give at least one"),
        ("header.csv", HEADER, "holds no passages; give at least one"),
        ("blank.csv", HEADER + b"\n  \n", "holds no passages; give at least one"),
        ("none.parquet", b"", "cannot be read as PARQUET .*; repair or rename it"),
        ("quote.csv", HEADER + b'p,d,"x,border,neutral\n', "cannot be read as CSV .*; repair or rename it"),
        ("text.parquet", HEADER, "cannot be read as PARQUET .*; repair or rename it"),
        ("utf16.jsonl", json.dumps(PASSAGE).encode("utf-16"), "cannot be read as JSONL in UTF-8 .*; repair or rename"),
        ("latin.csv", HEADER + "p,d,é,border,neutral\n".encode("latin-1"), "cannot be read as CSV in UTF-8 .*; repair"),
    ],
)
def test_what_cannot_be_read_is_named_with_a_remedy(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFile, match=f"(?s)^{name}: {message}"):
        read_passages(tmp_path / name, name)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_parquet_file_under_another_name_is_refused(tmp_path: Path, suffix: str) -> None:
    write_parquet(tmp_path / f"mine{suffix}", [PASSAGE])
    with pytest.raises(UnreadableFile, match=f"^mine{suffix}: cannot be read as {suffix[1:].upper()}"):
        read(tmp_path / f"mine{suffix}")


def test_a_json_array_over_several_lines_is_told_to_be_one_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps([PASSAGE], indent=1))
    with pytest.raises(InvalidPassages, match=r"row 1, record: '\[': not JSON .*; write one object a line") as caught:
        read(path)
    assert {problem.row for problem in caught.value.problems} == set(range(1, 10))


def test_a_missing_file_is_named_with_its_full_path(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name in ("gone.csv", "folder.csv"):
        with pytest.raises(
            UnreadableFile, match=f"^{name}: there is no such file at {tmp_path}/{name}; check the path"
        ):
            read_passages(tmp_path / name, name)


def test_a_table_without_rows_holds_no_passages(tmp_path: Path) -> None:
    pd.DataFrame({field: pd.Series(dtype="str") for field in PASSAGE}).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(UnreadableFile, match="holds no passages"):
        read(tmp_path / "none.parquet")


@pytest.mark.parametrize("name", ["p[1]", "p?", "p*", "a::b", ".hidden", "p {x,y} %20#"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_path_is_never_taken_for_a_pattern(tmp_path: Path, name: str, suffix: str) -> None:
    WRITERS[suffix](tmp_path / f"p1{suffix}", [{**PASSAGE, "id": "another file's"}])
    WRITERS[suffix](tmp_path / f"{name}{suffix}", [PASSAGE])
    assert [row["id"] for row in read(tmp_path / f"{name}{suffix}")] == ["p1"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_edited_file_is_read_afresh_even_if_its_size_and_time_stay(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    for text in ("One.", "Two."):
        WRITERS[suffix](path, [{**PASSAGE, "text": text}])
        os.utime(path, (1_700_000_000, 1_700_000_000))
        assert read(path)[0]["text"] == text


def test_reading_leaves_nothing_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, scratch = Path(datasets.config.HF_DATASETS_CACHE), tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    before = set(cache.rglob("*"))
    for suffix, write in WRITERS.items():
        write(tmp_path / f"mine{suffix}", [PASSAGE])
        read(tmp_path / f"mine{suffix}")
    assert list(scratch.iterdir()) == []
    assert set(cache.rglob("*")) == before
    assert {path.name for path in tmp_path.iterdir()} == {"scratch", *(f"mine{suffix}" for suffix in FORMATS)}


def test_columns_that_are_no_fields_are_left_out_with_a_warning(tmp_path: Path) -> None:
    for suffix, write in WRITERS.items():
        write(tmp_path / f"mine{suffix}", [{**PASSAGE, "sha1": "wrong", "note": "n", "author": "a"}])
        with pytest.warns(UserWarning, match=f"mine{suffix}: columns left out: author, note; a passage has id, doc_id"):
            (row,) = read(tmp_path / f"mine{suffix}")
        assert list(row) == list(corpus_features())
        assert row["sha1"] == hashlib.sha1(b"The ferry left.").hexdigest()


@pytest.mark.filterwarnings("ignore:.*columns left out")
def test_a_left_out_csv_column_may_change_its_kind_far_down(tmp_path: Path) -> None:
    rows = [
        {**PASSAGE, "id": f"p{row}", "note": row if row < 10_000 else "from here on words"} for row in range(10_010)
    ]
    write_csv(tmp_path / "long.csv", rows)
    assert len(read(tmp_path / "long.csv")) == 10_010


def test_a_csv_that_tries_to_hold_annotations_is_told_that_it_cannot(tmp_path: Path) -> None:
    write_csv(tmp_path / "mine.csv", [{**PASSAGE, "annotations": "[]"}])
    with pytest.raises(InvalidPassages, match=r"row 1, annotations: .*a CSV cannot hold it"):
        read(tmp_path / "mine.csv")


def test_reading_warns_of_nothing_and_leaves_the_library_as_it_was(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "mine.jsonl", [PASSAGE])
    before = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path / "mine.jsonl")
    assert (datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()) == before
