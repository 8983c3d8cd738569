"""How a fitted candidate becomes a self-contained MLflow model: data files, the code that reads them, a manifest."""

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import skops.io
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from sklearn.pipeline import Pipeline

from training.model.encoder import SentenceEncoder, resolve_encoder
from training.model.reader import MANIFEST, model_files, sha256

MODEL_CODE = Path(__file__).parent / "model"
REQUIREMENTS = ("mlflow", "numpy", "onnxruntime", "pandas", "scikit-learn", "scipy", "skops", "tokenizers")
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string", "text")]),
    outputs=Schema(
        [
            ColSpec("string", "topic"),
            ColSpec("double", "topic_confidence"),
            ColSpec("string", "stance"),
            ColSpec("double", "stance_confidence"),
            ColSpec("boolean", "abstained"),
        ]
    ),
)


def save_files(pipeline: Pipeline, folder: Path) -> dict[str, Path]:
    """Write what a fitted pipeline needs to answer: `pipeline` (skops) and, where it encodes, the `encoder` folder."""
    files = {"pipeline": folder / "pipeline.skops"}
    skops.io.dump(pipeline, files["pipeline"])
    for _, part in pipeline["extract"].transformer_list:
        if isinstance(part, SentenceEncoder):
            files["encoder"] = folder / "encoder"
            files["encoder"].mkdir()
            found = resolve_encoder(part.model)
            shutil.copyfile(found.model, files["encoder"] / "model.onnx")
            shutil.copyfile(found.tokenizer, files["encoder"] / "tokenizer.json")
    return files


def size_of(files: Mapping[str, Path]) -> int:
    """Bytes of all files, folders included."""
    paths = [path for root in files.values() for path in ([root] if root.is_file() else root.rglob("*"))]
    return sum(path.stat().st_size for path in paths)


def log_model(pipeline: Pipeline, card: Mapping[str, Any], card_text: str, name: str) -> tuple[str, str]:
    """Log the model in the active run; gives its `models:/` address and the SHA-256 of its manifest.

    The manifest lists the digest of every other file, MLmodel and code included, in the format of sha256sum.
    """
    with tempfile.TemporaryDirectory(prefix="immigration-news-") as scratch:
        folder = Path(scratch)
        artifacts = save_files(pipeline, folder)
        artifacts["card"] = folder / "card.json"
        artifacts["card"].write_text(json.dumps(card, indent=1, sort_keys=True), encoding="utf-8")
        artifacts["model_card"] = folder / "MODEL_CARD.md"
        artifacts["model_card"].write_text(card_text, encoding="utf-8")
        with warnings.catch_warnings():
            # An input example would run the model before its manifest is there, and need not: the signature is given.
            warnings.filterwarnings("ignore", message=".*An input example was not provided", category=UserWarning)
            info = mlflow.pyfunc.log_model(
                name=name,
                python_model=str(MODEL_CODE / "entry.py"),
                artifacts={key: str(path) for key, path in artifacts.items()},
                code_paths=[str(_code(folder))],
                pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in REQUIREMENTS],
                signature=SIGNATURE,
            )
        logged = Path(mlflow.artifacts.download_artifacts(info.model_uri, dst_path=str(folder / "logged")))
        lines = [f"{sha256(logged / file)}  {file}\n" for file in model_files(logged)]
        manifest = folder / MANIFEST
        manifest.write_text("".join(lines), encoding="utf-8")
        MlflowClient().log_model_artifact(info.model_id, str(manifest))
        return info.model_uri, hashlib.sha256(manifest.read_bytes()).hexdigest()


def _code(folder: Path) -> Path:
    """A copy of the package `training` that holds nothing but what a model needs."""
    code = folder / "training"
    shutil.copytree(MODEL_CODE, code / "model", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(MODEL_CODE.parent / "__init__.py", code / "__init__.py")
    return code
