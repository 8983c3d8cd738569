"""Which versions of the model there are, which one is champion, and the ledger of who was champion when and why."""

import argparse
import getpass
import json
import os
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlparse

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from training.champion import verified
from training.model.reader import ChangedModel

MODEL = "immigration-news"
CHAMPION = "champion"
LEDGER = "ledger."  # prefix of the registered model's tags that hold the ledger, one entry a tag
KIND = {"mlflow.experimentKind": "custom_model_development"}  # opens MLflow's UI in the mode for trained models
DEFAULT_URI = "sqlite:///mlflow.db"


class RegistryError(ValueError):
    """What was asked of the registry cannot be done."""


@dataclass(frozen=True)
class Entry:
    """One change of champion; `at` is UTC in ISO 8601."""

    at: str
    version: str
    previous: str | None
    by: str
    why: str


def connect(experiment: str = MODEL) -> MlflowClient:
    """Point MLflow to the tracking store and select the experiment, which is created where it is missing.

    With SQLite the artifacts lie in `mlruns` beside the database, wherever the command is run.
    """
    uri, location = tracking_uri(), None
    if uri.startswith("sqlite:"):
        database = Path(urlparse(uri).path[1:]).resolve()
        location = database.with_name("mlruns").as_uri()
        _make_whole(database)
    mlflow.set_tracking_uri(uri)
    if mlflow.get_experiment_by_name(experiment) is None:
        try:
            mlflow.create_experiment(experiment, artifact_location=location, tags=KIND)
        except MlflowException:  # another process was faster
            if mlflow.get_experiment_by_name(experiment) is None:
                raise
    mlflow.set_experiment(experiment)
    return MlflowClient()


def _make_whole(database: Path) -> None:
    """Make the database where there is none, all tables at once.

    MLflow would make it in some thirty steps: a kill between two, or another first run meanwhile, leaves a store
    that no later run can open.
    """
    if database.exists() or not database.parent.is_dir():
        return
    with tempfile.TemporaryDirectory(dir=database.parent, prefix=".mlflow-") as scratch:
        made = Path(scratch) / database.name
        MlflowClient(f"sqlite:///{made}").search_experiments(max_results=1)
        # Another process was faster, or the file system has no links: then MLflow opens what is there, or makes it.
        with suppress(OSError):
            os.link(made, database)


def tracking_uri() -> str:
    """Where MLflow's store is: MLFLOW_TRACKING_URI, else a SQLite file in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def register(
    client: MlflowClient, model_uri: str, run_id: str, manifest: str, tags: Mapping[str, str], description: str
) -> ModelVersion:
    """Register a logged model as the next version. `manifest` is its manifest's SHA-256.

    The tag `manifest` is written last: a version without it was not registered whole, and never becomes champion.
    """
    try:
        client.create_registered_model(MODEL, description="Topic and stance of passages of immigration news.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        MODEL, model_uri, run_id=run_id, model_id=model_uri.removeprefix("models:/"), description=description
    )
    for key, value in {**tags, "run_id": run_id, "manifest": manifest}.items():
        client.set_model_version_tag(MODEL, version.version, key, value)
    return client.get_model_version(MODEL, version.version)


def champion(client: MlflowClient) -> ModelVersion | None:
    """The version that the alias names, or None."""
    try:
        return client.get_model_version_by_alias(MODEL, CHAMPION)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def number(version: ModelVersion | None) -> str | None:
    """What a version is called: "1", "2", ...; None for none."""
    return str(version.version) if version else None


def promote(client: MlflowClient, version: str, why: str) -> None:
    """Write into the ledger that a version becomes champion, then move the alias: a kill between the two leaves an
    entry too many, and never a champion without one."""
    previous = number(champion(client))
    now = datetime.now(UTC)
    entry = Entry(now.isoformat(timespec="seconds"), version, previous, _user(), why)
    key = f"{LEDGER}{now:%Y%m%dT%H%M%S.%fZ}.{uuid.uuid4().hex[:8]}"
    client.set_registered_model_tag(MODEL, key, json.dumps(vars(entry), ensure_ascii=False))
    client.set_registered_model_alias(MODEL, CHAMPION, version)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        return f"uid {os.getuid()}"


def ledger(client: MlflowClient) -> list[Entry]:
    """All changes of champion, oldest first."""
    tags = client.get_registered_model(MODEL).tags
    return [Entry(**json.loads(tags[key])) for key in sorted(tags) if key.startswith(LEDGER)]


def promotable(client: MlflowClient) -> list[str]:
    """Versions that were registered whole and passed the gate, oldest first."""
    versions = client.search_model_versions(f"name = '{MODEL}'")
    good = [str(v.version) for v in versions if v.tags.get("gate") == "passed" and "manifest" in v.tags]
    return sorted(good, key=int)


def rollback(client: MlflowClient, version: str | None = None, why: str = "rollback") -> Entry:
    """Move the alias back: to `version`, or to the champion before the present one.

    Raises:
        RegistryError: no champion, no such version, or one that did not pass the gate; lists the good ones.
        ChangedModel: the files of that version are not those that were registered.
    """
    present = champion(client)
    if present is None:
        raise RegistryError(f"{MODEL} has no {CHAMPION} at {tracking_uri()}; `make train` makes one")
    now = str(present.version)
    good = [number for number in promotable(client) if number != now]
    choices = f"the champion is {now}; choose one of {', '.join(good) or 'none: there is no other'}"
    if version is None:
        earlier = [entry.previous for entry in ledger(client) if entry.version == now]
        version = next((number for number in reversed(earlier) if number in good), None)
        if version is None:
            raise RegistryError(f"no earlier champion is on record; {choices} (make rollback VERSION=n)")
    elif version not in good:
        raise RegistryError(f"version {version!r} cannot become champion; {choices}")
    with verified(client.get_model_version(MODEL, version)):
        promote(client, version, why)
    return ledger(client)[-1]


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m training.registry`: the ledger; with --rollback [VERSION] the alias moves back first."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rollback", nargs="?", const="", metavar="VERSION")
    parser.add_argument("--why", default="rollback")
    asked = parser.parse_args(arguments)
    try:
        client = connect()
        if asked.rollback is not None:
            rollback(client, asked.rollback or None, asked.why)
        entries = ledger(client) if champion(client) else []
    except (RegistryError, ChangedModel, MlflowException) as error:
        print(error, file=sys.stderr)
        return 2
    for entry in entries:
        print(f"{entry.at}  {entry.previous or '-'} -> {entry.version}  by {entry.by}: {entry.why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
