"""How good predictions are, and how sure we may be of it: macro-F1 with intervals over documents, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import log_loss, precision_recall_fscore_support

from training.model.heads import Probabilities

Labels = npt.NDArray[np.int64]
BINS = 10
TEMPERATURES = (0.05, 20.0)


class Interval(NamedTuple):
    """A figure with its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Report:
    """How one head did on one set of passages."""

    macro_f1: Interval
    accuracy: Interval
    calibration_error: float
    log_loss: float
    weighted: dict[str, float]  # precision, recall, f1: averages weighted by support
    macro: dict[str, float]
    per_class: dict[str, dict[str, float]]  # label → precision, recall, f1, support

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat names for MLflow, such as `validation/topic/f1/asylum`; figures without support are left out."""
        out = {
            "macro_f1": self.macro_f1.value, "macro_f1_low": self.macro_f1.low, "macro_f1_high": self.macro_f1.high,
            "accuracy": self.accuracy.value, "accuracy_low": self.accuracy.low, "accuracy_high": self.accuracy.high,
            "calibration_error": self.calibration_error, "log_loss": self.log_loss,
            **{f"weighted_{name}": value for name, value in self.weighted.items()},
            "macro_precision": self.macro["precision"], "macro_recall": self.macro["recall"],
        }  # fmt: skip
        for label, figures in self.per_class.items():
            out.update({f"{name}/{label}": value for name, value in figures.items() if figures["support"]})
        return {f"{prefix}/{name}": float(value) for name, value in out.items()}


def report(
    true: Labels,
    predicted: Labels,
    scores: Probabilities,
    documents: Sequence[str],
    names: Sequence[str],
    resamples: int,
    seed: int,
) -> Report:
    """Figures of one head.

    Args:
        true, predicted: positions in `names`, shape (passages,). `predicted` may differ from the scores' argmax.
        scores: calibrated probabilities, (passages, labels).
        documents: of each passage; the bootstrap draws documents, not passages.

    Raises:
        ValueError: there are no passages.
    """
    if not len(true):
        raise ValueError("no passages to evaluate: the split is empty; give the corpus more documents")
    confusions = by_document(true, predicted, documents, len(names))
    draws = resample(len(confusions), resamples, seed)
    precision, recall, f1, support = precision_recall_fscore_support(
        true, predicted, labels=np.arange(len(names)), zero_division=0.0
    )
    averages = {
        how: precision_recall_fscore_support(true, predicted, average=how, zero_division=0.0)[:3]
        for how in ("weighted", "macro")
    }
    named = {how: dict(zip(("precision", "recall", "f1"), map(float, a), strict=True)) for how, a in averages.items()}
    figures = ("precision", "recall", "f1", "support")
    columns = zip(precision, recall, f1, support, strict=True)
    per_class = {
        name: dict(zip(figures, map(float, row), strict=True)) for name, row in zip(names, columns, strict=True)
    }
    return Report(
        interval(macro_f1, confusions, draws),
        interval(accuracy, confusions, draws),
        calibration_error(true, predicted, scores),
        float(log_loss(true, np.clip(scores, 1e-12, 1), labels=np.arange(len(names)))),
        named["weighted"],
        named["macro"],
        per_class,
    )


def by_document(true: Labels, predicted: Labels, documents: Sequence[str], n_labels: int) -> npt.NDArray[np.int64]:
    """Confusion counts, shape (documents, true label, predicted label), documents in sorted order."""
    # As objects: numpy's own strings would drop NULs at their end, and pad every name to the longest.
    names, index = np.unique(np.asarray(documents, dtype=object), return_inverse=True)
    counts = np.zeros((len(names), n_labels, n_labels), np.int64)
    np.add.at(counts, (index, true, predicted), 1)
    return counts


def confusion_matrix(true: Labels, predicted: Labels, n_labels: int) -> npt.NDArray[np.int64]:
    """Confusion counts of all passages together, (true label, predicted label)."""
    return np.asarray(by_document(true, predicted, ["all"] * len(true), n_labels).sum(axis=0))


def resample(n_documents: int, resamples: int, seed: int) -> npt.NDArray[np.int64]:
    """How often each document is drawn, shape (resamples, documents): draws with replacement."""
    draws = np.random.default_rng(seed).multinomial(n_documents, np.full(n_documents, 1 / n_documents), size=resamples)
    return np.asarray(draws)


def macro_f1(confusion: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Mean F1 over the labels that occur as truth or prediction, for confusions of shape (..., true, predicted)."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    f1 = np.divide(2 * right, total, out=np.zeros(total.shape), where=total > 0)
    return np.asarray(f1.sum(axis=-1) / np.maximum((total > 0).sum(axis=-1), 1))


def accuracy(confusion: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Share right, for confusions of shape (..., true, predicted)."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1).sum(axis=-1)
    return np.asarray(right / np.maximum(confusion.sum(axis=(-2, -1)), 1))


def interval(figure: Any, confusions: npt.NDArray[np.int64], draws: npt.NDArray[np.int64]) -> Interval:
    """A figure of the summed confusions, with the 2.5 and 97.5 percentiles of it over the draws of documents."""
    low, high = np.percentile(figure(np.tensordot(draws, confusions, axes=1)), [2.5, 97.5])
    return Interval(float(figure(confusions.sum(axis=0))), float(low), float(high))


def calibration_error(true: Labels, predicted: Labels, scores: Probabilities) -> float:
    """Expected calibration error of the predicted label's confidence, 10 equal-width bins, in [0, 1]."""
    bins = reliability(true, predicted, scores)
    return float(sum(count / len(true) * abs(confidence - right) for confidence, right, count in bins))


