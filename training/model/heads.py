"""The two heads of a candidate: one classifier for topic and one for stance over the same features."""

from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils import get_tags
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.validation import check_is_fitted

Probabilities = npt.NDArray[np.float64]


class TwoHeads(ClassifierMixin, BaseEstimator):
    """Fits `topic` and `stance` to the two columns of y, and calibrates each by a temperature.

    Parameters:
        topic, stance: classifiers with `predict_proba`; clones of them are fitted.
        n_topics, n_stances: labels in the codebook. y holds their positions; a label that training never showed
            gets probability 0.
        topic_temperature, stance_temperature: probabilities are softmax(log p / temperature); 1 leaves them as they
            are. Found on out-of-fold predictions (`best_temperature`).
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "topic": [HasMethods(["fit", "predict_proba"]), None],
        "stance": [HasMethods(["fit", "predict_proba"]), None],
        "n_topics": [Interval(Integral, 1, None, closed="left")],
        "n_stances": [Interval(Integral, 1, None, closed="left")],
        "topic_temperature": [Interval(Real, 0, None, closed="neither")],
        "stance_temperature": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        topic: Any = None,
        stance: Any = None,
        n_topics: int = 11,
        n_stances: int = 3,
        topic_temperature: float = 1.0,
        stance_temperature: float = 1.0,
    ) -> None:
        self.topic = topic
        self.stance = stance
        self.n_topics = n_topics
        self.n_stances = n_stances
        self.topic_temperature = topic_temperature
        self.stance_temperature = stance_temperature

    def fit(self, X: Any, y: npt.NDArray[np.int64], sample_weight: npt.NDArray[np.float64] | None = None) -> Self:
        """y has shape (passages, 2): topic and stance positions in the codebook."""
        self._validate_params()
        y = np.asarray(y)
        if y.ndim != 2 or y.shape[1] != 2:
            raise ValueError(f"y has shape {y.shape}, expected (passages, 2): topic and stance positions")
        for column, (head, n_labels) in enumerate((("topic", self.n_topics), ("stance", self.n_stances))):
            wrong = [label for label in np.unique(y[:, column]) if label not in range(n_labels)]
            if wrong:
                raise ValueError(f"y holds {wrong[0]!r} as a {head}, expected positions from 0 to {n_labels - 1}")
        y = y.astype(np.int64)
        self.topic_ = _fitted(self.topic, X, y[:, 0], sample_weight)
        self.stance_ = _fitted(self.stance, X, y[:, 1], sample_weight)
        self.classes_ = [np.arange(self.n_topics), np.arange(self.n_stances)]
        return self

    @property
    def n_features_in_(self) -> int:
        """Columns of X, as the heads saw them."""
        return int(self.topic_.n_features_in_)

    def predict_proba(self, X: Any) -> list[Probabilities]:
        """[topic (passages, n_topics), stance (passages, n_stances)], calibrated, columns in codebook order."""
        check_is_fitted(self)
        topic = spread(_probabilities(self.topic_, X), self.topic_.classes_, self.n_topics)
        stance = spread(_probabilities(self.stance_, X), self.stance_.classes_, self.n_stances)
        return [tempered(topic, self.topic_temperature), tempered(stance, self.stance_temperature)]

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """Shape (passages, 2): the most probable topic and stance."""
        return np.stack([scores.argmax(axis=1) for scores in self.predict_proba(X)], axis=1)

    def score(self, X: Any, y: npt.NDArray[np.int64], sample_weight: npt.NDArray[np.float64] | None = None) -> float:
        """Share of passages with both topic and stance right (scikit-learn's own would refuse two columns)."""
        return float(np.average((self.predict(X) == y).all(axis=1), weights=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = all(
            get_tags(_or_default(head)).input_tags.sparse for head in (self.topic, self.stance)
        )
        tags.target_tags.single_output, tags.target_tags.multi_output = False, True
        return tags


def _or_default(head: Any) -> Any:
    return LogisticRegression() if head is None else head


def _fitted(head: Any, X: Any, y: npt.NDArray[np.int64], sample_weight: npt.NDArray[np.float64] | None) -> Any:
    weights = {} if sample_weight is None else {"sample_weight": sample_weight}  # not every classifier takes them
    return clone(_or_default(head)).fit(X, y, **weights)


def _probabilities(head: Any, X: Any) -> Any:
    if isinstance(head, LogisticRegression) and isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind == "f":
        X = sp.csr_matrix(X)  # sums each row by itself: a dense product rounds otherwise beside other rows
    return head.predict_proba(X)


def spread(probabilities: Probabilities, classes: npt.NDArray[np.int64], n_labels: int) -> Probabilities:
    """Columns for every label of the codebook, 0 where training never showed the label."""
    out = np.zeros((len(probabilities), n_labels))
    out[:, classes] = probabilities
    return out


def tempered(probabilities: Probabilities, temperature: float) -> Probabilities:
    """softmax(log p / temperature) by row (Guo et al. 2017, On Calibration of Modern Neural Networks)."""
    with np.errstate(divide="ignore"):
        return np.asarray(softmax(np.log(probabilities) / temperature, axis=1))
