"""What a registered model runs: it checks its own files, loads them without pickle, and reads passages."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlflow.pyfunc
import numpy as np
import numpy.typing as npt
import pandas as pd
import skops.io

from training.model.explain import Mark, explain

MANIFEST = "MANIFEST.sha256"
# The only types of ours that a saved pipeline may name; scikit-learn's and numpy's own are known to skops.
TRUSTED = [
    "training.model.columns.Columns",
    "training.model.encoder.SentenceEncoder",
    "training.model.hashed.BlindHashingVectorizer",
    "training.model.heads.TwoHeads",
]


class ChangedModel(ValueError):
    """A file of the model is not the one that was registered."""


Scores = npt.NDArray[np.float64]


class Readings(NamedTuple):
    """One row a passage, in their order. Scores are calibrated probabilities, columns in codebook order."""

    topic: npt.NDArray[np.int64]
    topic_scores: Scores
    stance: npt.NDArray[np.int64]
    stance_scores: Scores
    abstained: npt.NDArray[np.bool_]


class Reader(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined]
    """Topic and stance of passages, from the files of one model folder."""

    card: dict[str, Any]

    def load_context(self, context: Any) -> None:
        """Open the model's artifacts: `pipeline` (skops), `encoder` (folder) where one is used, `card` (JSON).

        Raises:
            ChangedModel: a file's bytes differ from the manifest written at registration.
        """
        artifacts = Path(context.artifacts["card"]).parent
        check_manifest(artifacts.parent)
        self.card = json.loads((artifacts / "card.json").read_text(encoding="utf-8"))
        self.pipeline = open_pipeline(artifacts)

    def read(self, texts: Sequence[str]) -> Readings:
        """Read any number of passages, in their order; any string is one, an empty one too."""
        topics = [label["name"] for label in self.card["codebook"]["topics"]]
        stances = [label["name"] for label in self.card["codebook"]["stances"]]
        topic_scores, stance_scores = np.zeros((0, len(topics))), np.zeros((0, len(stances)))
        if len(texts):
            topic_scores, stance_scores = self.pipeline.predict_proba(list(texts))
        off_topic, neutral = topics.index("off_topic"), stances.index("neutral")
        topic, stance = choose_labels(topic_scores, stance_scores, off_topic, neutral)
        abstained = topic_scores.max(axis=1) < self.card["threshold"]
        return Readings(topic, topic_scores, stance, stance_scores, abstained)

    def explain(self, texts: Sequence[str], readings: Readings) -> list[list[list[Mark]]]:
        """Of each passage the phrases that moved its topic and its stance, as `read` gave them (see `explain`)."""
        pairs = zip(readings.topic.tolist(), readings.stance.tolist(), strict=True)
        return [explain(self.pipeline, text, labels) for text, labels in zip(texts, pairs, strict=True)]

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A frame with a string column `text` to one row a passage: topic, stance, their confidences, abstained."""
        texts = model_input["text"].tolist()
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"row {row}: text is {text!r}; every passage must be a string")
        readings, book, rows = self.read(texts), self.card["codebook"], np.arange(len(texts))
        return pd.DataFrame(
            {
                "topic": pd.Series([book["topics"][i]["name"] for i in readings.topic], dtype="str"),
                "topic_confidence": readings.topic_scores[rows, readings.topic],
                "stance": pd.Series([book["stances"][i]["name"] for i in readings.stance], dtype="str"),
                "stance_confidence": readings.stance_scores[rows, readings.stance],
                "abstained": readings.abstained,
            }
        ).set_index(model_input.index)


def open_pipeline(artifacts: Path) -> Any:
    """The fitted pipeline of a model's `artifacts` folder, with the encoder that lies there too, where it has one.

    Raises:
        ChangedModel: the file names types other than scikit-learn's, numpy's and `TRUSTED`; none is built.
    """
    file, encoder = artifacts / "pipeline.skops", artifacts / "encoder"
    unknown = sorted(set(skops.io.get_untrusted_types(file=file)) - set(TRUSTED))
    if unknown:
        raise ChangedModel(f"the pipeline names types that are not allowed: {', '.join(unknown)}")
    pipeline = skops.io.load(file, trusted=TRUSTED)
    if encoder.is_dir():
        threads = int(os.environ.get("IMMNEWS_THREADS", "2"))
        pipeline.set_params(extract__sentences__model=str(encoder), extract__sentences__threads=threads)
        pipeline.get_params()["extract__sentences"].hold_open()
    return pipeline


def choose_labels(
    topic_scores: Scores, stance_scores: Scores, off_topic: int, neutral: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The most probable topic and stance of each passage; an off-topic one is neutral, as the codebook has it.

    `off_topic` and `neutral` are positions in the codebook.
    """
    topic = topic_scores.argmax(axis=1)
    return topic, np.where(topic == off_topic, neutral, stance_scores.argmax(axis=1))


def model_files(folder: Path) -> list[str]:
    """The files of a model folder that a manifest lists, as sorted relative POSIX paths.

    Left out are the manifest, MLflow's note of the registered name, and the byte code that Python leaves on import.
    """
    files = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    own = {MANIFEST, "registered_model_meta"}
    return sorted(file.as_posix() for file in files if file.as_posix() not in own and "__pycache__" not in file.parts)


def sha256(path: Path) -> str:
    """Digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_manifest(folder: Path) -> None:
    """Hold every file of a model folder against its manifest (sha256sum's format).

    Raises:
        ChangedModel: the manifest is missing, or a file is missing, changed or not listed.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ChangedModel(f"{manifest} is missing: this is not a model that was registered whole")
    listed = {}
    for line in manifest.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    for name in sorted({*listed, *model_files(folder)}):
        file = folder / name
        expected, actual = listed.get(name, "no such file"), sha256(file) if file.is_file() else "no such file"
        if actual != expected:
            raise ChangedModel(
                f"{file} is not as it was registered: sha256 {actual}, registered {expected}; restore the file, "
                "or `make train` for a new version"
            )
