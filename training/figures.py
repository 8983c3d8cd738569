"""What the figures of a run look like: confusion, reliability, coverage, precision-recall; both heads side by side."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, average_precision_score, precision_recall_curve

from training.evaluation import Labels, reliability
from training.model.heads import Probabilities


class Predictions(NamedTuple):
    """One head on one set of passages: positions in `names`, shape (passages,), and scores (passages, labels)."""

    true: Labels
    predicted: Labels
    scores: Probabilities
    names: Sequence[str]


def all_figures(heads: Mapping[str, Predictions]) -> dict[str, Figure]:
    """File name → figure with one panel a head."""
    panels = {
        "confusion.png": _confusion,
        "reliability.png": _reliability,
        "coverage.png": _coverage,
        "precision_recall.png": _precision_recall,
    }
    figures = {}
    for file, draw in panels.items():
        figure = Figure(figsize=(15, 7), layout="constrained")
        for axes, (head, predictions) in zip(figure.subplots(1, len(heads)), heads.items(), strict=True):
            draw(axes, predictions)
            axes.set_title(head)
        figures[file] = figure
    return figures


def _confusion(axes: Axes, p: Predictions) -> None:
    ConfusionMatrixDisplay.from_predictions(
        p.true, p.predicted, labels=np.arange(len(p.names)), display_labels=p.names, normalize="true",
        values_format=".2f", xticks_rotation="vertical", cmap="Blues", colorbar=False, ax=axes,
    )  # fmt: skip
    axes.set(xlabel="predicted", ylabel="true (each row sums to 1)")


def _reliability(axes: Axes, p: Predictions) -> None:
    bins = reliability(p.true, p.predicted, p.scores)
    confidence, right, counts = zip(*bins, strict=True)
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    axes.scatter(confidence, right, s=[20 + 400 * count / len(p.true) for count in counts])
    for x, y, count in bins:
        axes.annotate(str(count), (x, y), textcoords="offset points", xytext=(6, -12))
    axes.set(xlabel="mean confidence", ylabel="share right", xlim=(0, 1), ylim=(0, 1.02))


def _coverage(axes: Axes, p: Predictions) -> None:
    """Share right of the passages of highest confidence, by how many of them are answered."""
    order = np.argsort(-p.scores[np.arange(len(p.true)), p.predicted], kind="stable")
    kept = np.arange(1, len(order) + 1)
    axes.plot(kept / len(order), np.cumsum((p.true == p.predicted)[order]) / kept)
    axes.axhline((p.true == p.predicted).mean(), color="grey", linestyle="--", linewidth=1)
    axes.set(xlabel="share answered, most confident first", ylabel="share right of these", xlim=(0, 1), ylim=(0, 1.02))


def _precision_recall(axes: Axes, p: Predictions) -> None:
    for label, name in enumerate(p.names):
        if (p.true == label).any():
            precision, recall, _ = precision_recall_curve(p.true == label, p.scores[:, label])
            average = average_precision_score(p.true == label, p.scores[:, label])
            axes.step(recall, precision, where="post", label=f"{name} ({average:.2f})", linewidth=1.2)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(title="average precision", fontsize="small", loc="lower left")
