"""How a candidate does where it was not trained: an outlet, a later time or another country left out of training."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.parallel import Parallel, delayed

from data.codebook import load_codebook
from data.hydrate import LEARNT
from data.news import annotations
from training.evaluation import Labels, accuracy, confusion_matrix, macro_f1
from training.extraction import Rows

SMALLEST_OUTLET = 20  # validating passages; an outlet with fewer is not left out by itself
TURN = 2017  # passages from this year on are read by a fit on those before
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LeftOut:
    """One part that a fit does without: what is learned from and what is read then, masks of (passages,)."""

    kind: str
    name: str
    learn: Mask
    read: Mask


def left_out(sha1s: Sequence[str], documents: Sequence[str], validating: Mask) -> list[LeftOut]:
    """What is left out in turn, by kind and name.

    Outlet, year and country are those of the annotations. What shares a document with what is left out is not learned
    from, nor is the validation split; fiction always is, and undated passages where time is left out. Of what is left
    out, news is read whose labels the default encoder has not learnt: the validation split, and other countries.
    """
    facts = {row["sha1"]: row for name in LEARNT for row in annotations(name)}
    rows = [facts.get(sha1, {}) for sha1 in sha1s]
    outlets = np.array([row.get("outlet") or "" for row in rows])
    years = np.array([row.get("year") or 0 for row in rows])
    countries = np.array([row.get("country") or "" for row in rows])
    unseen = np.isin(sha1s, [row["sha1"] for row in annotations("world")])
    unseen |= validating & ~np.isin(sha1s, [row["sha1"] for row in annotations("arguments")])
    held = Counter(outlets[validating])
    wanted = [("outlet", name, outlets == name) for name, n in held.items() if name and n >= SMALLEST_OUTLET]
    wanted += [("year", f"from {TURN}", years >= TURN)]
    wanted += [("country", "outside the US", (countries != "") & (countries != "US"))]
    of = np.array(documents)
    parts = [LeftOut(kind, name, ~np.isin(of, of[out]) & ~validating, out & unseen) for kind, name, out in wanted]
    parts.sort(key=lambda part: (part.kind, part.name))
    return [part for part in parts if part.learn.any() and part.read.any()]


def transfer(
    pipeline: Pipeline, rows: Rows, y: Labels, weight: npt.NDArray[np.float64], parts: Sequence[LeftOut], jobs: int
) -> pd.DataFrame:
    """Fit anew without each part, and read it.

    Args:
        pipeline: a candidate with the parameters that the search chose.
        rows: extracted features, (passages, columns).
        y: topic and stance positions, (passages, 2).

    Returns:
        One row a head and part: `head`, `kind`, `left_out`, `passages` (read), `learned_from`, `macro_f1` over the
        labels that occur, `accuracy`.
    """
    fitted_part = pipeline[1:]
    answers = Parallel(jobs)(
        delayed(_answers)(clone(fitted_part), rows[part.learn], y[part.learn], weight[part.learn], rows[part.read])
        for part in parts
    )
    table, heads = [], load_codebook().names
    for part, answered in zip(parts, answers, strict=True):
        for column, (head, names) in enumerate(heads.items()):
            confusion = confusion_matrix(y[part.read, column], answered[:, column], len(names))
            figures = float(macro_f1(confusion)), float(accuracy(confusion))
            table.append((head, part.kind, part.name, int(part.read.sum()), int(part.learn.sum()), *figures))
    columns = ["head", "kind", "left_out", "passages", "learned_from", "macro_f1", "accuracy"]
    return pd.DataFrame(table, columns=columns)


def _answers(fitted_part: Pipeline, rows: Rows, y: Labels, weight: npt.NDArray[np.float64], read: Rows) -> Labels:
    fitted_part["heads"].fit(fitted_part["weigh"].fit_transform(rows), y, sample_weight=weight)
    return np.asarray(fitted_part["heads"].predict(fitted_part["weigh"].transform(read)))


def transfer_metrics(table: pd.DataFrame) -> dict[str, float]:
    """Flat names for MLflow: the mean over outlets, and each other part, such as `transfer/outlet/topic/macro_f1`."""
    means = table.groupby(["kind", "head"], as_index=False)["macro_f1"].mean()
    return {f"transfer/{row.kind}/{row.head}/macro_f1": float(row.macro_f1) for row in means.itertuples()}
