"""From a chosen winner to a registered version: its one reading of the test split, its card, and the gate's verdict."""

import sys

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from training import gate, registry, tracking
from training.champion import answers, verified
from training.evaluation import Labels, abstention
from training.model.reader import ChangedModel, open_pipeline
from training.model_card import as_markdown, make_card, quality
from training.packaging import log_model
from training.trainer import Part, Trained, Trainer, part_of


def register_and_judge(client: MlflowClient, trainer: Trainer, winner: Trained, data_digest: str) -> str:
    """Register the winner, and promote it if the gate lets it pass; says in words what came of it."""
    experiment, parts = trainer.experiment, trainer.parts
    # The one time that the test split is read: for the report on a winner that is already chosen.
    on_test, answered = trainer.evaluate(parts["test"], trainer.scores(winner.pipeline, parts["test"].texts))
    threshold, topic = trainer.threshold(winner), answered["topic"]
    abstained = abstention(topic.true, topic.predicted, topic.scores.max(axis=1), threshold)
    card = make_card(
        candidate=winner.candidate.name,
        experiment=experiment.name,
        data_digest=data_digest,
        training=f"Corpora: {', '.join(experiment.corpora)}. Passages: {len(winner.part.texts):,} train, "
        f"{len(parts['validation'].texts):,} validation, {len(parts['test'].texts):,} test; no document in two splits.",
        threshold=threshold,
        abstention=abstained,
        measured=quality({**winner.reports, "test": on_test}),
        held_out=winner.news.summary() if winner.news else {},
    )
    with mlflow.start_run(run_id=winner.run_id, nested=True):
        tracking.log_reports("test", on_test)
        tracking.log_transfer(trainer.transfer(winner))
        mlflow.log_metrics({"test/threshold": threshold, **{f"test/{key}": value for key, value in abstained.items()}})
        uri, manifest = log_model(winner.pipeline, card, as_markdown(card), winner.candidate.name)
    present = registry.champion(client)
    verdict = _judge(trainer, winner, present)
    tags = {
        "data_digest": data_digest,
        "codebook": trainer.codebook.version,
        "candidate": winner.candidate.name,
        "experiment": experiment.name,
        "git.commit": card["git_commit"],
        **verdict.tags(),
        **{f"test_{head}_macro_f1": str(figures.macro_f1) for head, figures in on_test.items()},
    }
    version = str(registry.register(client, uri, winner.run_id, manifest, tags, as_markdown(card)).version)
    # Another training may have promoted its own meanwhile: the winner must not be worse than that one either.
    while verdict.passed and registry.number(latest := registry.champion(client)) != registry.number(present):
        present, verdict = latest, _judge(trainer, winner, latest)
        for name, value in verdict.tags().items():
            client.set_model_version_tag(registry.MODEL, version, name, value)
    figures = ", ".join(f"{head} macro-F1 {figures.macro_f1}" for head, figures in on_test.items())
    won = f"winner {winner.candidate.name}: version {version}; test split: {figures}"
    if verdict.passed:
        registry.promote(client, version, verdict.reasons[0])
        return f"{won}\npromoted to {registry.CHAMPION}: {verdict.reasons[0]}"
    stays = f"version {present.version} stays {registry.CHAMPION}" if present else "there is no champion yet"
    return f"{won}\nnot promoted ({stays}): {'; '.join(verdict.reasons)}"


def _judge(trainer: Trainer, winner: Trained, present: ModelVersion | None) -> gate.Verdict:
    experiment, book = trainer.experiment, trainer.codebook
    reports = winner.reports["validation"]
    if present is None:
        return gate.judge(experiment.gate, reports)
    try:
        part, theirs = _answers_of(trainer, winner, present)
    except ChangedModel as error:
        # A champion that cannot be trusted cannot defend its place.
        print(f"the champion could not be compared: {error}", file=sys.stderr)
        return gate.judge(experiment.gate, reports)
    ours = trainer.labels(winner.pipeline, part)
    sizes = (len(book.topic_names), len(book.stance_names))
    difference = gate.compare(part.y, ours, theirs, part.documents, sizes, experiment.resamples, experiment.seed)
    return gate.judge(experiment.gate, reports, difference, str(present.version))


def _answers_of(trainer: Trainer, winner: Trained, version: ModelVersion) -> tuple[Part, Labels]:
    """The validation passages that a version and the winner both can read, and the version's answers, (passages, 2).

    A version whose pipeline this code cannot run answers with its own code, on the passages that come with their texts.
    """
    part, book = trainer.readable(winner.pipeline, trainer.parts["validation"]), trainer.codebook
    with verified(version) as folder:
        try:
            pipeline = open_pipeline(folder / "artifacts")
            part = trainer.readable(pipeline, part)
            return part, trainer.labels(pipeline, part)
        except (AttributeError, TypeError, KeyError, ValueError, ImportError):
            part = part_of(part.rows.filter(lambda row: row["text"] is not None))
            frame = answers(version, folder, part.rows["text"][:])
    return part, np.stack([[names.index(label) for label in frame[head]] for head, names in book.names.items()], axis=1)
