"""The stateless half of a candidate, done once: passages to one row each, shared by candidates and folds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.pipeline import Pipeline

from training.cache import EmbeddingCache
from training.model.encoder import SentenceEncoder, decode

Rows = Any  # float32, (passages, columns of all parts): a csr_matrix, or an array where every part gives one


class Extractor:
    """Runs the `extract` step of candidates through the embedding cache, remembering each part's rows in memory."""

    def __init__(self, cache: EmbeddingCache) -> None:
        self.cache = cache
        self._done: dict[tuple[str, int], tuple[Sequence[str], Rows]] = {}

    def rows(self, pipeline: Pipeline, texts: Sequence[str]) -> Rows:
        """Equal to `pipeline["extract"].transform(texts)`; `texts` is kept, so pass the same object each time."""
        parts = [self._part(extractor, texts) for _, extractor in pipeline["extract"].transformer_list]
        if any(sp.issparse(part) for part in parts):
            return sp.hstack(parts, format="csr", dtype=np.float32)
        return np.hstack(parts)

    def _part(self, extractor: Any, texts: Sequence[str]) -> Rows:
        key = (repr(extractor), id(texts))
        if key not in self._done:
            if isinstance(extractor, SentenceEncoder):
                rows = decode(self.cache.encode(extractor, texts))
            else:
                rows = extractor.transform(texts)
            self._done[key] = (texts, rows)
        return self._done[key][1]
