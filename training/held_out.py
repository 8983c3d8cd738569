"""How a candidate does on held-out real news: news dev and its slices, and passages whose stance people labelled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from data.codebook import load_codebook
from data.news import annotations
from training.evaluation import (
    Interval,
    Labels,
    Report,
    accuracy,
    by_document,
    confusion_matrix,
    interval,
    macro_f1,
    report,
    resample,
)
from training.extraction import Texts
from training.figures import Predictions
from training.model.heads import Probabilities

SMALLEST = 20  # passages that a slice must hold to be reported
POOLED = ("arc_nyt_roomfordebate", "valueeval23")  # the human-labelled sets of people who argue
SLICES: dict[str, Callable[[Mapping[str, Any]], object]] = {
    "leaning": lambda row: row["leaning"],
    "outlet": lambda row: row["outlet"],
    "country": lambda row: row["country"],
    "decade": lambda row: f"{row['year'] // 10 * 10}s" if row["year"] else None,
    "length": lambda row: "up to 40 words" if row["words"] <= 40 else "41 to 80" if row["words"] <= 80 else "over 80",
}


@dataclass(frozen=True)
class NewsReport:
    """Figures on passages that no candidate was trained, searched or calibrated on.

    `reports` and `predictions` hold topic and stance of the passages on which both annotators agree; `acceptable_topic`
    counts a topic that either annotator gave as first or second, on all passages; `external` is the share right of the
    human-labelled passages, all of which are supportive or restrictive, by source and over those of POOLED (`all`).
    """

    reports: dict[str, Report]
    predictions: dict[str, Predictions]
    acceptable_topic: Interval
    external: dict[str, Interval]
    slices: pd.DataFrame
    stance_by_leaning: pd.DataFrame

    def metrics(self) -> dict[str, float]:
        """Flat names for MLflow."""
        figures = {"news_dev/acceptable_topic": self.acceptable_topic}
        figures |= {f"external/{source}/stance_accuracy": share for source, share in self.external.items()}
        out = {f"{name}{end}": v for name, figure in figures.items() for end, v in zip(ENDS, figure, strict=True)}
        for head, figures_of_head in self.reports.items():
            out |= figures_of_head.metrics(f"news_dev/{head}")
        return out

    def summary(self) -> dict[str, list[float]]:
        """What no confusion holds, for the model's card: each share with its 95% interval."""
        external = {f"external_stance_accuracy/{source}": list(share) for source, share in self.external.items()}
        return {"acceptable_topic": list(self.acceptable_topic), **external}

    def figure(self) -> Figure:
        """Mean predicted stance by the outlet's leaning, with 95% intervals: a check of face validity."""
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        table = self.stance_by_leaning
        spread = np.stack([table["mean"] - table["low"], table["high"] - table["mean"]])
        axes.errorbar(table["leaning"], table["mean"], yerr=spread.clip(min=0), fmt="o", capsize=4)  # rounding
        axes.axhline(0, color="grey", linewidth=1, linestyle="--")
        axes.set(xlabel="leaning of the outlet", ylabel="mean predicted stance (-1 restrictive, 1 supportive)")
        return figure


ENDS = ("", "_low", "_high")


def held_out_texts(name: str) -> Texts:
    """The passages of `dev` or `external` (labelled by people) as extraction takes them, in the file's order."""
    rows = annotations(name)
    return Texts([None] * len(rows), [row["sha1"] for row in rows])


