"""The main job: train and compare every candidate of an experiment, register the winner, and let the gate decide.

python -m training.run experiments/default.toml
"""

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
from datasets import Dataset, DatasetDict
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from data.codebook import NEUTRAL, OFF_TOPIC, load_codebook
from data.corpora import UnknownCorpus, load_corpora
from data.files import UnreadableFile
from data.passages import InvalidPassages
from data.splits import LeakingSplits, describe_split, digest, refuse_near_duplicates
from training import gate, registry, tracking
from training.cache import EmbeddingCache
from training.evaluation import Labels, Report, coverage_threshold, report
from training.experiment import DEFAULT, Candidate, Experiment, InvalidExperiment, read_experiment
from training.extraction import Extractor
from training.figures import Predictions
from training.leaderboard import leaderboard
from training.model.heads import Probabilities
from training.model.reader import ChangedModel, choose_labels
from training.model_card import as_markdown, make_card, quality
from training.packaging import log_model, save_files, size_of
from training.search import Found, grouped_folds, search
from training.words import strongest_words

CACHE = "embeddings.sqlite"  # in the folder IMMNEWS_CACHE
TIMED = 128  # passages read from their text to measure the scoring rate


@dataclass(frozen=True)
class Part:
    """One split, as the training reads it. `y` holds topic and stance positions, shape (passages, 2)."""

    rows: Dataset
    texts: list[str]
    y: Labels
    documents: list[str]


@dataclass(frozen=True)
class Trained:
    """A candidate after search and fit."""

    candidate: Candidate
    found: Found
    pipeline: Pipeline
    reports: dict[str, dict[str, Report]]  # evaluation → head → figures
    validation: Labels  # predicted topic and stance, shape (passages, 2)
    run_id: str


