"""The two heads of a candidate: one classifier for topic and one for stance over the same features."""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression

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
        y = np.asarray(y)
        if y.ndim != 2 or y.shape[1] != 2:
            raise ValueError(f"y has shape {y.shape}, expected (passages, 2): topic and stance positions")
        self.topic_ = clone(self.topic or LogisticRegression()).fit(X, y[:, 0], sample_weight=sample_weight)
        self.stance_ = clone(self.stance or LogisticRegression()).fit(X, y[:, 1], sample_weight=sample_weight)
        self.classes_ = [np.arange(self.n_topics), np.arange(self.n_stances)]
        return self

    def predict_proba(self, X: Any) -> list[Probabilities]:
        """[topic (passages, n_topics), stance (passages, n_stances)], calibrated, columns in codebook order."""
        topic = spread(self.topic_.predict_proba(X), self.topic_.classes_, self.n_topics)
        stance = spread(self.stance_.predict_proba(X), self.stance_.classes_, self.n_stances)
        return [tempered(topic, self.topic_temperature), tempered(stance, self.stance_temperature)]

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """Shape (passages, 2): the most probable topic and stance."""
        return np.stack([scores.argmax(axis=1) for scores in self.predict_proba(X)], axis=1)


def spread(probabilities: Probabilities, classes: npt.NDArray[np.int64], n_labels: int) -> Probabilities:
    """Columns for every label of the codebook, 0 where training never showed the label."""
    out = np.zeros((len(probabilities), n_labels))
    out[:, classes] = probabilities
    return out


def tempered(probabilities: Probabilities, temperature: float) -> Probabilities:
    """softmax(log p / temperature) by row (Guo et al. 2017, On Calibration of Modern Neural Networks)."""
    with np.errstate(divide="ignore"):
        return np.asarray(softmax(np.log(probabilities) / temperature, axis=1))
