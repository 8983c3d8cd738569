"""The search: no document straddles folds, the heads apart find what all products find, and no fit sees its test."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from threadpoolctl import threadpool_limits

from data.corpora import load_corpora
from training.experiment import Candidate, InvalidExperiment
from training.model.heads import tempered
from training.search import Folds, Found, grouped_folds, out_of_fold, search

HEADS = ("topic", "stance")
GRID = {
    "heads__topic__C": [0.1, 3.0],
    "heads__stance__C": [0.02, 0.5, 2.0],
    "weigh__words__tfidf__sublinear_tf": [True, False],
}
SEARCHED = Candidate("unigrams", "unigrams", params={"weigh__words__tfidf__norm": "l2"}, grid=GRID)


class Slice(NamedTuple):
    """Passages of the bundled corpus as the search gets them."""

    rows: sp.csr_matrix
    y: np.ndarray
    documents: np.ndarray
    weight: np.ndarray
    folds: Folds


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the training job has it: the same sums, whatever the machine."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def passages() -> Slice:
    rows = load_corpora(["bundled"])["train"].select(range(300))
    y = np.stack([rows["topic"][:], rows["stance"][:]], axis=1)
    documents = np.array(rows["doc_id"][:])
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y))
    extracted = SEARCHED.build()["extract"].transform(rows["text"][:])
    return Slice(extracted, y, documents, weight, grouped_folds(y, documents, 3, 1))


def run(part: Slice, candidate: Candidate = SEARCHED) -> Found:
    return search(candidate, part.rows, part.y, part.weight, part.folds, 1)


@pytest.fixture(scope="module")
def found(passages: Slice) -> Found:
    return run(passages)


def refitted(part: Slice, parameters: dict[str, object]) -> list[np.ndarray]:
    """Out-of-fold probabilities of topic and stance the long way: both heads fitted whole, fold by fold."""
    scores = [np.zeros((len(part.y), size)) for size in (11, 3)]
    for train, test in part.folds:
        pipeline = SEARCHED.build().set_params(**parameters)
        features = pipeline["weigh"].fit_transform(part.rows[train])
        pipeline["heads"].fit(features, part.y[train], sample_weight=part.weight[train])
        answers = pipeline["heads"].predict_proba(pipeline["weigh"].transform(part.rows[test]))
        for head, answer in zip(scores, answers, strict=True):
            head[test] = answer
    return scores


def mean_f1(part: Slice, scores: list[np.ndarray]) -> float:
    """Over heads and folds, by scikit-learn."""
    figures = [
        f1_score(part.y[test, column], head[test].argmax(axis=1), average="macro", zero_division=0.0)
        for column, head in enumerate(scores)
        for _, test in part.folds
    ]
    return float(np.mean(figures))


@pytest.mark.filterwarnings("ignore:The least populated class")
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 14)), min_size=60, max_size=120), st.integers(0, 9))
@settings(deadline=None, max_examples=40)
def test_no_document_straddles_and_each_passage_is_tested_once(labelled: list[tuple[int, int]], seed: int) -> None:
    topics, documents = (np.array(column) for column in zip(*labelled, strict=True))
    y = np.stack([topics, topics % 2], axis=1)
    try:
        folds = grouped_folds(y, documents, 3, seed)
    except InvalidExperiment:
        return  # what is refused, the next tests say
    tested = np.concatenate([test for _, test in folds])
    assert sorted(tested) == list(range(len(y)))
    for train, test in folds:
        assert len(train) + len(test) == len(y)
        assert not set(documents[train]) & set(documents[test])


def test_folds_of_the_corpus_have_like_shares_of_topics_and_follow_the_seed(passages: Slice) -> None:
    whole = np.bincount(passages.y[:, 0], minlength=11) / len(passages.y)
    for train, test in passages.folds:
        assert not set(passages.documents[train]) & set(passages.documents[test])
        assert np.abs(np.bincount(passages.y[test, 0], minlength=11) / len(test) - whole).max() < 0.05
    same, other = (grouped_folds(passages.y, passages.documents, 3, seed) for seed in (1, 2))
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(passages.folds, same, strict=True))
    assert not all(np.array_equal(a, b) for (_, a), (_, b) in zip(passages.folds, other, strict=True))


@pytest.mark.parametrize(
    ("topics", "documents"),
    [
        ([0, 1] * 10, ["a", "b"] * 10),
        ([0, 1, 2, 3], ["a", "b", "c", "d"]),
        ([0] * 40, [str(n) for n in range(40)]),
    ],
    ids=["two documents", "one passage a topic", "one topic"],
)
@pytest.mark.filterwarnings("ignore:The least populated class")
def test_too_few_documents_for_the_folds_are_refused_with_the_remedy(topics: list[int], documents: list[str]) -> None:
    y = np.stack([topics, np.arange(len(topics)) % 3], axis=1)
    with pytest.raises(InvalidExperiment, match=r"^folds: 5 is too many .* lower it, or add documents") as refused:
        grouped_folds(y, np.array(documents), 5, 0)
    assert f"{len(topics)} passages in {len(set(documents))} documents" in str(refused.value)


def test_two_searches_are_identical(passages: Slice, found: Found) -> None:
    again = run(passages)
    assert (again.params, again.fold_f1, again.trials) == (found.params, found.fold_f1, found.trials)
    for head in HEADS:
        np.testing.assert_array_equal(again.scores[head], found.scores[head])


def test_two_processes_score_as_one_does(passages: Slice) -> None:
    rows, y, _, weight, folds = passages
    one, two = (out_of_fold(SEARCHED.build(), "stance", rows, y[:, 1], weight, folds, jobs) for jobs in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_searching_the_heads_apart_finds_what_every_product_of_the_grids_would(passages: Slice, found: Found) -> None:
    products = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
    figures = [mean_f1(passages, refitted(passages, parameters)) for parameters in products]
    best = int(np.argmax(figures))
    assert sorted(figures)[-2] < figures[best], "a case without ties"
    assert {key: found.params[key] for key in GRID} == products[best]
    assert found.mean_f1 == pytest.approx(figures[best])
    assert len(found.trials) == 2 * (2 + 3) < len(products)


def test_every_trial_is_kept_with_its_parameters(found: Found) -> None:
    assert len({tuple(sorted(trial.items())) for trial in found.trials}) == 10
    for head in HEADS:
        mine = [trial for trial in found.trials if trial["head"] == head]
        assert {trial[f"heads__{head}__C"] for trial in mine} == set(GRID[f"heads__{head}__C"])
        assert {trial["weigh__words__tfidf__sublinear_tf"] for trial in mine} == {True, False}
        chosen = {key: found.params[key] for key in GRID if key in mine[0]}
        [figure] = [trial["macro_f1"] for trial in mine if chosen.items() <= trial.items()]
        assert figure == pytest.approx(np.mean(found.fold_f1[head]))


def test_scores_are_the_chosen_fits_out_of_fold_and_tempered(passages: Slice, found: Found) -> None:
    chosen = {key: found.params[key] for key in GRID}
    for head, scores in zip(HEADS, refitted(passages, chosen), strict=True):
        temperature = found.params[f"heads__{head}_temperature"]
        np.testing.assert_allclose(found.scores[head], tempered(scores, temperature), atol=1e-6)


def test_without_a_grid_the_candidate_is_judged_as_it_stands(passages: Slice) -> None:
    found = run(passages, Candidate("majority", "majority"))
    assert set(found.params) == {"heads__topic_temperature", "heads__stance_temperature"}
    assert [trial["head"] for trial in found.trials] == ["topic", "stance"]
    for _, test in passages.folds:
        assert len(np.unique(found.scores["topic"][test], axis=0)) == 1, "shares of the training folds, for any text"


@pytest.mark.parametrize("head", HEADS)
def test_no_passage_is_scored_by_a_fit_that_saw_a_label_of_its_document(passages: Slice, head: str) -> None:
    """Other labels for the passages of a fold change the scores of all other folds, and not one of its own."""
    y, (train, test) = passages.y[:, HEADS.index(head)], passages.folds[0]
    changed = y.copy()
    changed[test] = np.roll(y[test], 1)
    before, after = (
        out_of_fold(SEARCHED.build(), head, passages.rows, labels, passages.weight, passages.folds, 1)
        for labels in (y, changed)
    )
    np.testing.assert_array_equal(after[test], before[test])
    assert (np.abs(after[train] - before[train]).max(axis=1) > 1e-6).all()


def test_nor_by_a_weighting_that_saw_a_text_of_its_fold(passages: Slice) -> None:
    """Half of a fold's texts struck out change the scores of the other folds, and not one of the fold's other half."""
    train, test = passages.folds[0]
    kept, struck = np.array_split(test, 2)
    keep = np.ones(len(passages.y), np.float32)
    keep[struck] = 0
    before, after = (
        out_of_fold(SEARCHED.build(), "topic", rows, passages.y[:, 0], passages.weight, passages.folds, 1)
        for rows in (passages.rows, sp.csr_matrix(sp.diags(keep) @ passages.rows))
    )
    np.testing.assert_allclose(after[kept], before[kept], atol=1e-6)
    assert np.median(np.abs(after[train] - before[train]).max(axis=1)) > 1e-3


def test_a_label_missing_from_a_fold_gets_no_probability_there(passages: Slice) -> None:
    topic = passages.y[:, 0].copy()
    _, test = passages.folds[0]
    topic[topic == 4] = 5
    topic[test[:3]] = 4  # seen in this fold alone
    with pytest.warns(RuntimeWarning, match="Number of classes"):
        scores = out_of_fold(SEARCHED.build(), "topic", passages.rows, topic, passages.weight, passages.folds, 1)
    assert (scores[test, 4] == 0).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)


def test_weights_of_passages_reach_the_fits(passages: Slice) -> None:
    arguments = ("topic", passages.rows, passages.y[:, 0])
    one = out_of_fold(SEARCHED.build(), *arguments, passages.weight, passages.folds, 1)
    other = out_of_fold(SEARCHED.build(), *arguments, np.ones(len(passages.y)), passages.folds, 1)
    assert np.abs(one - other).max() > 0.01
