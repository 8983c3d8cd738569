"""Splits: a document's id alone decides, near-duplicates across splits are found exactly, a digest pins the data."""

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from data.corpora import load_bundled, load_corpora
from data.files import corpus_features, read_passages
from data.splits import (
    SHOWN,
    SPLITS,
    LeakingSplits,
    describe_split,
    digest,
    near_duplicates,
    refuse_near_duplicates,
    split_of,
)

KNOWN = {"us-d003": "train", "wo-d010": "validation", "d1": "test", "d2": "train", "d3": "validation", "Ünï": "test"}
BOUNDS = (("train", 0, 70), ("validation", 70, 85), ("test", 85, 100))
COMPARED = Features({"id": Value("string"), "text": Value("string"), "sha1": Value("string")})
PASSAGE: dict[str, Any] = {
    "doc_id": "d",
    "text": "x",
    "topic": "border",
    "secondary_topic": None,
    "stance": "neutral",
    "genre": None,
    "country": "ZZ",
    "annotations": [],
    "disputed": False,
}


def splits_of_texts(**texts: Sequence[str | None]) -> DatasetDict:
    """Passages named after their split and place; one without text has its place as hash."""
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    "id": [f"{split}{place}" for place in range(len(values))],
                    "text": values,
                    "sha1": [f"hash {place}" for place in range(len(values))],
                },
                features=COMPARED,
            )
            for split, values in texts.items()
        }
    )


def corpus(rows: list[dict[str, Any]]) -> Dataset:
    whole = [{**PASSAGE, "id": f"p{place}", "sha1": f"hash {place}", **row} for place, row in enumerate(rows)]
    return Dataset.from_list(whole, features=corpus_features())


def jaccard(one: str, other: str) -> float:
    """By hand, for texts of lower-case words, spaces and full stops."""
    sets = []
    for text in (one, other):
        words = text.replace(".", " ").split() or [text.strip()]
        sets.append({tuple(words[at : at + 5]) for at in range(max(len(words) - 4, 1))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_the_split_of_a_document_never_changes() -> None:
    assert {name: split_of(name) for name in KNOWN} == KNOWN


@given(st.text())
def test_the_split_is_the_share_into_which_the_hash_of_the_id_falls(doc_id: str) -> None:
    leading = hashlib.sha256(b"immigration-news/split/1:" + doc_id.encode()).digest()[:4]
    per_cent = 100 * int.from_bytes(leading, "big") / 256**4
    (expected,) = (split for split, low, high in BOUNDS if low <= per_cent < high)
    assert split_of(doc_id) == expected


def test_another_process_splits_alike() -> None:
    names = [f"doc {number}" for number in range(50)]
    program = f"from data.splits import split_of; print(*map(split_of, {names!r}))"
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7"},
    )
    assert done.stdout.split() == [split_of(name) for name in names]


@pytest.mark.parametrize("prefix", ["", "news/", "a very long name of a document with a number at its end "])
def test_shares_are_near_70_15_15_whatever_the_names_look_like(prefix: str) -> None:
    splits = [split_of(f"{prefix}{number}") for number in range(10_000)]
    shares = {split: splits.count(split) / len(splits) for split in SPLITS}
    assert shares == pytest.approx({"train": 0.70, "validation": 0.15, "test": 0.15}, abs=0.015)


WORDS = ["the", "ferry", "left", "port.", "at", "dawn", "with", "the", "ferry", "left", "port.", "at"]
cuts = st.tuples(st.integers(0, 4), st.integers(1, 12)).map(lambda cut: WORDS[cut[0] : cut[0] + cut[1]])
short_texts = st.builds(lambda cut, end: " ".join([*cut, *end]), cuts, st.sampled_from([[], ["late"]])) | st.just(".")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(short_texts, max_size=6),
    st.lists(short_texts, max_size=6),
    st.lists(short_texts, max_size=6),
    st.sampled_from([0.2, 0.5, 0.8, 1.0]),
)
def test_near_duplicates_are_those_of_a_brute_force_search(
    train: list[str], validation: list[str], test: list[str], threshold: float
) -> None:
    texts = {"train": train, "validation": validation, "test": test}
    expected = [
        (f"{first}{row}", first, f"{second}{column}", second, jaccard(one, other))
        for first, second in combinations(texts, 2)
        for row, one in enumerate(texts[first])
        for column, other in enumerate(texts[second])
        if jaccard(one, other) >= threshold
    ]
    found = [tuple(vars(pair).values()) for pair in near_duplicates(splits_of_texts(**texts), threshold)]
    assert found == expected


def test_case_and_punctuation_do_not_hide_a_duplicate() -> None:
    splits = splits_of_texts(
        train=["“The FERRY left — again — at dawn,” she said."], test=["the ferry left again at dawn she said"]
    )
    assert [pair.similarity for pair in near_duplicates(splits)] == [1.0]


def test_passages_without_text_are_compared_by_their_hash() -> None:
    splits = splits_of_texts(train=[None, None], test=["a text", None, None])
    assert [(pair.first_id, pair.second_id) for pair in near_duplicates(splits)] == [("train1", "test1")]