class Trainer:
    """One run of one experiment: the data, the folds and the extracted features that all candidates share."""

    def __init__(self, experiment: Experiment, dataset: DatasetDict) -> None:
        self.experiment = experiment
        self.jobs = int(os.environ.get("IMMNEWS_THREADS", "2"))
        self.codebook = load_codebook()
        self.parts = {split: _part(rows) for split, rows in dataset.items()}
        train = self.parts["train"]
        self.folds = grouped_folds(train.y, np.array(train.documents), experiment.folds, experiment.seed)
        self.weight = np.array([experiment.weights.get(corpus, 1.0) for corpus in train.rows["corpus"]])
        self.extractor = Extractor(EmbeddingCache(Path(os.environ.get("IMMNEWS_CACHE", ".cache")) / CACHE))

    def train(self, candidate: Candidate) -> Trained:
        """Search, fit and evaluate one candidate in a child run of the active run; the test split stays unread."""
        train, validation = self.parts["train"], self.parts["validation"]
        with mlflow.start_run(run_name=candidate.name, nested=True) as run:
            pipeline = candidate.build()
            rows = self.extractor.rows(pipeline, train.texts)
            found = search(candidate, rows, train.y, self.weight, self.folds, self.jobs)
            tracking.log_context(self.experiment)
            tracking.log_choice(candidate, found, self.experiment)

            pipeline.set_params(**found.params)
            started = time.perf_counter()
            pipeline["heads"].fit(pipeline["weigh"].fit_transform(rows), train.y, sample_weight=self.weight)
            mlflow.log_metric("cost/fit_seconds", time.perf_counter() - started)
            self._log_cost(pipeline, validation.texts)

            out_of_fold, _ = self._evaluate(train, [found.scores["topic"], found.scores["stance"]])
            on_validation, heads = self._evaluate(validation, self._scores(pipeline, validation))
            reports = {"cross_validation": out_of_fold, "validation": on_validation}
            for name, figures in reports.items():
                tracking.log_reports(name, figures)
            tracking.log_predictions(validation.rows, heads)
            names = {"topic": self.codebook.topic_names, "stance": self.codebook.stance_names}
            mlflow.log_table(strongest_words(pipeline, train.texts, names), "strongest_words.json")
            labels = np.stack([heads["topic"].predicted, heads["stance"].predicted], axis=1)
            return Trained(candidate, found, pipeline, reports, labels, run.info.run_id)

    def finish(self, client: MlflowClient, winner: Trained, data_digest: str) -> str:
        """Register the winner and let the gate decide; says in words what came of it."""
        experiment, test, validation = self.experiment, self.parts["test"], self.parts["validation"]
        present = registry.champion(client)
        verdict = self._judge(winner, present)
        # The one time that the test split is read: for the report on a winner that is already chosen.
        on_test, _ = self._evaluate(test, self._scores(winner.pipeline, test))
        reports = {**winner.reports, "test": on_test}
        card = make_card(
            winner.candidate.name, experiment.name, data_digest, self._threshold(winner), quality(reports),
            f"{len(self.parts['train'].texts)} passages of {len(set(self.parts['train'].documents))} documents; "
            f"corpora: {', '.join(experiment.corpora)}; "
            f"{len(validation.texts)} passages for validation and {len(test.texts)} for test.",
        )  # fmt: skip
        with mlflow.start_run(run_id=winner.run_id, nested=True):
            tracking.log_reports("test", on_test)
            mlflow.log_metric("threshold", card["threshold"])
            uri, manifest = log_model(winner.pipeline, card, as_markdown(card), winner.candidate.name)
        tags = {
            "data_digest": data_digest, "codebook": self.codebook.version, "candidate": winner.candidate.name,
            "experiment": experiment.name, "git.commit": card["git_commit"], **verdict.tags(),
            **{f"test_{head}_macro_f1": str(figures.macro_f1) for head, figures in on_test.items()},
        }  # fmt: skip
        version = str(registry.register(client, uri, winner.run_id, manifest, tags).version)
        client.update_model_version(registry.MODEL, version, description=as_markdown(card))
        test_line = ", ".join(f"{head} macro-F1 {figures.macro_f1}" for head, figures in on_test.items())
        won = f"winner {winner.candidate.name}: version {version}; test split: {test_line}"
        if verdict.passed:
            registry.promote(client, version, verdict.reasons[0])
            return f"{won}\npromoted to {registry.CHAMPION}: {verdict.reasons[0]}"
        stays = f"version {present.version} stays {registry.CHAMPION}" if present else "there is no champion yet"
        return f"{won}\nnot promoted ({stays}): {'; '.join(verdict.reasons)}"

    def _judge(self, winner: Trained, present: ModelVersion | None) -> gate.Verdict:
        experiment, part = self.experiment, self.parts["validation"]
        if present is None:
            return gate.judge(experiment.gate, winner.reports["validation"])
        try:
            champion = self._labels_of(present, part.texts)
        except ChangedModel as error:
            # A champion that cannot be trusted cannot defend its place.
            print(f"the champion could not be compared: {error}", file=sys.stderr)
            return gate.judge(experiment.gate, winner.reports["validation"])
        sizes = (len(self.codebook.topic_names), len(self.codebook.stance_names))
        difference = gate.compare(
            part.y, winner.validation, champion, part.documents, sizes, experiment.resamples, experiment.seed
        )
        return gate.judge(experiment.gate, winner.reports["validation"], difference, str(present.version))

    def _labels_of(self, version: ModelVersion, texts: Sequence[str]) -> Labels:
        """A registered version's answers, shape (passages, 2), from a process that runs the version's own code."""
        code = (
            "import sys, mlflow.pyfunc, pandas as pd; "
            "model = mlflow.pyfunc.load_model(sys.argv[1]); "
            "model.predict(pd.read_json(sys.argv[2], dtype=False)).to_json(sys.argv[3])"
        )
        with registry.verified(version) as folder, tempfile.TemporaryDirectory() as scratch:
            asked, answered = Path(scratch) / "texts.json", Path(scratch) / "labels.json"
            pd.DataFrame({"text": texts}).to_json(asked)
            command = [sys.executable, "-c", code, str(folder), str(asked), str(answered)]
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise ChangedModel(f"version {version.version} does not run: {reason}")
            frame = pd.read_json(answered, dtype=False)
        columns = (("topic", self.codebook.topic_names), ("stance", self.codebook.stance_names))
        return np.stack([[names.index(label) for label in frame[head]] for head, names in columns], axis=1)

    def _scores(self, pipeline: Pipeline, part: Part) -> list[Probabilities]:
        rows = self.extractor.rows(pipeline, part.texts)
        return list(pipeline["heads"].predict_proba(pipeline["weigh"].transform(rows)))

    def _evaluate(
        self, part: Part, scores: Sequence[Probabilities]
    ) -> tuple[dict[str, Report], dict[str, Predictions]]:
        book, experiment = self.codebook, self.experiment
        off_topic, neutral = book.topic_names.index(OFF_TOPIC), book.stance_names.index(NEUTRAL)
        labels = choose_labels(scores[0], scores[1], off_topic, neutral)
        heads = {
            head: Predictions(part.y[:, column], labels[column], scores[column], names)
            for column, (head, names) in enumerate((("topic", book.topic_names), ("stance", book.stance_names)))
        }
        reports = {
            head: report(p.true, p.predicted, p.scores, part.documents, p.names, experiment.resamples, experiment.seed)
            for head, p in heads.items()
        }
        return reports, heads

    def _threshold(self, trained: Trained) -> float:
        """The topic confidence under which the model abstains, from out-of-fold predictions."""
        scores, true = trained.found.scores["topic"], self.parts["train"].y[:, 0]
        return coverage_threshold(scores.argmax(axis=1) == true, scores.max(axis=1), self.experiment.precision)

    def _log_cost(self, pipeline: Pipeline, texts: Sequence[str]) -> None:
        """Scoring rate from text to answer, nothing cached, and the size of the files that an answer needs."""
        timed = list(texts[:TIMED])
        pipeline.predict(timed[:2])  # opens the encoder
        started = time.perf_counter()
        pipeline.predict(timed)
        rate = len(timed) / (time.perf_counter() - started)
        with tempfile.TemporaryDirectory() as scratch:
            megabytes = size_of(save_files(pipeline, Path(scratch))) / 1e6
        mlflow.log_metrics({"cost/passages_per_second": rate, "cost/artifact_megabytes": megabytes})


