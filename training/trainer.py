"""One candidate after the other: search, fit, evaluation and what MLflow is told, on data that all of them share."""

import os
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
from datasets import Dataset, DatasetDict, concatenate_datasets
from sklearn.pipeline import Pipeline

from data.codebook import NEUTRAL, OFF_TOPIC, load_codebook
from data.corpora import load_bundled
from training import tracking
from training.cache import EmbeddingCache
from training.evaluation import Labels, Report, best_temperature, confusion_matrix, coverage_threshold, macro_f1, report
from training.experiment import Candidate, Experiment
from training.extraction import Extractor, Texts
from training.figures import Predictions
from training.held_out import NewsReport, held_out_texts, news_report
from training.model.heads import Probabilities
from training.model.reader import choose_labels
from training.packaging import save_files, size_of
from training.search import HEADS, Found, grouped_folds, search
from training.transfer import left_out, transfer
from training.words import strongest_words

CACHE = "embeddings.sqlite"  # in the folder IMMNEWS_CACHE
CALIBRATING = 200  # passages that a validation split must hold to calibrate a model
TIMED = 128  # passages of the bundled corpus, read from their text to measure the scoring rate


@dataclass(frozen=True)
class Part:
    """One split, as the training reads it. `y` holds topic and stance positions, shape (passages, 2)."""

    rows: Dataset
    texts: Texts
    y: Labels
    documents: list[str]


@dataclass(frozen=True)
class Trained:
    """A candidate after search and fit."""

    candidate: Candidate
    found: Found
    pipeline: Pipeline
    reports: dict[str, dict[str, Report]]  # evaluation → head → figures
    part: Part  # what it was searched and fitted on
    news: NewsReport | None
    run_id: str
    validated: int  # passages of the validation split that it could read

    @property
    def mean_f1(self) -> float:
        """What the winner has most of: the mean over heads of macro-F1 on the validation split.

        Not the cross-validated one: an encoder may have learnt the labels of the training split.
        """
        return float(np.mean([figures.macro_f1.value for figures in self.reports["validation"].values()]))


