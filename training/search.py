"""Choosing hyperparameters by cross-validation, folds grouped by document, topic and stance each for itself."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import ParameterGrid, StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline
from tqdm import tqdm

from training.evaluation import best_temperature, confusion_matrix, macro_f1
from training.experiment import Candidate, InvalidExperiment
from training.extraction import Rows
from training.model.heads import Probabilities, spread, tempered

HEADS = ("topic", "stance")
Folds = list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]


@dataclass
class Found:
    """What the search chose, and the out-of-fold probabilities of that choice (calibrated)."""

    params: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Probabilities] = field(default_factory=dict)  # head → (passages, labels)
    fold_f1: dict[str, list[float]] = field(default_factory=dict)  # head → macro-F1 of each fold
    trials: list[dict[str, Any]] = field(default_factory=list)

    @property
    def mean_f1(self) -> float:
        """What the search maximises: the mean over heads and folds of macro-F1."""
        return float(np.mean([np.mean(folds) for folds in self.fold_f1.values()]))


def grouped_folds(y: npt.NDArray[np.int64], documents: npt.NDArray[Any], folds: int, seed: int) -> Folds:
    """Folds that no document straddles, with like shares of topics.

    Raises:
        InvalidExperiment: there are too few documents for so many folds.
    """
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    try:
        parts = list(splitter.split(np.zeros((len(y), 1)), y[:, 0], documents))
    except ValueError:  # fewer passages of every topic than folds
        parts = []
    if not parts or not all(len(test) and _learnable(y[train]) for train, test in parts):
        raise InvalidExperiment(
            f"folds: {folds} is too many for a training split of {len(y)} passages in {len(set(documents))} documents: "
            "each fold must hold a passage, and leave two topics and two stances to learn from; lower it, or add "
            "documents"
        )
    return parts


def _learnable(y: npt.NDArray[np.int64]) -> bool:
    return all(len(np.unique(column)) > 1 for column in y.T)


def search(
    candidate: Candidate, rows: Rows, y: npt.NDArray[np.int64], weight: npt.NDArray[np.float64], folds: Folds, jobs: int
) -> Found:
    """Try every value of the candidate's grid.

    Parameters of one head (`heads__topic__C`) concern that head alone, so the heads are searched separately
    under each combination of the parameters that they share (those of `weigh`).
    """
    grids: dict[str, dict[str, list[Any]]] = {"shared": {}, "topic": {}, "stance": {}}
    for key, values in candidate.grid.items():
        owner = next((head for head in HEADS if key.startswith(f"heads__{head}__")), "shared")
        grids[owner][key] = values
    shared = list(ParameterGrid(grids["shared"]))
    trials = len(shared) * sum(len(ParameterGrid(grids[head])) for head in HEADS)
    best = Found()
    with tqdm(total=trials, desc=candidate.name, unit=" trial", leave=False) as bar:
        for common in shared:
            found = Found(params=dict(common), trials=best.trials)
            for column, head in enumerate(HEADS):
                best_of_head = -1.0
                for own in ParameterGrid(grids[head]):
                    pipeline = candidate.build().set_params(**common, **own)
                    scores = out_of_fold(pipeline, head, rows, y[:, column], weight, folds, jobs)
                    f1 = [_fold_f1(y[test, column], scores[test]) for _, test in folds]
                    found.trials.append({"head": head, **common, **own, "macro_f1": float(np.mean(f1))})
                    if np.mean(f1) > best_of_head:
                        best_of_head = float(np.mean(f1))
                        chosen = own
                        found.scores[head], found.fold_f1[head] = scores, f1
                    bar.update()
                found.params |= chosen
                temperature = best_temperature(y[:, column], found.scores[head])
                found.scores[head] = tempered(found.scores[head], temperature)
                found.params[f"heads__{head}_temperature"] = temperature
            if not best.fold_f1 or found.mean_f1 > best.mean_f1:
                best = found
    return best


def out_of_fold(
    pipeline: Pipeline, head: str, rows: Rows, y: npt.NDArray[np.int64], weight: npt.NDArray[np.float64], folds: Folds,
    jobs: int,
) -> Probabilities:  # fmt: skip
    """Each passage's probabilities from the fit that did not see its document, (passages, labels), uncalibrated."""
    heads = pipeline["heads"]
    fitted_part = Pipeline([("weigh", pipeline["weigh"]), ("head", getattr(heads, head))])
    scores = cross_val_predict(
        fitted_part, rows, y, cv=folds, n_jobs=jobs, method="predict_proba", params={"head__sample_weight": weight}
    )
    return spread(scores, np.unique(y), heads.n_topics if head == "topic" else heads.n_stances)


def _fold_f1(true: npt.NDArray[np.int64], scores: Probabilities) -> float:
    return float(macro_f1(confusion_matrix(true, scores.argmax(axis=1), scores.shape[1])))