def news_report(
    labels: tuple[Labels, Labels], scores: Sequence[Probabilities], external_stance: Probabilities, resamples: int,
    seed: int,
) -> NewsReport:  # fmt: skip
    """Compare answers with the annotations.

    Args:
        labels: topic and stance of each passage of news dev, in the file's order.
        scores: calibrated probabilities of the same, (passages, labels) each.
        external_stance: stance probabilities of the human-labelled passages, in the file's order.
    """
    rows, book = annotations("dev"), load_codebook()
    documents = [row["document"] for row in rows]
    reports, predictions, tables = {}, {}, []
    for column, (head, known) in enumerate(book.names.items()):
        true = np.array([known.index(row[head]) for row in rows])
        agreed = np.array([row[f"{head}_agreed"] for row in rows])
        kept = np.flatnonzero(agreed)
        of_kept = [documents[at] for at in kept]
        p = predictions[head] = Predictions(true[kept], labels[column][kept], scores[column][kept], known)
        reports[head] = report(p.true, p.predicted, p.scores, of_kept, known, resamples, seed)
        tables.append(_slices(head, rows, true, labels[column], agreed, len(known)))
    acceptable = np.array(
        [book.topic_names[topic] in _acceptable(row) for topic, row in zip(labels[0], rows, strict=True)]
    )
    return NewsReport(
        reports,
        predictions,
        _share(acceptable, documents, resamples, seed),
        _external(external_stance, book.stance_names, resamples, seed),
        pd.concat(tables, ignore_index=True),
        _by_leaning(rows, scores[1], book.stance_names, documents, resamples, seed),
    )


def _acceptable(row: Mapping[str, Any]) -> set[str]:
    return {reading[key] for reading in row["annotators"] for key in ("topic", "secondary_topic")} - {None}


def _share(right: npt.NDArray[np.bool_], documents: Sequence[str], resamples: int, seed: int) -> Interval:
    counts = by_document(np.ones(len(right), np.int64), right.astype(np.int64), documents, 2)
    return interval(accuracy, counts, resample(len(counts), resamples, seed))


def _external(scores: Probabilities, names: Sequence[str], resamples: int, seed: int) -> dict[str, Interval]:
    rows = annotations("external")
    supportive = scores[:, names.index("supportive")] > scores[:, names.index("restrictive")]
    right = supportive == np.array([row["stance"] == "supportive" for row in rows])
    sets: dict[str, Sequence[str]] = {source: [source] for source in sorted({row["source"] for row in rows})}
    out = {}
    for name, sources in {"all": POOLED, **sets}.items():
        kept = np.flatnonzero([row["source"] in sources for row in rows])
        documents = [rows[at].get("document", rows[at]["id"]) for at in kept]
        out[name] = _share(right[kept], documents, resamples, seed)
    return out


def _slices(
    head: str, rows: Sequence[Mapping[str, Any]], true: Labels, predicted: Labels, agreed: npt.NDArray[np.bool_],
    n_labels: int,
) -> pd.DataFrame:  # fmt: skip
    """One row a slice of at least `SMALLEST` agreed passages: macro-F1 over the labels that occur, and accuracy."""
    table = []
    for slice_, value_of in SLICES.items():
        values = np.array([value_of(row) for row in rows], dtype=object)
        for value in sorted({value for value in values if value is not None}):
            kept = np.flatnonzero((values == value) & agreed)
            if len(kept) >= SMALLEST:
                confusion = confusion_matrix(true[kept], predicted[kept], n_labels)
                figures = float(macro_f1(confusion)), float(accuracy(confusion))
                table.append((head, slice_, value, len(kept), *figures))
    return pd.DataFrame(table, columns=["head", "slice", "value", "passages", "macro_f1", "accuracy"])


def _by_leaning(
    rows: Sequence[Mapping[str, Any]], scores: Probabilities, names: Sequence[str], documents: Sequence[str],
    resamples: int, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """Mean of P(supportive) - P(restrictive) over the passages of each leaning; the bootstrap draws documents."""
    balance = scores[:, names.index("supportive")] - scores[:, names.index("restrictive")]
    table = []
    for leaning in ("left", "center", "right"):
        kept = np.flatnonzero([row["leaning"] == leaning for row in rows])
        index = np.unique(np.array(documents)[kept], return_inverse=True)[1]
        sums, counts = np.bincount(index, balance[kept]), np.bincount(index)
        draws = resample(len(counts), resamples, seed)
        low, high = np.percentile((draws @ sums) / (draws @ counts), [2.5, 97.5])
        table.append((leaning, float(balance[kept].mean()), low, high))
    return pd.DataFrame(table, columns=["leaning", "mean", "low", "high"])
