"""Choosing hyperparameters by cross-validation, folds grouped by document, topic and stance each for itself."""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import joblib
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
ENGINE = "IMMNEWS_ENGINE"  # where the folds are fitted
ENGINES = ("local", "ray")
# What the fits on another machine need of this project: code, and neither data nor the encoder.
SHIPPED = [str(Path(__file__).parents[1] / name) for name in ("training", "data")]
NOT_SHIPPED = ["encoder/", "corpus/", "news/"]
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


class NoEngine(InvalidExperiment):
    """The engine that IMMNEWS_ENGINE names is not known, not installed or not reached; the message says the remedy."""


@contextmanager
def engine(jobs: int) -> Iterator[None]:
    """Where joblib's `jobs` processes are: here, or (`ray`) in the cluster of RAY_ADDRESS, or a Ray of our own.

    Raises:
        NoEngine: there is none, or it is too small.
    """
    name = os.environ.get(ENGINE) or "local"
    if name not in ENGINES:
        raise NoEngine(f"{ENGINE}={name!r} is not known; choose one of {', '.join(ENGINES)}")
    if name == "local":
        yield
        return
    if find_spec("ray") is None:
        raise NoEngine(f"{ENGINE}=ray: Ray is not installed; `pip install '.[cluster]'`, or unset {ENGINE}")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS", "")
    own_size: dict[str, Any] = {}
    if not address:  # on the loopback interface alone, and to who knows this secret
        own_size = {"num_cpus": jobs}
        own = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "AUTOSCALER_METRIC_PORT": "0", "RAY_AUTH_MODE": "token"}
        os.environ.update({"RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32), **own})
    import ray
    from ray.util.joblib import register_ray

    register_ray()  # type: ignore[no-untyped-call]
    try:
        ray.init(
            address or "local",
            runtime_env={"py_modules": SHIPPED, "excludes": NOT_SHIPPED},
            ignore_reinit_error=True,  # it stays for the next candidate
            include_dashboard=None if address else False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **own_size,
        )
    except Exception as error:  # Ray's own share no base class
        raise NoEngine(f"RAY_ADDRESS={address!r} cannot be used: {error}; name the cluster's, or unset it") from None
    cpus = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
    if cpus < jobs:
        raise NoEngine(f"IMMNEWS_THREADS={jobs}: the cluster has {cpus} CPUs; lower it, or add machines")
    with joblib.parallel_config("ray"):
        yield


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
    with engine(jobs), tqdm(total=trials, desc=candidate.name, unit=" trial", leave=False) as bar:
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
