"""What MLflow is told of each candidate: parameters, data, figures, tables, versions and the state of the code."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import mlflow
import pandas as pd
from datasets import DatasetDict
from mlflow.data.pandas_dataset import from_pandas
from mlflow.exceptions import MlflowException

from data.codebook import load_codebook
from data.splits import digest
from training.evaluation import Report
from training.experiment import Candidate, Experiment
from training.figures import Predictions, all_figures
from training.held_out import NewsReport
from training.model_card import git_state
from training.search import Found
from training.transfer import transfer_metrics

LIBRARIES = ("scikit-learn", "mlflow", "datasets", "bentoml", "numpy", "scipy", "onnxruntime", "tokenizers", "skops")


def log_context(experiment: Experiment) -> None:
    """Tags of the active run that say what code, which libraries and which codebook it ran with."""
    commit, dirty = git_state()
    versions = {f"version.{library}": importlib.metadata.version(library) for library in LIBRARIES}
    mlflow.set_tags(
        {
            "experiment": experiment.name,
            "git.commit": commit,
            "git.dirty": str(dirty).lower(),
            "codebook": load_codebook().version,
            "version.python": platform.python_version(),
            **versions,
        }
    )


def log_data(dataset: DatasetDict, experiment: Experiment) -> None:
    """The splits as dataset inputs of the active run, each under the digest of its records."""
    for split, rows in dataset.items():
        frame = pd.DataFrame({column: rows[column][:] for column in ("id", "doc_id", "sha1")})
        for head in ("topic", "stance"):
            frame[head] = rows.features[head].int2str(rows[head][:])
        source = from_pandas(frame, name=f"{'+'.join(experiment.corpora)}/{split}", digest=digest(rows)[:36])
        try:
            mlflow.log_input(source, context=split)
        except MlflowException:  # another first training entered the same dataset just now: it is there on a second try
            mlflow.log_input(source, context=split)


def log_choice(candidate: Candidate, found: Found, experiment: Experiment) -> None:
    """The parameters of a candidate, the fold scores (steps are folds) and every trial of the search."""
    mlflow.log_params(
        {
            "candidate": candidate.name, "pipeline": candidate.pipeline, "encoder": candidate.encoder or "default",
            "corpora": "+".join(experiment.corpora), "seed": experiment.seed, "folds": experiment.folds,
            **candidate.params, **found.params,
        }
    )  # fmt: skip
    mlflow.log_metric("cross_validation/mean_macro_f1", found.mean_f1)  # first: the compare view opens with it
    for head, scores in found.fold_f1.items():
        for fold, score in enumerate(scores):
            mlflow.log_metric(f"cross_validation/{head}/fold_macro_f1", score, step=fold)
    mlflow.log_table(pd.DataFrame(found.trials), "search.json")


def log_reports(name: str, reports: Mapping[str, Report]) -> None:
    """All figures of both heads on one evaluation, as metrics such as `validation/topic/f1/asylum`."""
    for head, figures in reports.items():
        mlflow.log_metrics(figures.metrics(f"{name}/{head}"))


def log_news(news: NewsReport) -> None:
    """Figures on held-out real news, their slices as a table, and the predicted stance by leaning."""
    mlflow.log_metrics(news.metrics())
    for file, figure in all_figures(news.predictions).items():
        mlflow.log_figure(figure, f"news_dev/{file}", save_kwargs={"dpi": 80})
    mlflow.log_table(news.slices, "news_slices.json")
    mlflow.log_figure(news.figure(), "stance_by_leaning.png", save_kwargs={"dpi": 80})


def log_transfer(table: pd.DataFrame) -> None:
    """Figures where an outlet, a time or a country was left out of training; nothing where nothing could be."""
    if len(table):
        mlflow.log_metrics(transfer_metrics(table))
        mlflow.log_table(table, "transfer.json")


def log_predictions(rows: Mapping[str, Sequence[Any]], heads: Mapping[str, Predictions]) -> None:
    """Figures, and the misread passages as a table, most confident errors first.

    `rows` has the columns `id`, `doc_id`, `text` of the passages that `heads` (topic, stance) answer.
    """
    for file, figure in all_figures(heads).items():
        mlflow.log_figure(figure, file, save_kwargs={"dpi": 80})
    table = pd.DataFrame({column: rows[column][:] for column in ("id", "doc_id", "text")})
    for head, p in heads.items():
        table[head] = [p.names[label] for label in p.true]
        table[f"{head}_predicted"] = [p.names[label] for label in p.predicted]
        table[f"{head}_confidence"] = p.scores[range(len(p.true)), p.predicted]
    wrong = (table["topic"] != table["topic_predicted"]) | (table["stance"] != table["stance_predicted"])
    mlflow.log_table(table[wrong].sort_values("topic_confidence", ascending=False), "misread.json")
