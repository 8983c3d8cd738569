"""The candidates: each is one scikit-learn Pipeline, text → extraction (stateless) → weighting → two heads.

A new candidate is a function here and a line in CANDIDATES.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.feature_selection import VarianceThreshold
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline

from training.model.columns import Columns
from training.model.encoder import NEWS_MINILM, SentenceEncoder
from training.model.hashed import BlindHashingVectorizer
from training.model.heads import TwoHeads

N_HASHES = 2**17
N_CHAR_HASHES = 2**18


def _hashed(**parameters: Any) -> BlindHashingVectorizer:
    """Counts of hashed tokens, lower case, nothing learned, so that the same text gives the same row anywhere."""
    return BlindHashingVectorizer(norm=None, alternate_sign=False, dtype=np.float32, **parameters)


def hashed_words() -> BlindHashingVectorizer:
    """Counts of hashed lower-case words: what news features hold beside embeddings."""
    return _hashed(n_features=N_HASHES)


def _characters() -> BlindHashingVectorizer:
    return _hashed(n_features=N_CHAR_HASHES, analyzer="char_wb", ngram_range=(3, 5))


def _word_pairs() -> BlindHashingVectorizer:
    return _hashed(n_features=N_HASHES, ngram_range=(2, 2))


def _tfidf() -> list[Any]:
    """TF-IDF over the columns that training shows at all: most hashes stay empty, and each would cost 14 weights."""
    return [("tfidf", TfidfTransformer(sublinear_tf=True)), ("seen", VarianceThreshold())]


def _linear_heads(class_weight: str | None) -> TwoHeads:
    head = LogisticRegression(C=1.0, class_weight=class_weight, max_iter=300, tol=1e-3)
    return TwoHeads(topic=head, stance=LogisticRegression(**head.get_params()))


def _pipeline(parts: dict[str, tuple[Any, int, list[Any]]], heads: TwoHeads) -> Pipeline:
    """parts: name → (extractor, columns it gives, steps that weigh those columns)."""
    edges = pairwise(np.cumsum([0, *(width for _, width, _ in parts.values())]).tolist())
    extract = FeatureUnion([(name, extractor) for name, (extractor, _, _) in parts.items()])
    weigh = FeatureUnion(
        [
            (name, Pipeline([("columns", Columns(left, right)), *steps]))
            for (name, (_, _, steps)), (left, right) in zip(parts.items(), edges, strict=True)
        ]
    )
    return Pipeline([("extract", extract), ("weigh", weigh), ("heads", heads)])


def majority() -> Pipeline:
    """The floor: the training shares as probabilities, whatever the text."""
    prior = TwoHeads(topic=DummyClassifier(strategy="prior"), stance=DummyClassifier(strategy="prior"))
    return _pipeline({"words": (hashed_words(), N_HASHES, [])}, prior)


def words() -> Pipeline:
    """TF-IDF of hashed words, word pairs and character 3- to 5-grams, linear heads. Needs the texts themselves."""
    parts = {
        "words": (hashed_words(), N_HASHES, _tfidf()),
        "pairs": (_word_pairs(), N_HASHES, _tfidf()),
        "characters": (_characters(), N_CHAR_HASHES, _tfidf()),
    }
    return _pipeline(parts, _linear_heads("balanced"))


def unigrams() -> Pipeline:
    """TF-IDF of hashed words alone, linear heads."""
    return _pipeline({"words": (hashed_words(), N_HASHES, _tfidf())}, _linear_heads("balanced"))


def sentences(encoder: str = NEWS_MINILM) -> Pipeline:
    """Sentence embeddings, linear heads."""
    return _pipeline({"sentences": _sentences(encoder)}, _linear_heads(None))


def words_and_sentences(encoder: str = NEWS_MINILM) -> Pipeline:
    """TF-IDF of hashed words beside sentence embeddings, linear heads."""
    words = (hashed_words(), N_HASHES, _tfidf())
    return _pipeline({"words": words, "sentences": _sentences(encoder)}, _linear_heads(None))


def _sentences(encoder: str) -> tuple[Any, int, list[Any]]:
    extractor = SentenceEncoder(encoder)
    return extractor, extractor.dimensions, []


CANDIDATES: dict[str, Callable[..., Pipeline]] = {
    "majority": majority,
    "words": words,
    "unigrams": unigrams,
    "sentences": sentences,
    "words_and_sentences": words_and_sentences,
}
