"""What a registered version answers: its files are checked first, and its own code runs in a process of its own."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from training.model.reader import MANIFEST, ChangedModel, check_manifest, sha256

ANSWER = """
import sys, mlflow.pyfunc, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
model.predict(pd.read_json(sys.argv[2], dtype=False)).to_json(sys.argv[3])
"""


@contextmanager
def verified(version: ModelVersion) -> Iterator[Path]:
    """A temporary copy of a version's files, held against the digest in its tags before anything of it is run.

    Raises:
        ChangedModel: a file is missing, changed or added, or the version was never registered whole.
    """
    with tempfile.TemporaryDirectory(prefix="immigration-news-") as scratch:
        address = f"models:/{version.name}/{version.version}"
        folder = Path(mlflow.artifacts.download_artifacts(address, dst_path=scratch))
        manifest, expected = folder / MANIFEST, version.tags.get("manifest")
        actual = sha256(manifest) if manifest.is_file() else None
        if expected is None or actual != expected:
            raise ChangedModel(
                f"{version.name} version {version.version}: {MANIFEST} has sha256 {actual}, registered was {expected}; "
                "`make train` for a new version, or `make rollback` to another"
            )
        check_manifest(folder)
        yield folder


def answers(version: ModelVersion, folder: Path, texts: Sequence[str]) -> pd.DataFrame:
    """One row a text, in order, as the `predict` of a version gives them whose verified files lie in `folder`.

    Raises:
        ChangedModel: the version's code does not run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch) / "texts.json", Path(scratch) / "answers.json"
        pd.DataFrame({"text": list(texts)}).to_json(asked)
        command = [sys.executable, "-c", ANSWER, str(folder), str(asked), str(answered)]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ChangedModel(f"{version.name} version {version.version} does not run: {reason}")
        return pd.read_json(answered, dtype=False)
