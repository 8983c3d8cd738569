"""Transfer: what is left out of training is left out with its documents, and what is read is what was left out."""

import numpy as np
import pandas as pd
import pytest
from datasets import concatenate_datasets

from data.corpora import load_corpora
from training.candidates import CANDIDATES
from training.trainer import Part, part_of
from training.transfer import SMALLEST_OUTLET, TURN, LeftOut, Mask, left_out, transfer, transfer_metrics


def both_splits(*corpora: str) -> tuple[Part, Mask]:
    """Train and validation of corpora as one part, and which of its passages validate."""
    splits = load_corpora(corpora)
    rows = concatenate_datasets([splits["train"], splits["validation"]])
    return part_of(rows), np.arange(len(rows)) >= len(splits["train"])


@pytest.fixture(scope="module")
def both() -> tuple[Part, Mask]:
    return both_splits("bundled", "news", "world", "arguments")


@pytest.fixture(scope="module")
def part(both: tuple[Part, Mask]) -> Part:
    return both[0]


@pytest.fixture(scope="module")
def validating(both: tuple[Part, Mask]) -> Mask:
    return both[1]


@pytest.fixture(scope="module")
def parts(part: Part, validating: Mask) -> list[LeftOut]:
    return left_out(part.texts.sha1s, part.documents, validating)


def test_no_document_of_what_is_read_is_learned_from(part: Part, parts: list[LeftOut]) -> None:
    documents = np.array(part.documents)
    assert len(parts) > 10 and {one.kind for one in parts} == {"outlet", "year", "country"}
    for one in parts:
        assert not set(documents[one.learn]) & set(documents[one.read]), one.name
        assert one.learn.any() and one.read.any()
        assert one.kind != "outlet" or one.read.sum() >= SMALLEST_OUTLET


def test_nothing_is_read_whose_label_the_encoder_learnt(part: Part, validating: Mask, parts: list[LeftOut]) -> None:
    world = np.array(part.rows["corpus"]) == "world"
    for one in parts:
        assert not one.learn[validating].any()
        assert (world if one.kind == "country" else validating)[one.read].all()


def test_fiction_is_always_learned_from_and_never_read(part: Part, validating: Mask, parts: list[LeftOut]) -> None:
    fiction = np.array(part.rows["corpus"]) == "bundled"
    for one in parts:
        assert one.learn[fiction & ~validating].all() and not one.read[fiction].any()


def test_people_who_argue_are_never_read_nor_learned_from_if_they_are_abroad(
    part: Part, validating: Mask, parts: list[LeftOut]
) -> None:
    argue = (np.array(part.rows["corpus"]) == "arguments") & ~validating
    abroad = np.array(part.rows["country"]) != "US"
    for one in parts:
        assert not one.read[argue].any() and one.learn[argue].any()
        if one.kind == "country":
            assert not one.learn[argue & abroad].any() and one.learn[argue & ~abroad].all()


def majority_table(part: Part, parts: list[LeftOut]) -> pd.DataFrame:
    pipeline = CANDIDATES["majority"]()
    rows = pipeline["extract"].transform([""] * len(part.y))
    return transfer(pipeline, rows, part.y, np.random.default_rng(0).random(len(part.y)), parts, 1)


def test_the_table_says_what_was_read_and_learned(part: Part, parts: list[LeftOut]) -> None:
    table = majority_table(part, parts)
    year = table[(table.kind == "year") & (table["head"] == "topic")].iloc[0]
    one = next(one for one in parts if one.kind == "year")
    assert (year.passages, year.learned_from) == (one.read.sum(), one.learn.sum())
    assert year.left_out == f"from {TURN}" and year.passages > 200 and 0 < year.accuracy < 0.4
    metrics = transfer_metrics(table)
    assert metrics["transfer/year/topic/macro_f1"] == pytest.approx(year.macro_f1)
    outlets = table[(table.kind == "outlet") & (table["head"] == "stance")].macro_f1
    assert metrics["transfer/outlet/stance/macro_f1"] == pytest.approx(outlets.mean())


def test_a_corpus_of_fiction_alone_has_nothing_to_leave_out() -> None:
    part, validating = both_splits("bundled")
    table = majority_table(part, left_out(part.texts.sha1s, part.documents, validating))
    assert table.empty and transfer_metrics(table) == {}
