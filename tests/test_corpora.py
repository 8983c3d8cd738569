"""Corpora: the bundled one is what its datasheet says, and several become one split dataset without a leak."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict

from data.codebook import load_codebook
from data.corpora import BUNDLED, CORPORA, Corpus, UnknownCorpus, load_bundled, load_corpora
from data.files import UnreadableFile, corpus_features
from data.passages import InvalidPassages, validate
from data.splits import SPLITS, near_duplicates, split_of


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    return [json.loads(line) for line in BUNDLED.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def everything() -> DatasetDict:
    return load_corpora(["bundled"], keep_disputed=True)


def passage(name: str, **changes: Any) -> dict[str, Any]:
    whole = {"id": name, "doc_id": f"doc of {name}", "text": f"The ferry {name} left.", "topic": "border"}
    return {**whole, "stance": "neutral", **changes}


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path.name


def places(corpora: DatasetDict) -> dict[str, str]:
    return {name: split for split, part in corpora.items() for name in part["id"]}


def test_the_bundled_corpus_has_its_passages_documents_and_labels(records: list[dict[str, Any]]) -> None:
    assert (len(records), len({row["doc_id"] for row in records})) == (1880, 1224)
    topics, stances = Counter(row["topic"] for row in records), Counter(row["stance"] for row in records)
    assert set(topics) == set(load_codebook().topic_names) and min(topics.values()) >= 130
    assert stances == {"neutral": 903, "supportive": 492, "restrictive": 485}
    assert {row["genre"] for row in records} == set(load_codebook().genres)


def test_every_bundled_record_and_annotation_is_valid_and_complete(records: list[dict[str, Any]]) -> None:
    validate(records, "bundled")
    fields = [field for field in corpus_features() if field != "sha1"]
    assert all(list(row) == fields for row in records)
    assert all(len(row["annotations"]) == 2 for row in records)


def test_every_bundled_label_is_one_that_an_annotator_gave(records: list[dict[str, Any]]) -> None:
    for row in records:
        assert row["topic"] in {reading["topic"] for reading in row["annotations"]}, row["id"]
        assert row["stance"] in {reading["stance"] for reading in row["annotations"]}, row["id"]


def test_only_passages_on_which_the_annotators_differ_are_disputed(records: list[dict[str, Any]]) -> None:
    disputed = [row for row in records if row["disputed"]]
    assert len(disputed) == 17
    for row in disputed:
        first, second = row["annotations"]
        assert (first["topic"], first["stance"]) != (second["topic"], second["stance"]), row["id"]


def test_no_bundled_text_is_repeated(records: list[dict[str, Any]]) -> None:
    assert len({row["text"].casefold() for row in records}) == len(records)


def test_no_two_bundled_splits_hold_nearly_the_same_passage(everything: DatasetDict) -> None:
    assert near_duplicates(everything, 0.3) == []


def test_every_split_of_the_bundled_corpus_holds_every_label(everything: DatasetDict) -> None:
    for split, part in everything.items():
        assert set(part["topic"]) == set(range(11)), split
        assert set(part["stance"]) == set(range(3)), split


def test_the_bundled_corpus_is_read_in_the_order_of_its_file(records: list[dict[str, Any]]) -> None:
    dataset = load_bundled()
    assert list(dataset["id"]) == [row["id"] for row in records]
    assert [dataset.features["topic"].int2str(topic) for topic in dataset["topic"]] == [row["topic"] for row in records]
    assert dataset.features == corpus_features()


def test_the_bundled_splits_have_the_sizes_of_the_datasheet(everything: DatasetDict) -> None:
    assert everything.num_rows == {"train": 1354, "validation": 259, "test": 267}
    assert load_corpora(["bundled"]).num_rows == {"train": 1344, "validation": 256, "test": 263}


def test_an_article_never_straddles_two_splits(everything: DatasetDict) -> None:
    splits = defaultdict(set)
    for split, part in everything.items():
        for document in part["doc_id"]:
            splits[document].add(split)
    assert len(splits) == 1224
    assert all(len(where) == 1 for where in splits.values())


def test_disputed_passages_are_left_out_unless_asked_for(
    records: list[dict[str, Any]], everything: DatasetDict
) -> None:
    kept = load_corpora(["bundled"])
    disputed = {row["id"] for row in records if row["disputed"]}
    assert set(places(everything)) - set(places(kept)) == disputed
    assert places(kept).items() <= places(everything).items()


def test_adding_a_corpus_moves_no_passage(tmp_path: Path, everything: DatasetDict) -> None:
    own = write(tmp_path / "own.jsonl", *(passage(f"own{number}", doc_id=f"own{number // 3}") for number in range(90)))
    mixed = load_corpora([own, "bundled"], base=tmp_path, keep_disputed=True)
    assert places(everything).items() <= places(mixed).items()
    assert sum(mixed.num_rows.values()) == 1880 + 90
    for split, part in mixed.items():
        assert part["corpus"][:] == sorted(part["corpus"], key=["own.jsonl", "bundled"].index), split


def test_rows_keep_their_order_and_name_their_corpus(tmp_path: Path) -> None:
    first = write(tmp_path / "b.jsonl", *(passage(f"b{number}") for number in range(40)))
    second = write(tmp_path / "a.jsonl", *(passage(f"a{number}") for number in range(40)))
    corpora = load_corpora([first, second], base=tmp_path)
    assert tuple(corpora) == SPLITS
    for split, part in corpora.items():
        names = [f"{corpus}{number}" for corpus in "ba" for number in range(40)]
        assert list(part["id"]) == [name for name in names if split_of(f"doc of {name}") == split]
        assert [name[0] + ".jsonl" for name in part["id"]] == list(part["corpus"])


def test_a_corpus_with_a_fixed_split_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "fixed.jsonl", *(passage(f"f{number}") for number in range(20)))
    load = load_corpora.__globals__["read_passages"]
    fixed = Corpus("fixed", lambda: load(tmp_path / "fixed.jsonl", "fixed"), split=lambda doc_id: "test")
    monkeypatch.setitem(CORPORA, "fixed", fixed)
    assert load_corpora(["fixed"]).num_rows == {"train": 0, "validation": 0, "test": 20}


def test_a_document_of_two_corpora_falls_in_one_split(tmp_path: Path, everything: DatasetDict) -> None:
    documents = sorted({document for part in everything.values() for document in part["doc_id"]})[::40]
    own = write(tmp_path / "own.jsonl", *(passage(f"own of {document}", doc_id=document) for document in documents))
    mixed = load_corpora(["bundled", own], base=tmp_path)
    assert {f"own of {document}" for document in documents} <= places(mixed).keys()
    parts = [set(part["doc_id"]) for part in mixed.values()]
    assert len(set.union(*parts)) == sum(map(len, parts))


def test_a_file_is_found_by_its_full_path_and_named_as_given(tmp_path: Path) -> None:
    name = str(tmp_path / write(tmp_path / "own.jsonl", passage("p1")))
    corpora = load_corpora([name], base=Path("elsewhere"))
    assert [corpus for part in corpora.values() for corpus in part["corpus"]] == [name]


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["bundle"], "unknown corpus 'bundle'"),
        (["bundled", "Bundled"], "unknown corpus 'Bundled'"),
        (["mine.xlsx"], "unknown corpus 'mine.xlsx'"),
        ([], r"corpora \[\]: give a list of at least one corpus, each once"),
        (["bundled", "bundled"], r"corpora \['bundled', 'bundled'\]: give a list of at least one corpus, each once"),
        ("bundled", "corpora 'bundled': give a list of at least one corpus, each once"),
    ],
)
def test_an_unknown_corpus_is_answered_with_the_choices(names: list[str], named: str) -> None:
    choices = r"choose one of arguments, bundled.*, or the path to a \.jsonl, \.csv, \.parquet file"
    with pytest.raises(UnknownCorpus, match=f"^{named}; {choices}$"):
        load_corpora(names)


def test_a_missing_file_is_looked_for_in_the_base(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=str(tmp_path / "gone.csv")):
        load_corpora(["gone.csv"], base=tmp_path)


def test_the_problems_of_all_corpora_are_reported_together(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", passage("p1"), passage("p2", topic="bordr"))
    two = write(tmp_path / "two.jsonl", passage("p3", stance="pro"), passage("p2", country="Canada"))
    with pytest.raises(InvalidPassages) as caught:
        load_corpora([one, "bundled", two], base=tmp_path)
    found = [(problem.source, problem.row, problem.value) for problem in caught.value.problems]
    assert found == [("one.jsonl", 2, "bordr"), ("two.jsonl", 1, "pro"), ("two.jsonl", 2, "Canada")]
    assert all(str(problem) in str(caught.value) for problem in caught.value.problems)


def test_ids_that_corpora_share_are_all_refused_with_the_corpus_that_has_them_first(
    tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    one = write(tmp_path / "one.jsonl", passage("p1"), passage("p2"))
    two = write(tmp_path / "two.jsonl", passage("p3"), passage("p2", text="Another."), passage(records[9]["id"]))
    with pytest.raises(InvalidPassages, match=r"two\.jsonl, row 2, id: 'p2': also the id of .* one\.jsonl") as caught:
        load_corpora([one, "bundled", two], base=tmp_path)
    found = [(problem.source, problem.row, problem.value) for problem in caught.value.problems]
    assert found == [("two.jsonl", 2, "p2"), ("two.jsonl", 3, records[9]["id"])]
    assert "also the id of a passage in bundled; rename one, or leave one corpus out" in str(caught.value)
