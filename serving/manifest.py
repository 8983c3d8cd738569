"""What a model folder must contain: the manifest written at registration, and the check against it."""

import hashlib
from pathlib import Path, PurePosixPath

MANIFEST = "MANIFEST.sha256"
REMEDY = "run `make train` for a new champion, or `make rollback` to return to the one before"


class ChangedModel(Exception):
    """A model folder is not the one that was registered; the message names file, digests and remedy."""


def read(folder: Path, digest: str) -> dict[str, str]:
    """Read a manifest (sha256sum's format): relative path to sha256, both as registered.

    Args:
        folder: a model folder as MLflow lays it out.
        digest: sha256 of the manifest itself, as the registry holds it.

    Raises:
        ChangedModel: the manifest is missing, changed, or names a path outside the folder.
    """
    _compare(folder, MANIFEST, digest)
    lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
    files = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    for name in files:
        if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ChangedModel(f"{MANIFEST} names {name!r}, which is outside the model's folder; {REMEDY}")
    return files


def check(folder: Path, digest: str) -> list[str]:
    """Compare every listed file with the manifest, before anything of the model runs.

    Returns:
        The relative paths that belong to the model, the manifest included. Other files may lie in the folder.

    Raises:
        ChangedModel: a listed file is missing, changed or a link.
    """
    files = read(folder, digest)
    for name, expected in files.items():
        _compare(folder, name, expected)
    return [MANIFEST, *files]


def check_exactly(folder: Path, digest: str) -> None:
    """As `check`; a file that is not listed is refused too (Python could import it, or its bytecode).

    Raises:
        ChangedModel: a listed file is missing, changed or a link, or another file is there.
    """
    listed = set(check(folder, digest))
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in listed and (path.is_symlink() or not path.is_dir()):
            raise ChangedModel(f"{path} was not registered with the model; {REMEDY}")


def _compare(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    # Resolving the folder alone lets it be reached through a link, but nothing inside it be one.
    if path.resolve() != folder.resolve() / name:
        raise ChangedModel(f"{path} is a link; a model holds plain files only; {REMEDY}")
    if not path.is_file():
        raise ChangedModel(f"{path} is missing, expected sha256 {expected}; {REMEDY}")
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise ChangedModel(f"{path} has changed: sha256 {actual}, expected {expected} as registered; {REMEDY}")