def _part(rows: Dataset) -> Part:
    y: npt.NDArray[np.int64] = np.stack([rows["topic"][:], rows["stance"][:]], axis=1)
    return Part(rows, list(rows["text"]), y, list(rows["doc_id"]))


def run(experiment: Experiment) -> str:
    """Run an experiment; gives the ID of its parent run. Prints progress, the leaderboard and the outcome."""
    dataset = load_corpora(experiment.corpora)
    refuse_near_duplicates(dataset)
    split, data_digest = describe_split(dataset), digest(dataset)
    client = registry.connect()
    with mlflow.start_run(run_name=experiment.name) as parent:
        mlflow.set_tags({"role": "experiment", "data_digest": data_digest})
        mlflow.log_dict(split, "split.json")
        mlflow.log_params({f"split.{name}": counts["passages"] for name, counts in split.items()})
        tracking.log_context(experiment)
        tracking.log_data(dataset, experiment)
        trainer = Trainer(experiment, dataset)
        trained = []
        for number, candidate in enumerate(experiment.candidates, start=1):
            print(f"[{number}/{len(experiment.candidates)}] {candidate.name}", flush=True)
            trained.append(trainer.train(candidate))
        winner = max(trained, key=lambda one: one.found.mean_f1)
        mlflow.set_tag("winner", winner.candidate.name)
        outcome = trainer.finish(client, winner, data_digest)
        mlflow.set_tag("outcome", outcome)
        board = leaderboard(parent.info.run_id)
        mlflow.log_text(str(board), "leaderboard.txt")
    print(f"\n{board}")
    return str(parent.info.run_id)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m training.run [EXPERIMENT]`; 0 when the experiment ran, whatever the gate decided, 2 on bad input."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("experiment", nargs="?", type=Path, default=DEFAULT)
    path = parser.parse_args(arguments).experiment
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with threadpool_limits(1):  # same sums, whatever the machine; the cross-validation works in processes
            run(read_experiment(path))
    except (InvalidExperiment, UnknownCorpus, UnreadableFile, InvalidPassages, LeakingSplits) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: what was encoded is kept, no version was promoted; run it again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