class Trainer:
    """One run of one experiment: the data, the folds and the extracted features that all candidates share."""

    def __init__(self, experiment: Experiment, dataset: DatasetDict) -> None:
        self.experiment = experiment
        self.jobs = int(os.environ.get("IMMNEWS_THREADS", "2"))
        self.codebook = load_codebook()
        self.parts = {split: part_of(rows) for split, rows in dataset.items()}
        self.held_out = held_out_texts("dev"), held_out_texts("external")
        self.timed = load_bundled()["text"][:TIMED]
        self.extractor = Extractor(EmbeddingCache(Path(os.environ.get("IMMNEWS_CACHE", ".cache")) / CACHE))

    def train(self, candidate: Candidate) -> Trained:
        """Search, fit and evaluate one candidate in a child run of the active run; the test split stays unread."""
        experiment = self.experiment
        with mlflow.start_run(run_name=candidate.name, nested=True) as run:
            pipeline = candidate.build()
            train, validation = (self.readable(pipeline, self.parts[split]) for split in ("train", "validation"))
            folds = grouped_folds(train.y, np.array(train.documents), experiment.folds, experiment.seed)
            weight = self.weight(train)
            rows = self.extractor.rows(pipeline, train.texts)
            found = search(candidate, rows, train.y, weight, folds, self.jobs)
            tracking.log_context(self.experiment)
            tracking.log_choice(candidate, found, self.experiment)

            pipeline.set_params(**found.params)
            started = time.perf_counter()
            features = pipeline["weigh"].fit_transform(rows)
            pipeline["heads"].fit(features, train.y, sample_weight=weight)
            mlflow.log_metric("cost/fit_seconds", time.perf_counter() - started)
            self._calibrate(pipeline, validation)
            self._log_cost(pipeline)

            out_of_fold, _ = self.evaluate(train, [found.scores["topic"], found.scores["stance"]])
            on_validation, heads = self.evaluate(validation, self.scores(pipeline, validation.texts))
            reports = {"cross_validation": out_of_fold, "validation": on_validation}
            for name, figures in reports.items():
                tracking.log_reports(name, figures)
            mlflow.log_metrics(self._by_corpus(train, found))
            tracking.log_predictions(validation.rows, heads)
            words = strongest_words(pipeline, train.texts, features, train.y, self.codebook.names)
            mlflow.log_table(words, "strongest_words.json")
            mlflow.log_metrics({"data/train_passages": len(train.texts), "data/validated": len(validation.texts)})
            news = self.news(pipeline)
            if news is not None:
                reports["news_dev"] = news.reports
                tracking.log_news(news)
            trained = Trained(
                candidate, found, pipeline, reports, train, news, run.info.run_id, len(validation.texts)
            )  # fmt: skip
            mlflow.log_metric("validation/mean_macro_f1", trained.mean_f1)
            return trained

    def readable(self, pipeline: Pipeline, part: Part) -> Part:
        """The passages that a pipeline can read: all of them, unless it needs texts that are not there."""
        usable = self.extractor.usable(pipeline, part.texts)
        return part if usable.all() else part_of(part.rows.select(np.flatnonzero(usable)))

    def news(self, pipeline: Pipeline) -> NewsReport | None:
        """Its figures on held-out real news; None for a candidate that needs texts which may not be shipped."""
        if not all(self.extractor.usable(pipeline, texts).all() for texts in self.held_out):
            return None
        scores, external = (self.scores(pipeline, texts) for texts in self.held_out)
        return news_report(self._labels(scores), scores, external[1], self.experiment.resamples, self.experiment.seed)

    def scores(self, pipeline: Pipeline, texts: Texts) -> list[Probabilities]:
        """Calibrated probabilities of topic and stance, (passages, labels) each."""
        rows = self.extractor.rows(pipeline, texts)
        return list(pipeline["heads"].predict_proba(pipeline["weigh"].transform(rows)))

    def _labels(self, scores: Sequence[Probabilities]) -> tuple[Labels, Labels]:
        topics, stances = self.codebook.topic_names, self.codebook.stance_names
        return choose_labels(scores[0], scores[1], topics.index(OFF_TOPIC), stances.index(NEUTRAL))

    def labels(self, pipeline: Pipeline, part: Part) -> Labels:
        """Its answers, shape (passages, 2): topic and stance."""
        return np.stack(self._labels(self.scores(pipeline, part.texts)), axis=1)

    def evaluate(self, part: Part, scores: Sequence[Probabilities]) -> tuple[dict[str, Report], dict[str, Predictions]]:
        """Reports and predictions by head, from the probabilities of a part."""
        experiment, labels = self.experiment, self._labels(scores)
        heads = {
            head: Predictions(part.y[:, column], labels[column], scores[column], names)
            for column, (head, names) in enumerate(self.codebook.names.items())
        }
        reports = {
            head: report(p.true, p.predicted, p.scores, part.documents, p.names, experiment.resamples, experiment.seed)
            for head, p in heads.items()
        }
        return reports, heads

    def transfer(self, trained: Trained) -> pd.DataFrame:
        """How the candidate does on what it is fitted without: see `transfer`."""
        pipeline = trained.candidate.build().set_params(**trained.found.params)
        rows = concatenate_datasets([self.parts["train"].rows, self.parts["validation"].rows])
        part = self.readable(pipeline, part_of(rows))
        validating = np.isin(part.texts.sha1s, self.parts["validation"].texts.sha1s)
        features = self.extractor.rows(pipeline, part.texts)
        parts = left_out(part.texts.sha1s, part.documents, validating)
        return transfer(pipeline, features, part.y, self.weight(part), parts, self.jobs)

    def weight(self, part: Part) -> npt.NDArray[np.float64]:
        """How much each passage of a part counts, by its corpus."""
        return np.array([self.experiment.weights.get(corpus, 1.0) for corpus in part.rows["corpus"]])

    def _by_corpus(self, part: Part, found: Found) -> dict[str, float]:
        """Cross-validated macro-F1 of each corpus by itself, where there are several."""
        corpora, out = np.array(part.rows["corpus"]), {}
        for name in self.experiment.corpora if len(self.experiment.corpora) > 1 else ():
            own = np.flatnonzero(corpora == name)
            called = re.sub(r"[^\w.-]", "_", name)  # a path has signs that MLflow does not take
            for column, (head, scores) in enumerate(found.scores.items()):
                if len(own):
                    confusion = confusion_matrix(part.y[own, column], scores[own].argmax(axis=1), scores.shape[1])
                    out[f"cross_validation/{called}/{head}/macro_f1"] = float(macro_f1(confusion))
        return out

    def _calibrate(self, pipeline: Pipeline, validation: Part) -> None:
        """Temperatures by the validation split, where it is large enough: out of fold, an encoder that was taught by
        labels of the training split makes the heads look surer than they may be."""
        if len(validation.texts) < CALIBRATING:
            return
        pipeline.set_params(heads__topic_temperature=1.0, heads__stance_temperature=1.0)
        weight = self.weight(validation)
        for column, (head, scores) in enumerate(zip(HEADS, self.scores(pipeline, validation.texts), strict=True)):
            temperature = best_temperature(validation.y[:, column], scores, weight)
            pipeline.set_params(**{f"heads__{head}_temperature": temperature})
            mlflow.log_metric(f"calibration/{head}_temperature", temperature)

    def threshold(self, trained: Trained) -> float:
        """The topic confidence under which the model abstains, from the split that calibrated it."""
        validation = self.readable(trained.pipeline, self.parts["validation"])
        if len(validation.texts) < CALIBRATING:
            scores, true = trained.found.scores["topic"], trained.part.y[:, 0]
        else:
            scores, true = self.scores(trained.pipeline, validation.texts)[0], validation.y[:, 0]
        return coverage_threshold(scores.argmax(axis=1) == true, scores.max(axis=1), self.experiment.precision)

    def _log_cost(self, pipeline: Pipeline) -> None:
        """Scoring rate from text to answer, nothing cached, and the size of the files that an answer needs."""
        pipeline.predict(self.timed[:2])  # opens the encoder
        started = time.perf_counter()
        pipeline.predict(self.timed)
        rate = len(self.timed) / (time.perf_counter() - started)
        with tempfile.TemporaryDirectory() as scratch:
            megabytes = size_of(save_files(pipeline, Path(scratch))) / 1e6
        mlflow.log_metrics({"cost/passages_per_second": rate, "cost/artifact_megabytes": megabytes})


def part_of(rows: Dataset) -> Part:
    """Rows of a loaded corpus, as the training reads them."""
    y: npt.NDArray[np.int64] = np.stack([rows["topic"][:], rows["stance"][:]], axis=1)
    return Part(rows, Texts(rows["text"][:], rows["sha1"][:]), y, list(rows["doc_id"]))