@settings(max_examples=2, deadline=None)
@given(st.randoms(use_true_random=False))
def test_duplicates_planted_across_splits_are_found_and_refused(source: random.Random) -> None:
    splits = load_corpora(["bundled"])
    refuse_near_duplicates(splits)
    copied = splits["train"].select(source.sample(range(splits["train"].num_rows), 4))
    words = [text.split() for text in copied["text"]]
    edited = [" ".join(["Yesterday,", *text]) for text in words]
    planted = Dataset.from_dict(
        {**copied[:], "id": [f"copy of {name}" for name in copied["id"]], "text": edited}, features=copied.features
    )
    leaking = DatasetDict({**splits, "test": concatenate_datasets([splits["test"], planted])})
    with pytest.raises(LeakingSplits) as caught:
        refuse_near_duplicates(leaking)
    found = {(pair.first_id, pair.second_id) for pair in caught.value.pairs}
    assert found == {(name, f"copy of {name}") for name in copied["id"]}  # each has nine words or more
    assert "give both passages one doc_id, or drop one" in str(caught.value)
    for name in copied["id"]:
        assert f"{name} (train) and copy of {name} (test): similarity " in str(caught.value)


def test_an_edit_may_leave_a_pair_just_at_the_threshold_or_just_below() -> None:
    same = "one two three four five six seven eight"
    at = splits_of_texts(train=[same], test=[f"{same} nine"])  # 4 shared 5-grams of 5
    below = splits_of_texts(train=[same], test=[f"{same} nine ten"])  # 4 of 6
    assert [pair.similarity for pair in near_duplicates(at)] == [0.8]
    assert near_duplicates(below) == []


def test_a_duplicate_within_one_split_is_no_leak() -> None:
    refuse_near_duplicates(
        splits_of_texts(train=["the same words twice over"] * 2, test=["none of that is found here"])
    )


def test_a_long_list_of_pairs_prints_some_and_holds_all() -> None:
    splits = splits_of_texts(train=["the same words"] * 10, validation=[], test=["the same words"] * 7)
    with pytest.raises(LeakingSplits) as caught:
        refuse_near_duplicates(splits)
    assert len(caught.value.pairs) == 70
    assert str(caught.value).count("similarity 1.00") == SHOWN
    assert str(caught.value).endswith("and 20 more")


def test_the_description_counts_passages_documents_and_labels() -> None:
    rows = [{"doc_id": "a"}, {"doc_id": "a", "topic": "asylum", "stance": "supportive"}, {"doc_id": "b"}]
    described = describe_split(DatasetDict({"train": corpus(rows), "test": corpus(rows).select([])}))
    assert (described["train"]["passages"], described["train"]["documents"]) == (3, 2)
    assert described["train"]["stances"] == {"supportive": 1, "neutral": 2, "restrictive": 0}
    assert {topic: count for topic, count in described["train"]["topics"].items() if count} == {
        "border": 2,
        "asylum": 1,
    }
    assert described["test"]["passages"] == 0 and sum(described["test"]["topics"].values()) == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_digest_does_not_depend_on_order_or_parts(seed: int) -> None:
    order = random.Random(seed).sample(range(20), 20)
    cut = order[0]
    dataset = load_bundled().select(range(20))
    parts = DatasetDict({"train": dataset.select(order[:cut]), "test": dataset.select(order[cut:])})
    assert digest(dataset.select(order)) == digest(dataset) == digest(parts)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4), st.data())
def test_the_digest_changes_with_each_label_id_document_and_text(place: int, data: st.DataObject) -> None:
    rows: list[dict[str, Any]] = [{"topic": "asylum", "secondary_topic": "border"} for _ in range(5)]
    topics = [topic for topic in corpus_features()["topic"].names if topic != "asylum"]
    changes = {
        "id": st.just("another"),
        "doc_id": st.just("another"),
        "sha1": st.just("another"),
        "topic": st.sampled_from(topics),
        "secondary_topic": st.sampled_from([None, "courts"]),
        "stance": st.sampled_from(["supportive", "restrictive"]),
    }
    before = digest(corpus(rows))
    field = data.draw(st.sampled_from(sorted(changes)))
    rows[place] = {**rows[place], field: data.draw(changes[field])}
    assert digest(corpus(rows)) != before


def test_the_digest_changes_with_one_character_of_a_text(tmp_path: Path) -> None:
    digests = set()
    for text in ("The ferry left.", "The ferry left!", "the ferry left."):
        row = {"id": "p", "doc_id": "d", "text": text, "topic": "border", "stance": "neutral"}
        (tmp_path / "mine.jsonl").write_text(json.dumps(row))
        digests.add(digest(read_passages(tmp_path / "mine.jsonl", "mine")))
    assert len(digests) == 3


def test_the_digest_changes_when_a_passage_is_added_or_repeated() -> None:
    rows: list[dict[str, Any]] = [{}, {"topic": "asylum"}]
    dataset = corpus(rows)
    digests = {
        digest(dataset),
        digest(corpus([*rows, {}])),
        digest(dataset.select([0, 1, 1])),
        digest(dataset.select([0])),
    }
    assert len(digests) == 4


def test_the_digest_goes_by_the_names_of_labels_not_by_their_numbers() -> None:
    dataset = corpus([{}, {"topic": "asylum", "stance": "restrictive"}])
    names = dataset.features["topic"].names
    renumbered = Features({**dataset.features, "topic": ClassLabel(names=["new", *reversed(names)])})
    topics = [renumbered["topic"].str2int(names[topic]) for topic in dataset["topic"]]
    assert digest(Dataset.from_dict({**dataset[:], "topic": topics}, features=renumbered)) == digest(dataset)
