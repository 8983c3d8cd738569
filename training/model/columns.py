"""A slice of the columns of a feature matrix, so that each part of the features can be weighed in its own way."""

from collections.abc import Iterator
from typing import Any, Self

from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted, validate_data


class Columns(TransformerMixin, BaseEstimator):
    """Keeps the columns `start` (counted from 0) up to, but not including, `stop`.

    scikit-learn's ColumnTransformer keeps a list of all its column numbers, which for hashed words makes a saved
    pipeline of 50 to 200 MB.
    """

    def __init__(self, start: int = 0, stop: int | None = None) -> None:
        self.start = start
        self.stop = stop

    def fit(self, X: Any, y: object = None) -> Self:
        """Learns the number of columns of X, and nothing else."""
        validate_data(self, X, accept_sparse="csr")
        return self

    def transform(self, X: Any) -> Any:
        """The slice, of the kind that X is: an array, or a CSR matrix."""
        check_is_fitted(self)
        return validate_data(self, X, accept_sparse="csr", reset=False)[:, self.start : self.stop]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def parts(pipeline: Pipeline) -> Iterator[tuple[Any, Pipeline, slice]]:
    """Of each part of a fitted candidate its extractor, its weighting and its columns in what the heads read."""
    start = 0
    for (_, extractor), (_, weigher) in zip(
        pipeline["extract"].transformer_list, pipeline["weigh"].transformer_list, strict=True
    ):
        if "seen" in weigher.named_steps:
            width = int(weigher["seen"].get_support().sum())
        else:
            width = weigher["columns"].stop - weigher["columns"].start
        yield extractor, weigher, slice(start, start + width)
        start += width
