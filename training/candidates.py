"""The candidates: each is one scikit-learn Pipeline, text → extraction (stateless) → weighting → two heads.

A new candidate is a function here and a line in CANDIDATES.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline

from training.model.encoder import MINILM, SentenceEncoder
from training.model.heads import TwoHeads

N_HASHES = 2**17
N_CHAR_HASHES = 2**18


def _hashed(**parameters: Any) -> HashingVectorizer:
    """Counts of hashed tokens, lower case, nothing learned, so that the same text gives the same row anywhere."""
    return HashingVectorizer(norm=None, alternate_sign=False, dtype=np.float32, **parameters)


def _words() -> HashingVectorizer:
    return _hashed(n_features=N_HASHES)


def _characters() -> HashingVectorizer:
    return _hashed(n_features=N_CHAR_HASHES, analyzer="char_wb", ngram_range=(3, 5))


def _word_pairs() -> HashingVectorizer:
    return _hashed(n_features=N_HASHES, ngram_range=(2, 2))


def _linear_heads() -> TwoHeads:
    head = LogisticRegression(C=1.0, class_weight="balanced", max_iter=300, tol=1e-3)
    return TwoHeads(topic=head, stance=LogisticRegression(**head.get_params()))


def _pipeline(parts: dict[str, tuple[Any, int, Any]], heads: TwoHeads) -> Pipeline:
    """parts: name → (extractor, columns it gives, what weighs those columns)."""
    edges = np.cumsum([0, *(width for _, width, _ in parts.values())]).tolist()
    columns = [slice(left, right) for left, right in zip(edges, edges[1:], strict=False)]
    extract = FeatureUnion([(name, extractor) for name, (extractor, _, _) in parts.items()])
    weigh = ColumnTransformer(
        [(name, weight, where) for (name, (_, _, weight)), where in zip(parts.items(), columns, strict=True)],
        sparse_threshold=1.0,
    )
    return Pipeline([("extract", extract), ("weigh", weigh), ("heads", heads)])


def majority() -> Pipeline:
    """The floor: the training shares as probabilities, whatever the text."""
    prior = TwoHeads(topic=DummyClassifier(strategy="prior"), stance=DummyClassifier(strategy="prior"))
    return _pipeline({"words": (_words(), N_HASHES, "passthrough")}, prior)


def words() -> Pipeline:
    """TF-IDF of hashed words, word pairs and character 3- to 5-grams, linear heads. Needs the texts themselves."""
    parts = {
        "words": (_words(), N_HASHES, TfidfTransformer(sublinear_tf=True)),
        "pairs": (_word_pairs(), N_HASHES, TfidfTransformer(sublinear_tf=True)),
        "characters": (_characters(), N_CHAR_HASHES, TfidfTransformer(sublinear_tf=True)),
    }
    return _pipeline(parts, _linear_heads())


def unigrams() -> Pipeline:
    """TF-IDF of hashed words alone, linear heads."""
    return _pipeline({"words": (_words(), N_HASHES, TfidfTransformer(sublinear_tf=True))}, _linear_heads())


def sentences(encoder: str = MINILM) -> Pipeline:
    """Sentence embeddings, linear heads."""
    return _pipeline({"sentences": _sentences(encoder)}, _linear_heads())


def words_and_sentences(encoder: str = MINILM) -> Pipeline:
    """TF-IDF of hashed words beside sentence embeddings, linear heads."""
    words = (_words(), N_HASHES, TfidfTransformer(sublinear_tf=True))
    return _pipeline({"words": words, "sentences": _sentences(encoder)}, _linear_heads())


def _sentences(encoder: str) -> tuple[Any, int, Any]:
    extractor = SentenceEncoder(encoder)
    return extractor, extractor.dimensions, "passthrough"


CANDIDATES: dict[str, Callable[..., Pipeline]] = {
    "majority": majority,
    "words": words,
    "unigrams": unigrams,
    "sentences": sentences,
    "words_and_sentences": words_and_sentences,
}
