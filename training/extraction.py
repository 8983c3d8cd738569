"""The stateless half of a candidate, done once: passages to one row each, shared by candidates and folds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.pipeline import Pipeline

from training.cache import EmbeddingCache
from training.features import ShippedFeatures
from training.model.encoder import SentenceEncoder, decode

Rows = Any  # float32, (passages, columns of all parts): a csr_matrix, or an array where every part gives one


class Texts(Sequence[str | None]):
    """Passages as extraction takes them: their texts, None where it may not be shipped, and the sha1 of each."""

    def __init__(self, texts: Sequence[str | None], sha1s: Sequence[str]) -> None:
        self.texts = list(texts)
        self.sha1s = list(sha1s)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, at: Any) -> Any:
        return self.texts[at]


class Extractor:
    """Runs the `extract` step of candidates on cached, shipped or fresh features, remembering each part's rows."""

    def __init__(self, cache: EmbeddingCache, shipped: ShippedFeatures | None = None) -> None:
        self.cache = cache
        self.shipped = shipped or ShippedFeatures()
        self._done: dict[tuple[str, int], tuple[Texts, Rows]] = {}

    def usable(self, pipeline: Pipeline, texts: Texts) -> npt.NDArray[np.bool_]:
        """Which passages this candidate can read, shape (passages,): those with text, or with all parts shipped."""
        if all(self.shipped.serves(extractor) for _, extractor in pipeline["extract"].transformer_list):
            pairs = zip(texts.texts, texts.sha1s, strict=True)
            return np.array([text is not None or self.shipped.holds(key) for text, key in pairs], bool)
        return np.array([text is not None for text in texts], bool)

    def rows(self, pipeline: Pipeline, texts: Texts) -> Rows:
        """Equal to `pipeline["extract"].transform` of the texts, all of which must be usable.

        `texts` is kept, so pass the same object each time.
        """
        parts = [self._part(extractor, texts) for _, extractor in pipeline["extract"].transformer_list]
        if any(sp.issparse(part) for part in parts):
            return sp.hstack(parts, format="csr", dtype=np.float32)
        return np.hstack(parts)

    def _part(self, extractor: Any, texts: Texts) -> Rows:
        key = (extractor.recipe, id(texts))
        if key not in self._done:
            self._done[key] = (texts, self._extract(extractor, texts))
        return self._done[key][1]

    def _extract(self, extractor: Any, texts: Texts) -> Rows:
        ready = np.array([self.shipped.serves(extractor) and self.shipped.holds(sha1) for sha1 in texts.sha1s], bool)
        kept = self.shipped.rows(extractor, [texts.sha1s[at] for at in np.flatnonzero(ready)]) if ready.any() else None
        fresh = [texts[at] for at in np.flatnonzero(~ready)]
        encodes = isinstance(extractor, SentenceEncoder)
        made = None
        if fresh or kept is None:
            made = self.cache.encode(extractor, fresh) if encodes else extractor.transform(fresh)
        order = np.argsort(np.concatenate([np.flatnonzero(ready), np.flatnonzero(~ready)]))
        blocks: list[Any] = [block for block in (kept, made) if block is not None]
        if encodes:
            return decode(np.vstack(blocks)[order])
        return sp.csr_matrix(sp.vstack(blocks))[order]