def reliability(true: Labels, predicted: Labels, scores: Probabilities) -> list[tuple[float, float, int]]:
    """(mean confidence, share right, passages) of each bin that holds any."""
    confidence, right = scores[np.arange(len(scores)), predicted], true == predicted
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = [which == b for b in range(BINS) if (which == b).any()]
    return [(float(confidence[bin_].mean()), float(right[bin_].mean()), int(bin_.sum())) for bin_ in bins]


def best_temperature(true: Labels, scores: Probabilities, weight: npt.NDArray[np.float64] | None = None) -> float:
    """The temperature in [0.05, 20] under which probabilities of unseen passages have the least (weighted) log loss.

    A passage whose label has probability 0 (the fold's fit never saw that label) has it under every temperature, and is
    left out; where none is left, the temperature is 1.
    """
    possible = scores[np.arange(len(true)), true] > 0
    if not possible.any():
        return 1.0
    with np.errstate(divide="ignore"):
        logs, label = np.log(scores[possible]), true[possible]
    weight = np.ones(len(label)) if weight is None else weight[possible]

    def loss(log_t: float) -> float:
        own = log_softmax(logs / np.exp(log_t), axis=1)[np.arange(len(label)), label]
        return -float(np.average(own, weights=weight))

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def coverage_threshold(right: npt.NDArray[np.bool_], confidence: npt.NDArray[np.float64], precision: float) -> float:
    """The lowest confidence such that, of the passages at or above it, at least `precision` are right.

    It keeps at least a tenth of the passages. Where none such reaches the precision, the one that comes nearest.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    kept = np.arange(1, len(ranked) + 1)
    share = np.cumsum(right[order]) / kept
    # Passages of equal confidence are kept or left together.
    possible = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True) & (10 * kept >= len(ranked)))
    enough = possible[share[possible] >= precision]
    if not len(enough):
        enough = possible[share[possible] == share[possible].max()]
    return float(ranked[enough[-1]])


def abstention(
    true: Labels, predicted: Labels, confidence: npt.NDArray[np.float64], threshold: float
) -> dict[str, float]:
    """What answering only at or above the threshold does.

    `coverage` is the share answered, `accuracy_kept` the share right of those (0 where none is answered).
    """
    kept = confidence >= threshold
    right = (true == predicted)[kept]
    return {"coverage": float(kept.mean()), "accuracy_kept": float(right.mean()) if len(right) else 0.0}
