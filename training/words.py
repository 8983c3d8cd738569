"""Which words speak most strongly for each label, read from the weights of a linear candidate."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from training.evaluation import Labels
from training.model.columns import parts


def strongest_words(
    pipeline: Pipeline, texts: Sequence[str | None], features: Any, y: Labels, names: Mapping[str, Sequence[str]],
    top: int = 15,
) -> pd.DataFrame:  # fmt: skip
    """The `top` words and word pairs of each label, strongest first.

    Args:
        pipeline: a fitted candidate. One without hashed words, or whose heads have no weights, gives no rows.
        texts: the training texts, None where there is none; a hash is named after the most frequent of the words that
            share it.
        features: what the heads were fitted on, (texts, columns).
        y: topic and stance positions, (texts, 2).
        names: head (`topic`, `stance`) → its labels in codebook order.

    Returns:
        Columns `head`, `label`, `rank`, `word`, `weight` (log-odds against the mean label, for a TF-IDF of 1) and
        `contribution`, by which they are ranked: weight times the word's mean TF-IDF in passages of that label. Weights
        alone would name words that occur once.
    """
    columns = ["head", "label", "rank", "word", "weight", "contribution"]
    words = _named_columns(pipeline, [text for text in texts if text is not None])
    if not words or not hasattr(pipeline["heads"].topic_, "coef_"):
        return pd.DataFrame(columns=columns)
    where = np.fromiter(words, np.int64)
    rows: list[tuple[Any, ...]] = []
    for column, (head, labels) in enumerate(names.items()):
        fitted = getattr(pipeline["heads"], f"{head}_")
        weights = fitted.coef_[:, where] - fitted.coef_[:, where].mean(axis=0)
        for label, weight in zip(fitted.classes_, weights, strict=True):
            contribution = weight * np.asarray(features[y[:, column] == label].mean(axis=0)).ravel()[where]
            for rank, best in enumerate(np.argsort(-contribution, kind="stable")[:top], start=1):
                word = words[int(where[best])]
                rows.append((head, labels[label], rank, word, float(weight[best]), float(contribution[best])))
    return pd.DataFrame(rows, columns=columns)


def _named_columns(pipeline: Pipeline, texts: Sequence[str]) -> dict[int, str]:
    """Column of the heads' input → word, for parts that hash whole words."""
    named: dict[int, str] = {}
    for extractor, weigher, columns in parts(pipeline):
        if "seen" in weigher.named_steps and extractor.analyzer == "word":
            analyse = extractor.build_analyzer()
            terms = [term for term, _ in Counter(term for text in texts for term in analyse(text)).most_common()]
            position = {
                column: at for at, column in enumerate(weigher["seen"].get_support(indices=True), columns.start)
            }
            for term, row in zip(terms, extractor.transform(terms), strict=True):
                at = position.get(row.indices[0]) if row.nnz == 1 else None
                if at is not None:  # "mexico" of New Mexico, by itself, is hidden behind other words
                    named.setdefault(at, term)
    return named
