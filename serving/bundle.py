"""From the registry to BentoML: the champion, checked file by file, as a bento model, a bento or an image."""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import bentoml
import yaml  # type: ignore[import-untyped]
from bentoml.exceptions import BentoMLException, NotFound
from bentoml.mlflow import MLFLOW_MODEL_FOLDER
from yaml.representer import SafeRepresenter  # type: ignore[import-untyped]

from serving import manifest, openapi, registry

ROOT = Path(__file__).resolve().parents[1]
SERVICE = "serving.service:ImmigrationNews"
# Modules that need a registry or a checkout; a bento has neither.
CHECKOUT_ONLY = [
    *(f"serving/{name}" for name in ("batch/", "bundle.py", "registry.py", "score.py", "serve.py")),
    "**/__pycache__/",
    ".venv*/",
]
# What the service imports besides what the model brings along.
SERVICE_PACKAGES = [
    f"{name}=={version(name)}"
    for name in ("lxml", "prometheus-client", "python-json-logger", "sentencex", "sqlalchemy", "trafilatura", "uvicorn")
]
# The extra `postgres`, where it is installed: what is packed now cannot be given a driver later.
SERVICE_PACKAGES += [
    f"{name}=={version(name)}" for name in ("psycopg", "psycopg-binary") if find_spec(name.replace("-", "_"))
]
REFUSALS = (registry.NoChampion, manifest.ChangedModel)


class NoEngine(Exception):
    """No Docker engine answers on this machine."""


def import_champion() -> bentoml.Model:
    """The champion as a bento model, imported anew only if BentoML's store lacks this very one.

    Raises:
        registry.NoChampion: there is none.
        manifest.ChangedModel: a file is not the one that was registered; nothing of the model has run.
    """
    champion = registry.champion()
    tag = bentoml.Tag(registry.NAME, f"{champion.version}-{champion.manifest[:12]}")
    stored = _stored(tag, champion.manifest)
    if stored is not None:
        return stored
    with tempfile.TemporaryDirectory(prefix="immnews-") as temporary:
        clean = checked_copy(champion, Path(temporary))
        # Another process may import the same version meanwhile: then the store's copy is as good.
        with contextlib.suppress(BentoMLException):
            bentoml.mlflow.import_model(tag, str(clean), metadata=champion._asdict())
    # What the import gave points into its temporary folder, not into the store.
    imported = bentoml.models.get(tag)
    manifest.check_exactly(Path(imported.path_of(MLFLOW_MODEL_FOLDER)), champion.manifest)
    return imported


def checked_copy(champion: registry.Champion, folder: Path) -> Path:
    """Download a version into a folder and copy out what its manifest lists, nothing else, once all of it is checked.

    Raises:
        manifest.ChangedModel: a file is not the one that was registered.
    """
    downloaded, clean = registry.download(champion.version, folder / "downloaded"), folder / "clean"
    for name in manifest.check(downloaded, champion.manifest):
        (clean / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(downloaded / name, clean / name)
    return clean


def _stored(tag: bentoml.Tag, digest: str) -> bentoml.Model | None:
    """What the store holds under a tag, if every file of it is as registered; otherwise it is removed."""
    try:
        stored = bentoml.models.get(tag)
    except NotFound:
        return None
    try:
        manifest.check_exactly(Path(stored.path_of(MLFLOW_MODEL_FOLDER)), digest)
    except manifest.ChangedModel as error:
        print(f"the copy in BentoML's store is imported anew: {error}", file=sys.stderr)
        bentoml.models.delete(tag)
        return None
    return stored


def build() -> bentoml.Bento:
    """A bento of the service and the champion: what it needs to run is in it, but for the Python packages.

    Raises:
        registry.NoChampion, manifest.ChangedModel: as for `import_champion`.
    """
    model = import_champion()
    requirements = Path(model.path_of(MLFLOW_MODEL_FOLDER), "requirements.txt").read_text(encoding="utf-8")
    # BentoML writes the description of the interface into the bento as YAML, for which it must be a plain mapping.
    yaml.add_representer(openapi.Document, SafeRepresenter.represent_dict)
    return bentoml.build(
        SERVICE,
        name=registry.NAME,
        description=f"Topic and stance of news passages on immigration, by {model.tag}. `GET /docs.json` describes it.",
        labels={"model_version": str(model.info.metadata["version"])},
        include=["serving/"],
        exclude=CHECKOUT_ONLY,
        # The model's own pins and the service's; resolving them again would need the network.
        python={"packages": [*requirements.split("\n"), *SERVICE_PACKAGES], "lock_packages": False},
        build_ctx=str(ROOT),
        args={"model": str(model.tag)},
    )


def image() -> str:
    """Build a bento and a container image from it.

    Returns:
        The bento's tag, which is the image's.

    Raises:
        NoEngine: Docker is not installed, or its engine does not answer.
        registry.NoChampion, manifest.ChangedModel: as for `import_champion`.
    """
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        state = "Docker is not installed" if docker is None else "the Docker engine does not answer"
        raise NoEngine(f"{state}: `make image` needs one; `make bento` and `make serve` do not")
    tag = str(build().tag)
    bentoml.container.build(tag, backend="docker")
    return tag


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: `build` or `image`; 2 where it cannot be done, with the reason on the error stream."""
    parser = argparse.ArgumentParser(prog="serving.bundle", description=__doc__)
    parser.add_argument("make", choices=["build", "image"])
    chosen = parser.parse_args(arguments)
    try:
        if chosen.make == "image":
            print(f"image {image()}")
        else:
            tag = build().tag
            print(f"bento {tag}\nserve it anywhere with these packages: bentoml serve {tag} --host 127.0.0.1")
    except (*REFUSALS, NoEngine) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
