"""The real news and arguments as they ship: annotations without text, sets that do not leak, and their datasheet."""

import hashlib
import json
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import DatasetDict
from datasheets import calculator, cells

from data.agreement import agreement, as_markdown
from data.articles import NEWS, REPOSITORIES, passages_of
from data.codebook import load_codebook
from data.corpora import load_corpora
from data.hydrate import LEARNT, hydrated_texts
from data.news import (
    FEATURES,
    FOLDER,
    NEAR_DEV,
    annotations,
    arguments_split,
    load_news,
    news_split,
)
from data.splits import SHINGLE, near_duplicates
from training.candidates import hashed_words
from training.features import ShippedFeatures

ROOT = Path(__file__).parents[1]
SOURCES = ROOT.parent / "shared" / "news"  # the texts, where the annotators left them
HYDRATED = ROOT / ".cache"  # and where `make data` puts those that are public
SETS = (*LEARNT, "dev")
COUNTS = {"train": 6480, "rest": 9249, "world": 551, "arguments": 7032, "dev": 425, "external": 532}
MANIFESTOS = "manifestos_britain"  # of `external`, with texts that are not in SOURCES
THERE = ("train", "world", "dev", "external")  # of these the annotators' own rows are in SOURCES
MIXED = {  # sources of arguments whose files hold many documents: threads, or what one writer or speaker said
    "candidates_texas_2020", "candidates_texas_2022", "civil_comments", "debatewise", "parliament_britain", "polis",
    "presidential_debates", "reddit_2005_2024", "reddit_ideologies", "reddit_immigration", "survey_undocumented",
    "survey_us", "youtube_congress", "youtube_ireland",
}  # fmt: skip
LEANING = ("rest", "arguments")  # the sets whose readings have `lean`
CONTRACT = ("source", "article", "paragraph", "sha1", "topic", "secondary_topic", "stance", "annotators")
OWN = ("id", "document", "outlet", "leaning", "year", "country", "words")
HEADS = ("topic", "secondary_topic", "stance")
FLAGS = ("topic_agreed", "stance_agreed")
TYPES = {
    "id": str, "source": str, "article": str, "document": str, "sha1": str, "country": str, "words": int,
    "outlet": (str, type(None)), "leaning": (str, type(None)), "year": (int, type(None)), "paragraph": (int, str),
}  # fmt: skip
BOOK = load_codebook()
SHEET = (FOLDER / "DATASHEET.md").read_text(encoding="utf-8")
with_texts = pytest.mark.skipif(not SOURCES.is_dir(), reason="the texts of the news are not here: nothing to compare")


@pytest.fixture(scope="module")
def splits() -> DatasetDict:
    return load_corpora(["bundled", "news", "world", "arguments"])


