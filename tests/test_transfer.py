"""Transfer: what is left out of training is left out with its documents, and what is read is what was left out."""

import numpy as np
import pytest

from data.corpora import load_corpora
from training.candidates import CANDIDATES
from training.trainer import Part, part_of
from training.transfer import SMALLEST_OUTLET, TURN, left_out, transfer, transfer_metrics


@pytest.fixture(scope="module")
def part() -> Part:
    return part_of(load_corpora(["bundled", "news", "world"])["train"])


def test_no_document_of_what_is_read_is_learned_from(part: Part) -> None:
    documents = np.array(part.documents)
    parts = left_out(part.texts.sha1s, part.documents)
    assert len(parts) > 10 and {kind for kind, *_ in parts} == {"outlet", "year", "country"}
    for kind, name, learn, read in parts:
        assert not set(documents[learn]) & set(documents[read]), (kind, name)
        assert learn.any() and read.any()
        assert kind != "outlet" or read.sum() >= SMALLEST_OUTLET


def test_fiction_is_always_learned_from(part: Part) -> None:
    fiction = np.array(part.rows["corpus"]) == "bundled"
    for _, _, learn, read in left_out(part.texts.sha1s, part.documents):
        assert learn[fiction].all() and not read[fiction].any()


def test_the_table_says_what_was_read_and_learned(part: Part) -> None:
    rng = np.random.default_rng(0)
    pipeline = CANDIDATES["majority"]()
    rows = pipeline["extract"].transform([""] * len(part.y))
    table = transfer(pipeline, rows, part.y, rng.random(len(part.y)), part.texts.sha1s, part.documents, 1)
    year = table[(table.kind == "year") & (table["head"] == "topic")].iloc[0]
    assert year.left_out == f"from {TURN}" and year.passages > 2_000 and 0 < year.accuracy < 0.4
    metrics = transfer_metrics(table)
    assert metrics["transfer/year/topic/macro_f1"] == pytest.approx(year.macro_f1)
    outlets = table[(table.kind == "outlet") & (table["head"] == "stance")].macro_f1
    assert metrics["transfer/outlet/stance/macro_f1"] == pytest.approx(outlets.mean())


def test_a_corpus_of_fiction_alone_has_nothing_to_leave_out() -> None:
    rows = load_corpora(["bundled"])["train"]
    part = part_of(rows)
    pipeline = CANDIDATES["majority"]()
    features = pipeline["extract"].transform([""] * len(part.y))
    table = transfer(pipeline, features, part.y, np.ones(len(part.y)), part.texts.sha1s, part.documents, 1)
    assert table.empty and transfer_metrics(table) == {}
