"""Which words moved an answer: what each adds to the log-odds of the label given, exactly or by leaving it out."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.pipeline import Pipeline

from training.model.columns import parts
from training.model.hashed import BlindHashingVectorizer

WORD = re.compile(r"\w(?:[\w'’-]*\w)?")
PHRASES = 24  # a passage is read again without each of so many phrases: the price of an explanation
SHOWN = 8  # phrases named for an answer
SMALLEST = 0.1  # of the largest weight: what adds less is not named

Weights = npt.NDArray[np.float64]
Spans = Sequence[tuple[int, int]]


class Mark(NamedTuple):
    """A piece of the passage (offsets in characters), and what it adds to the label's log-odds over the mean label."""

    start: int
    end: int
    weight: float


def explain(pipeline: Pipeline, text: str, labels: Sequence[int]) -> list[list[Mark]]:
    """The phrases that moved each head's answer, strongest first; none from a head without weights (`majority`).

    Counts of single words are linear: the contribution of a word is exact, shared by its occurrences. Any other part
    (embeddings, word pairs) is extracted again without a phrase, which gets the difference.

    Args:
        pipeline: a fitted candidate.
        text: one passage.
        labels: position in the codebook of the label that each head gave, topic and stance.
    """
    phrases = _phrases(text)
    heads = [pipeline["heads"].topic_, pipeline["heads"].stance_]
    if not phrases or not all(hasattr(head, "coef_") for head in heads):
        return [[] for _ in labels]
    weights = np.stack([_centred(head, label) for head, label in zip(heads, labels, strict=True)], axis=1)
    weights /= [pipeline["heads"].topic_temperature, pipeline["heads"].stance_temperature]
    total = np.zeros((len(phrases), len(labels)))
    for extractor, weigher, columns in parts(pipeline):
        added = _exact if _counts_words(extractor) else _without
        total += added(extractor, weigher, text, phrases, weights[columns])
    return [_strongest(column, phrases) for column in total.T]


def _phrases(text: str) -> list[tuple[int, int]]:
    """Runs of neighbouring words as offsets: single words, or longer runs where there are more than `PHRASES` words."""
    words = [match.span() for match in WORD.finditer(text)]
    edges = np.linspace(0, len(words), min(len(words), PHRASES) + 1).astype(int)
    return [(words[first][0], words[last - 1][1]) for first, last in pairwise(edges)]


def _centred(head: Any, label: int) -> Weights:
    """The weights of a label less the mean over labels, (columns,); zeros for a label that training never showed."""
    weights = head.coef_ if len(head.coef_) > 1 else np.vstack([-head.coef_, head.coef_]) / 2
    chosen = np.flatnonzero(head.classes_ == label)
    return np.asarray(weights[chosen[0]] - weights.mean(axis=0) if len(chosen) else np.zeros(weights.shape[1]))


def _counts_words(extractor: Any) -> bool:
    single = isinstance(extractor, BlindHashingVectorizer) and extractor.ngram_range == (1, 1)
    return single and extractor.analyzer == "word"


def _weigh(weigher: Pipeline, rows: Any) -> Any:
    """The weighted columns of one part, from its own rows: its first step only cuts them out of all parts' columns."""
    return weigher[1:].transform(rows) if len(weigher) > 1 else rows


def _exact(extractor: Any, weigher: Pipeline, text: str, phrases: Spans, weights: Weights) -> Weights:
    """What the words of each phrase add, (phrases, heads)."""
    raw = extractor.transform([text])
    # What one occurrence adds, by hashed column: tf-idf times weight, over the occurrences of the column.
    weighed = sp.csr_matrix(_weigh(weigher, raw))
    hashed = weigher["seen"].get_support(indices=True)[weighed.indices]
    count = raw[0, hashed].toarray()
    values, heads = (weighed.data[:, None] * weights[weighed.indices]) / count.T, weights.shape[1]
    where = np.repeat(hashed, heads), np.tile(np.arange(heads), len(hashed))
    each = sp.csr_matrix((values.ravel(), where), shape=(raw.shape[1], heads))
    return np.asarray((extractor.transform([text[start:end] for start, end in phrases]) @ each).todense())


def _without(extractor: Any, weigher: Pipeline, text: str, phrases: Spans, weights: Weights) -> Weights:
    """What is lost where a phrase is left out, (phrases, heads)."""
    left = [f"{text[:start]} {text[end:]}" for start, end in phrases]
    logits = _weigh(weigher, extractor.transform([text, *left])) @ weights
    return np.asarray(logits[:1] - logits[1:])


def _strongest(added: Weights, phrases: Spans) -> list[Mark]:
    order = np.argsort(-np.abs(added), kind="stable")[:SHOWN]
    least = SMALLEST * np.abs(added).max()
    return [
        Mark(phrases[at][0], phrases[at][1], round(float(added[at]), 4))
        for at in order
        if added[at] and abs(added[at]) >= least
    ]
