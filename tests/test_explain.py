"""Explanations: exact for counted words, the difference that a phrase makes for embeddings, none without weights."""

import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from training.candidates import CANDIDATES
from training.model.explain import PHRASES, SHOWN, explain

TEXTS = [
    "The asylum board granted the refugee claim.",
    "Border guards turned the boat back at night.",
    "Hospitals hire nurses from abroad.",
    "Deport them all, the council leader said.",
    "The refugee claim waited nineteen months for the asylum board.",
    "The boat was turned back by the border guards.",
    "Farms hire pickers from abroad every summer.",
    "The leader said that they all must go.",
]
Y = np.array([[0, 2], [1, 0], [2, 2], [3, 0], [0, 1], [1, 1], [2, 2], [3, 0]])


def fitted(name: str) -> Pipeline:
    return CANDIDATES[name]().fit(TEXTS, Y)


@pytest.fixture(scope="module")
def unigrams() -> Pipeline:
    return fitted("unigrams")


def log_odds(pipeline: Pipeline, text: str, head: int, label: int) -> float:
    """Of a label over the geometric mean of the head's labels that training showed."""
    log = np.log(pipeline.predict_proba([text])[head][0])
    return float(log[label] - log[np.isfinite(log)].mean())


def test_the_contributions_of_words_add_up_to_the_log_odds(unigrams: Pipeline) -> None:
    text = "The refugee board said no."
    for head, marks in enumerate(explain(unigrams, text, [0, 2])):
        label = (0, 2)[head]
        empty = log_odds(unigrams, "", head, label)
        assert len(marks) <= SHOWN
        assert sum(mark.weight for mark in marks) == pytest.approx(
            log_odds(unigrams, text, head, label) - empty, abs=0.03
        )


def test_a_marked_word_is_one_that_the_label_was_learned_from(unigrams: Pipeline) -> None:
    text = "Yesterday, an asylum claim: granted!"
    topic, _ = explain(unigrams, text, [0, 2])
    assert {text[mark.start : mark.end] for mark in topic} == {"asylum", "claim", "granted"}
    assert all(mark.weight > 0 for mark in topic)
    other, _ = explain(unigrams, text, [1, 2])
    assert all(mark.weight < 0 for mark in other)


def test_a_word_that_occurs_twice_shares_what_it_adds(unigrams: Pipeline) -> None:
    topic, _ = explain(unigrams, "asylum, asylum", [0, 2])
    assert len(topic) == 2 and topic[0].weight == topic[1].weight


def test_a_hidden_nation_is_marked_where_it_stands(unigrams: Pipeline) -> None:
    pipeline = CANDIDATES["unigrams"]().fit([f"{text} foreign" if at % 2 else text for at, text in enumerate(TEXTS)], Y)
    text = "asylum for a Mexican"
    topic, _ = explain(pipeline, text, [1, 2])
    assert "Mexican" in {text[mark.start : mark.end] for mark in topic}


@pytest.mark.parametrize("name", ["sentences", "words_and_sentences", "words"])
def test_leaving_a_phrase_out_moves_the_answer_as_said(name: str) -> None:
    pipeline, text = fitted(name), "The asylum board granted the refugee claim."
    topic, _ = explain(pipeline, text, [0, 2])
    assert topic
    best = max(topic, key=lambda mark: mark.weight)
    without = text[: best.start] + " " + text[best.end :]
    assert log_odds(pipeline, text, 0, 0) > log_odds(pipeline, without, 0, 0)


def test_a_long_passage_is_left_out_in_phrases(unigrams: Pipeline) -> None:
    text = "asylum claim refugee board " * 300
    assert len({(mark.start, mark.end) for mark in explain(unigrams, text, [0, 2])[0]}) <= PHRASES


@pytest.mark.parametrize("text", ["", " ", "...", "\N{PILE OF POO}", "a", "x\x00y", "ﷺ"])
def test_any_string_can_be_explained(unigrams: Pipeline, text: str) -> None:
    for marks in explain(unigrams, text, [0, 2]):
        assert all(0 <= mark.start < mark.end <= len(text) for mark in marks)


def test_a_candidate_without_weights_explains_nothing() -> None:
    assert explain(fitted("majority"), "asylum", [0, 2]) == [[], []]
