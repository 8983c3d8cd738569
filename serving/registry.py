"""Where the champion comes from: MLflow's registry, read without creating anything there."""

import os
from pathlib import Path
from typing import NamedTuple

import mlflow
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

NAME = "immigration-news"
ALIAS = "champion"
DEFAULT_URI = "sqlite:///mlflow.db"


class NoChampion(Exception):
    """There is no usable champion in the registry; the message says where was looked, and the remedy."""


class Champion(NamedTuple):
    """One registered version, and what the registry says of it (all text, digests in hexadecimal)."""

    version: str
    run_id: str
    manifest: str
    data_digest: str
    codebook: str


def tracking_uri() -> str:
    """MLflow's own variable, or the store of the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def champion() -> Champion:
    """The version behind alias `champion`.

    Raises:
        NoChampion: no database, model or alias; the registry cannot be read; the version carries no manifest digest.
    """
    uri = tracking_uri()
    # MLflow would create the database that it does not find.
    if uri.startswith("sqlite:") and not Path(make_url(uri).database or "").is_file():
        raise NoChampion(f"no champion yet: {uri} does not exist; run `make train` first")
    mlflow.set_tracking_uri(uri)
    try:
        version = mlflow.MlflowClient().get_model_version_by_alias(NAME, ALIAS)
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise NoChampion(f"no champion of {NAME} in {uri} ({reason}); run `make train` first") from error
    if "manifest" not in version.tags:
        raise NoChampion(
            f"version {version.version} of {NAME} in {uri} has no tag `manifest`, so its files cannot be checked; "
            "run `make train` to register one that can"
        )
    tags = {field: version.tags.get(field, "") for field in ("run_id", "manifest", "data_digest", "codebook")}
    return Champion(version=str(version.version), **tags)


def download(version: str, folder: Path) -> Path:
    """Copy a version's files as they lie, unchecked; nothing of them runs.

    Raises:
        NoChampion: the registry names the version, but its files are gone.
    """
    try:
        return Path(download_artifacts(f"models:/{NAME}/{version}", dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise NoChampion(
            f"the files of {NAME} version {version} cannot be read ({reason}); "
            "run `make train` for a new champion, or `make rollback` to return to the one before"
        ) from error
