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
from mlflow.models import set_model

MANIFEST = "MANIFEST.sha256"
# The only types of ours that a saved pipeline may name; scikit-learn's and numpy's own are known to skops.
TRUSTED = [
    "training.model.encoder.SentenceEncoder",
    "training.model.heads.TwoHeads",
]


class ChangedModel(ValueError):
    """A file of the model is not the one that was registered."""


class Readings(NamedTuple):
    """One row a passage, in their order. Scores are calibrated probabilities, columns in codebook order."""

    topic: npt.NDArray[np.int64]
    topic_scores: npt.NDArray[np.float64]
    stance: npt.NDArray[np.int64]
    stance_scores: npt.NDArray[np.float64]
    abstained: npt.NDArray[np.bool_]


class Reader(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined, misc]
    """Topic and stance of passages, from the files of one model folder."""

    card: dict[str, Any]

    def load_context(self, context: Any) -> None:
        """Open the model's artifacts: `pipeline` (skops), `encoder` (folder) where one is used, `card` (JSON).

        Raises:
            ChangedModel: a file's bytes differ from the manifest written at registration.
        """
        artifacts = {name: Path(path) for name, path in context.artifacts.items()}
        check_manifest(artifacts["card"].parent.parent)
        self.card = json.loads(artifacts["card"].read_text(encoding="utf-8"))
        unknown = sorted(set(skops.io.get_untrusted_types(file=artifacts["pipeline"])) - set(TRUSTED))
        if unknown:
            raise ChangedModel(f"the pipeline names types that are not allowed: {', '.join(unknown)}")
        self.pipeline = skops.io.load(artifacts["pipeline"], trusted=TRUSTED)
        if "encoder" in artifacts:
            threads = int(os.environ.get("IMMNEWS_THREADS", "2"))
            encoder = {"model": str(artifacts["encoder"]), "threads": threads}
            self.pipeline.set_params(**{f"extract__sentences__{key}": value for key, value in encoder.items()})

    def read(self, texts: Sequence[str]) -> Readings:
        """Read passages. An `off_topic` passage is neutral whatever the stance head says (codebook, rule 8)."""
        topic_scores, stance_scores = self.pipeline.predict_proba(list(texts))
        topics = [label["name"] for label in self.card["codebook"]["topics"]]
        stances = [label["name"] for label in self.card["codebook"]["stances"]]
        topic = topic_scores.argmax(axis=1)
        stance = np.where(
            topic == topics.index("off_topic"), stances.index("neutral"), stance_scores.argmax(axis=1)
        ).astype(np.int64)
        abstained = topic_scores.max(axis=1) < self.card["threshold"]
        return Readings(topic, topic_scores, stance, stance_scores, abstained)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A frame with a string column `text` to one row a passage: topic, stance, their confidences, abstained."""
        texts = model_input["text"].tolist()
        for row, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"row {row}: text is {text!r}; every passage must be a string that is not empty")
        readings = self.read(texts) if texts else None
        columns = ["topic", "topic_confidence", "stance", "stance_confidence", "abstained"]
        if readings is None:
            return pd.DataFrame(columns=columns)
        book, rows = self.card["codebook"], np.arange(len(texts))
        values = (
            [book["topics"][i]["name"] for i in readings.topic],
            readings.topic_scores[rows, readings.topic],
            [book["stances"][i]["name"] for i in readings.stance],
            readings.stance_scores[rows, readings.stance],
            readings.abstained,
        )
        return pd.DataFrame(dict(zip(columns, values, strict=True)), index=model_input.index)


def check_manifest(folder: Path) -> None:
    """Compare every file of a model folder that its manifest (sha256sum's format) names.

    Raises:
        ChangedModel: the manifest is missing, or a file is missing or changed.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ChangedModel(f"{manifest} is missing: this is not a model that was registered whole")
    for line in manifest.read_text(encoding="utf-8").splitlines():
        expected, name = line.split("  ", 1)
        file = folder / name
        actual = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "no file"
        if actual != expected:
            raise ChangedModel(f"{file}: {actual}, registered as {expected}: this is not the model that was promoted")


set_model(Reader())
