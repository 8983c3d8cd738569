"""How a candidate does where it was not trained: an outlet, a later time or another country left out of training."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.parallel import Parallel, delayed

from data.codebook import load_codebook
from data.news import annotations
from training.evaluation import Labels, accuracy, confusion_matrix, macro_f1
from training.extraction import Rows

SMALLEST_OUTLET = 100  # passages; an outlet with fewer is not left out by itself
TURN = 2017  # passages from this year on are read by a fit on those before
Mask = npt.NDArray[np.bool_]


def left_out(sha1s: Sequence[str], documents: Sequence[str]) -> list[tuple[str, str, Mask, Mask]]:
    """What is left out in turn: kind, name, mask of what is learned from, mask of what is read; (passages,) each.

    Outlet, year and country are those of the annotations of real news; passages of other corpora are always learned
    from, undated ones where time is left out too. No document of what is read is learned from.
    """
    facts = {row["sha1"]: row for name in ("train", "world") for row in annotations(name)}
    rows = [facts.get(sha1, {}) for sha1 in sha1s]
    outlets = np.array([row.get("outlet") or "" for row in rows])
    years = np.array([row.get("year") or 0 for row in rows])
    countries = np.array([row.get("country") or "" for row in rows])
    wanted = [
        ("outlet", name, outlets == name) for name, n in Counter(outlets).items() if name and n >= SMALLEST_OUTLET
    ]
    wanted += [("year", f"from {TURN}", years >= TURN)]
    wanted += [("country", "outside the US", (countries != "") & (countries != "US"))]
    of = np.array(documents)
    parts = [(kind, name, ~np.isin(of, of[read]), read) for kind, name, read in wanted]
    return [part for part in sorted(parts, key=lambda one: one[:2]) if part[2].any() and part[3].any()]


def transfer(
    pipeline: Pipeline, rows: Rows, y: Labels, weight: npt.NDArray[np.float64], sha1s: Sequence[str],
    documents: Sequence[str], jobs: int,
) -> pd.DataFrame:  # fmt: skip
    """Fit anew without each of `left_out`, and read it.

    Args:
        pipeline: a candidate with the parameters that the search chose.
        rows: extracted features, (passages, columns).
        y: topic and stance positions, (passages, 2).

    Returns:
        One row a head and part: `head`, `kind`, `left_out`, `passages` (read), `learned_from`, `macro_f1` over the
        labels that occur, `accuracy`.
    """
    parts = left_out(sha1s, documents)
    fitted_part = pipeline[1:]
    answers = Parallel(jobs)(
        delayed(_answers)(clone(fitted_part), rows[learn], y[learn], weight[learn], rows[read])
        for _, _, learn, read in parts
    )
    table, heads = [], load_codebook().names
    for (kind, name, learn, read), answered in zip(parts, answers, strict=True):
        for column, (head, names) in enumerate(heads.items()):
            confusion = confusion_matrix(y[read, column], answered[:, column], len(names))
            figures = float(macro_f1(confusion)), float(accuracy(confusion))
            table.append((head, kind, name, int(read.sum()), int(learn.sum()), *figures))
    columns = ["head", "kind", "left_out", "passages", "learned_from", "macro_f1", "accuracy"]
    return pd.DataFrame(table, columns=columns)


def _answers(fitted_part: Pipeline, rows: Rows, y: Labels, weight: npt.NDArray[np.float64], read: Rows) -> Labels:
    fitted_part["heads"].fit(fitted_part["weigh"].fit_transform(rows), y, sample_weight=weight)
    return np.asarray(fitted_part["heads"].predict(fitted_part["weigh"].transform(read)))


def transfer_metrics(table: pd.DataFrame) -> dict[str, float]:
    """Flat names for MLflow: the mean over outlets, and each other part, such as `transfer/outlet/topic/macro_f1`."""
    means = table.groupby(["kind", "head"], as_index=False)["macro_f1"].mean()
    return {f"transfer/{row.kind}/{row.head}/macro_f1": float(row.macro_f1) for row in means.itertuples()}