@pytest.fixture(scope="module")
def sources() -> dict[str, dict[str, Any]]:
    """The annotators' rows, with their texts, by id."""
    files = [SOURCES / f"{name}.jsonl" for name in ("train", "world", "dev")]
    files += sorted((SOURCES / "external").glob("*.jsonl"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").split("\n") if line]
    rows = [json.loads(line) for line in lines]
    assert len({row["id"] for row in rows}) == len(rows) == sum(COUNTS[name] for name in THERE) - 195
    return {row["id"]: row for row in rows}


@pytest.fixture(scope="module")
def articles() -> dict[str, list[str]]:
    """The passages of the articles that were annotated, by article."""
    rows = [row for name in SETS for row in annotations(name) if row["source"] == NEWS]
    files = {article: SOURCES / "articles/data/jsons" / f"{article}.json" for article in {r["article"] for r in rows}}
    assert len(files) == 829 + 350
    return {article: passages_of(file.read_bytes()) for article, file in files.items()}


@pytest.fixture(scope="module")
def texts(sources: dict[str, dict[str, Any]], articles: dict[str, list[str]]) -> dict[str, str]:
    """The texts that are known, by sha1: those of all sets but arguments, of which only what is hydrated is known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMMNEWS_CACHE", str(HYDRATED))
        known = hydrated_texts(row["sha1"] for row in annotations("arguments"))
    known |= {row["sha1"]: articles[row["article"]][row["paragraph"]] for row in annotations("rest")}
    return known | {sha1(row["text"]): row["text"] for row in sources.values()}


def sha1(text: str) -> str:
    return hashlib.sha1(text.encode("utf-8"), usedforsecurity=False).hexdigest()


def runs(text: str, length: int) -> set[str]:
    """All sequences of so many words, case-folded, without punctuation."""
    words = re.findall(r"\w+", text.casefold())
    return {" ".join(words[at : at + length]) for at in range(len(words) - length + 1)}


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (key, *strings(item))
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


@pytest.mark.parametrize("name", COUNTS)
def test_each_file_has_its_rows_ids_and_addresses(name: str) -> None:
    rows = annotations(name)
    assert len(rows) == COUNTS[name] == len({row["id"] for row in rows})
    assert all(re.fullmatch("[0-9a-f]{40}", row["sha1"]) for row in rows)
    if name == "external":
        fields = ("id", "source", "sha1", "stance", "tier", "blind")
        assert all(set(row) - {"document"} == set(fields) for row in rows)
        assert all(("document" in row) == (row["source"] == MANIFESTOS) for row in rows)
        sources = Counter(row["source"] for row in rows)
        assert sources == {"arc_nyt_roomfordebate": 162, "valueeval23": 175, MANIFESTOS: 195}
        return
    expected = {*CONTRACT, *OWN, *(FLAGS if name == "dev" else ())}
    for row in rows:
        assert set(row) == expected
        assert all(isinstance(row[field], types) for field, types in TYPES.items()), row["id"]
    assert len({(row["source"], row["article"], row["paragraph"]) for row in rows}) == len(rows)
    public = {row["source"] for row in rows} & set(REPOSITORIES)
    assert public == {"arguments": set(REPOSITORIES) - {NEWS}, "world": set()}.get(name, {NEWS})


def test_an_argument_stands_in_a_piece_of_its_own_of_a_file() -> None:
    pieces = defaultdict(list)
    for row in annotations("arguments"):
        assert re.fullmatch(r"(?!/)(?!.*\.\.)[\w ./-]{1,130}\.(csv|json|md|txt)", row["article"]), row["id"]
        assert re.fullmatch(r"\d+\+\d+", row["paragraph"]), row["id"]
        assert (row["outlet"], row["leaning"]) == (None, None)
        start, length = map(int, row["paragraph"].split("+"))
        assert length >= 2 * row["words"] - 1  # a byte a word, and one between two
        pieces[row["source"], row["article"]].append((start, start + length))
    for places in pieces.values():
        places.sort()
        assert all(end <= start for (_, end), (start, _) in pairwise(places))


@pytest.mark.parametrize("name", COUNTS)
def test_no_field_holds_text(name: str) -> None:
    raw = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8")
    assert len(raw.strip().split("\n")) == COUNTS[name]
    assert not re.search(r'"(text|context|title|content\w*)":', raw)
    paths = {"article"} if name == "arguments" else set()  # of files, whose form another test asserts
    fields = [{key: value for key, value in row.items() if key not in paths} for row in annotations(name)]
    longest = max((len(string), string) for row in fields for string in strings(row))
    assert longest[0] <= 80, longest
    assert max(string.count(" ") for row in annotations(name) for string in strings(row)) <= 4  # an outlet's name


@pytest.mark.parametrize("name", SETS)
def test_every_label_is_in_the_codebook(name: str) -> None:
    second = {*BOOK.topic_names, None} - {"off_topic"}
    for row in annotations(name):
        assert len(row["annotators"]) == (2 if name == "dev" else 1)
        for reading in (row, *row["annotators"]):
            assert reading["topic"] in BOOK.topic_names and reading["stance"] in BOOK.stance_names, row["id"]
            assert reading["secondary_topic"] in second - {reading["topic"]}, row["id"]
            if reading["topic"] == "off_topic":
                assert reading["stance"] == "neutral" and reading["secondary_topic"] is None, row["id"]
        fields = {*HEADS, "confidence", *(["lean"] if name in LEANING else [])}
        assert all(set(reading) == fields for reading in row["annotators"])
        if name in LEANING:
            lean = row["annotators"][0]["lean"]
            assert type(lean) is int and -2 <= lean <= 2, row["id"]
            allowed = {"supportive": {0, 1, 2}, "neutral": {-2, -1, 0, 1, 2}, "restrictive": {-2, -1, 0}}
            assert lean in ({0} if row["topic"] == "off_topic" else allowed[row["stance"]]), row["id"]
            assert [row[head] for head in HEADS] == [row["annotators"][0][head] for head in HEADS], row["id"]
        assert {reading["confidence"] for reading in row["annotators"]} <= {1, 2, 3}
        assert row["topic"] in {reading["topic"] for reading in row["annotators"]}
        assert row["stance"] in {reading["stance"] for reading in row["annotators"]}
        for head in ("topic", "stance"):
            agreed = len({reading[head] for reading in row["annotators"]}) == 1
            assert row.get(f"{head}_agreed", True) == agreed


def test_external_rows_are_supportive_or_restrictive() -> None:
    assert {row["stance"] for row in annotations("external")} == {"supportive", "restrictive"}


@pytest.mark.parametrize(("first", "second"), list(combinations(COUNTS, 2)))
def test_no_two_sets_share_a_passage_an_article_or_a_document(first: str, second: str) -> None:
    fields = ("sha1", "document", "article") if "external" not in (first, second) else ("sha1",)
    if {first, second} == {"train", "rest"}:  # of the same articles
        fields = ("sha1",)
    for field in fields:
        one, other = ({row[field] for row in annotations(name)} for name in (first, second))
        assert not one & other, field


def test_the_rest_is_of_the_articles_of_train_and_of_its_training_documents() -> None:
    facts = ("article", "document", "source", "outlet", "leaning", "year", "country")
    train, rest = annotations("train"), annotations("rest")
    assert {tuple(row[fact] for fact in facts) for row in rest} < {tuple(row[fact] for fact in facts) for row in train}
    assert {news_split(row["document"]) for row in rest} == {"train"}
    assert not {row["article"] for row in rest} & {row["article"] for row in train if row["id"] in NEAR_DEV}
    places = [(row["article"], row["paragraph"]) for row in (*train, *rest)]
    assert len(set(places)) == len(places)
    assert {12, 160} <= {row["words"] for row in rest} <= set(range(12, 161))


@pytest.mark.parametrize("names", [("train", "rest"), ("world",), ("arguments",), ("dev",)])
def test_a_document_holds_whole_articles_and_every_copy_of_a_passage(names: tuple[str, ...]) -> None:
    documents, copies = defaultdict(set), defaultdict(set)
    for row in (row for name in names for row in annotations(name)):
        documents[row["source"], row["article"]].add(row["document"])
        copies[row["sha1"]].add(row["document"])
    assert {len(found) for found in copies.values()} == {1}
    mixed = {source for (source, _), found in documents.items() if len(found) > 1}
    assert mixed == (MIXED if names == ("arguments",) else set())


@pytest.mark.parametrize("name", SETS)
def test_loaded_rows_are_those_of_the_file_without_text(name: str) -> None:
    loaded = load_news(name).to_list()
    kept = [row for row in annotations(name) if row["id"] not in NEAR_DEV]
    for row, passage in zip(kept, loaded, strict=True):
        assert passage["text"] is None
        assert [passage[field] for field in ("id", "sha1", "country")] == [row[f] for f in ("id", "sha1", "country")]
        assert passage["doc_id"] == row["document"]
        assert BOOK.topic_names[passage["topic"]] == row["topic"]
        assert BOOK.stance_names[passage["stance"]] == row["stance"]
        assert [one["topic"] for one in passage["annotations"]] == [one["topic"] for one in row["annotators"]]
        assert passage["disputed"] == (not all(row.get(flag, True) for flag in FLAGS))
    assert sum(row["disputed"] for row in loaded) == (54 if name == "dev" else 0)


def test_documents_do_not_straddle_the_splits(splits: DatasetDict) -> None:
    documents = {name: set(zip(part["corpus"], part["doc_id"], strict=True)) for name, part in splits.items()}
    assert all(not documents[one] & documents[other] for one, other in combinations(documents, 2))
    corpora = {name: Counter(part["corpus"]) for name, part in splits.items()}
    news = corpora["train"]["news"] + corpora["validation"]["news"]
    assert news == COUNTS["train"] + COUNTS["rest"] - len(NEAR_DEV)
    assert corpora["train"]["world"] == COUNTS["world"]
    assert corpora["train"]["arguments"] + corpora["validation"]["arguments"] == COUNTS["arguments"]
    assert set(corpora["validation"]) == {"bundled", "news", "arguments"} and set(corpora["test"]) == {"bundled"}
    held_out = {row["sha1"] for name in ("dev", "external") for row in annotations(name)}
    assert not held_out & {key for part in splits.values() for key in part["sha1"]}


def test_about_a_tenth_of_the_news_validates(splits: DatasetDict) -> None:
    shares = Counter(map(news_split, {row["document"] for row in annotations("train")}))
    assert set(shares) == {"train", "validation"}
    assert 0.08 < shares["validation"] / shares.total() < 0.12
    passages = [corpus for corpus in splits["validation"]["corpus"] if corpus == "news"]
    assert 0.08 < len(passages) / COUNTS["train"] < 0.12
    made_up = Counter(news_split(f"article_bias_prediction/{number}") for number in range(5000))
    assert 0.085 < made_up["validation"] / 5000 < 0.115
    labels = set(splits["validation"]["topic"]), set(splits["validation"]["stance"])
    assert tuple(map(len, labels)) == (11, 3)


def test_about_an_eighth_of_the_arguments_validates(splits: DatasetDict) -> None:
    shares = Counter(map(arguments_split, {row["document"] for row in annotations("arguments")}))
    assert set(shares) == {"train", "validation"}
    assert 0.1 < shares["validation"] / shares.total() < 0.14
    rows = splits["validation"].select_columns(["corpus", "topic", "stance"]).to_list()
    rows = [row for row in rows if row["corpus"] == "arguments"]
    assert 0.1 < len(rows) / COUNTS["arguments"] < 0.14
    made_up = Counter(arguments_split(sha1(str(number))) for number in range(5000))
    assert 0.105 < made_up["validation"] / 5000 < 0.135
    assert tuple(len({row[head] for row in rows}) for head in ("topic", "stance")) == (11, 3)


def bags(keys: list[str]) -> Any:
    """Which words occur in the passages of the news among these sha1, from the shipped features."""
    shipped = ShippedFeatures()
    rows = shipped.rows(hashed_words(), [key for key in keys if shipped.holds(key)])
    rows.data[:] = 1
    return rows


def overlaps(first: Any, second: Any) -> np.ndarray:
    shared = (first @ second.T).toarray()
    sizes = np.asarray(first.sum(axis=1)), np.asarray(second.sum(axis=1))
    return np.asarray(shared / (sizes[0] + sizes[1].T - shared))


def test_no_near_duplicates_across_the_splits(splits: DatasetDict) -> None:
    assert near_duplicates(splits, 0.5) == []
    train, validation = (bags(splits[name]["sha1"]) for name in ("train", "validation"))
    dev = bags([row["sha1"] for row in annotations("dev")])
    assert overlaps(train, validation).max() < 0.8
    assert overlaps(train, train[:50]).max() == 1  # the measure finds what is the same
    assert overlaps(train, dev).max() < 0.85
    assert overlaps(validation, dev).max() < 0.8


@with_texts
def test_no_near_duplicates_by_the_texts(
    splits: DatasetDict, sources: dict[str, dict[str, Any]], texts: dict[str, str]
) -> None:
    parts = {name: part.select_columns(["id", "text", "sha1"]).to_list() for name, part in splits.items()}
    parts["dev"] = load_news("dev").select_columns(["id", "text", "sha1"]).to_list()
    known = [row for row in annotations("external") if row["source"] != MANIFESTOS]
    parts["external"] = [{"id": row["id"], "text": None, "sha1": row["sha1"]} for row in known]
    arguments = {row["sha1"] for row in annotations("arguments")}
    whole = {}
    for name, rows in parts.items():
        filled = [{**row, "text": texts.get(row["sha1"], row["text"])} for row in rows]
        assert all(row["text"] or row["sha1"] in arguments for row in filled)
        whole[name] = type(splits["train"]).from_list(filled)
    assert SHINGLE == 5
    assert not near_duplicates(DatasetDict(whole), 0.5)
    left_out = [{"id": id, "text": row["text"], "sha1": ""} for id, row in sources.items() if id in NEAR_DEV]
    whole["train"] = type(splits["train"]).from_list(left_out)
    pairs = near_duplicates(DatasetDict({name: whole[name] for name in ("train", "dev")}), 0.5)
    named = {(pair.first_id, pair.second_id, f"{pair.similarity:.2f}") for pair in pairs}
    told = re.findall(r"`(r\d+)` \(`([xu]\d+)`; (\d\.\d\d)\)", SHEET)
    assert len(told) == 2
    assert named == {(learnt, measured, similarity) for measured, learnt, similarity in told}


@with_texts
@pytest.mark.parametrize("name", THERE)
def test_annotations_are_those_of_the_source(name: str, sources: dict[str, dict[str, Any]]) -> None:
    for row in annotations(name):
        if row["source"] == MANIFESTOS:
            continue
        source = sources[row["id"]]
        assert row["sha1"] == sha1(source["text"]) == source.get("sha1", row["sha1"]), row["id"]
        same = ("stance", "tier") if name == "external" else ("source", "article", "paragraph", "topic", "stance")
        same += FLAGS if name == "dev" else ()
        assert [row[field] for field in same] == [source[field] for field in same], row["id"]
        if name == "external":
            continue
        assert (row["outlet"], row["leaning"]) == (source["outlet"] or None, source["leaning"]), row["id"]
        assert row["words"] == len(source["text"].split()), row["id"]
        year = int(source["year"] or 0)
        assert row["year"] == (year if year > 1900 else None), row["id"]
        if name == "dev":
            assert row["annotators"] == source["annotations"], row["id"]
        else:
            assert row["secondary_topic"] == source["secondary_topic"], row["id"]
            fields = (*HEADS, "confidence")
            assert row["annotators"] == [{field: source[field] for field in fields}], row["id"]


@with_texts
def test_addresses_lead_to_the_passages(articles: dict[str, list[str]]) -> None:
    for row in (row for name in SETS for row in annotations(name) if row["source"] == NEWS):
        text = articles[row["article"]][row["paragraph"]]
        assert (sha1(text), len(text.split())) == (row["sha1"], row["words"]), row["id"]


@with_texts
def test_no_file_of_the_project_repeats_a_text(sources: dict[str, dict[str, Any]], texts: dict[str, str]) -> None:
    secret = set[str]().union(*(runs(row["text"], 6) | runs(row.get("context") or "", 6) for row in sources.values()))
    assert len(secret) > 300_000
    longer = set[str]().union(*(runs(text, 7) for text in texts.values()))  # all have more turns of phrase of six
    assert len(longer) > 600_000
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    # The bundled corpus shares turns of phrase of six words with the press, and no more than these.
    files = {Path(name) for name in listed if name and not name.startswith("data/corpus/")}
    assert {Path("data/news") / f"{name}.jsonl" for name in COUNTS} | {Path("data/news/DATASHEET.md")} <= files
    found = {}
    for file in sorted(files):
        content = (ROOT / file).read_bytes() if (ROOT / file).is_file() else b""
        text = "" if b"\0" in content else content.decode("utf-8", "replace")
        if hits := (runs(text, 6) & secret) | (runs(text, 7) & longer):
            found[file] = hits
    assert found == {}
    compressed = FEATURES.read_bytes().decode("latin-1")
    assert not any(run in compressed for run in list(secret)[:2000])


NUMBER = r"\| (\d+(?:\.\d+)?) \|"
FIGURES = re.findall(rf"^\| ([^|]+?) {NUMBER} `(.+)` \|$", SHEET, re.M)
TABLES = re.findall(r"from\s+`([^`]+)`[:.][^|`]*(?:`\w+`[^|`]*)*\n\n(\| \|.+?)\n\n", SHEET, re.S)


@pytest.fixture(scope="module")
def compute() -> Callable[[str], Any]:
    return calculator(SHEET)


def test_every_table_of_the_sheet_is_recomputed() -> None:
    rest = SHEET.replace(as_markdown(agreement(load_news("dev"))), "")
    assert rest != SHEET, "the agreement is not that of the annotations"
    for _, table in TABLES:
        rest = rest.replace(table, "")
    rest = re.sub(rf"^\| [^|]+? {NUMBER} `.+` \|$", "", rest, flags=re.M)
    left = [line for line in rest.splitlines() if line.startswith("|")]
    sources = {row["source"] for name in COUNTS for row in annotations(name)}
    assert {cells(line)[0].strip("`") for line in left} == sources | {"source", "figure", "---"}
    assert len(left) == 4 + len(sources)  # two headings with their rules, and one line a source
    terms = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    for source, address in REPOSITORIES.items():
        repository, _, commit = address.rpartition("/")
        assert re.search(rf"^\| `{source}` \| .*`{repository}`.*`{commit}`", SHEET, re.M)
        assert re.search(rf"^\| \[{repository}\]\(https://github\.com/{repository}\) \| \S", terms, re.M)


@pytest.mark.parametrize(("figure", "value", "expression"), FIGURES)
def test_figure_of_the_sheet(compute: Callable[[str], Any], figure: str, value: str, expression: str) -> None:
    assert str(compute(expression)) == value, figure


@pytest.mark.parametrize(("expression", "table"), TABLES)
def test_table_of_the_sheet(compute: Callable[[str], Any], expression: str, table: str) -> None:
    frame: pd.DataFrame = compute(expression)
    heading, _, *rows = table.splitlines()
    assert cells(heading)[1:] == list(map(str, frame.columns))
    assert [cells(row) for row in rows] == [[str(cell) for cell in row] for row in frame.itertuples()]


def test_outlets_of_the_sheet(compute: Callable[[str], Any]) -> None:
    listed = re.search(r"from\s+`(train\.outlet[^`]+)`:\n(`.+?\.)\n\n", SHEET, re.S)
    assert listed
    printed = re.findall(r"`([^`]+)`\s+(\d+)", listed[2])
    assert dict(printed) == {outlet: str(count) for outlet, count in compute(listed[1]).items()}
