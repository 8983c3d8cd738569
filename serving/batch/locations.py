"""Where tables lie: files, folders, patterns, here or behind a URL; and how a finished file is put in its place."""

import gzip
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

READABLE = (".parquet", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz")
WRITABLE = (".parquet", ".jsonl", ".jsonl.gz", ".csv")
PARTS = ".parts"  # how the folder of an unfinished run ends, which no pattern may find
# What file systems call the state of a file, the surest first.
STAMPS = ("ETag", "etag", "mtime", "LastModified", "Last-Modified", "last_modified", "modified", "created")


class BadLocation(ValueError):
    """There is nothing to read, or nowhere to write; the message says what may be given instead."""


class File(NamedTuple):
    """One file to read: its place in its file system, its full address, and what tells whether it has changed."""

    system: Any
    path: str
    url: str
    state: str

    def changed(self) -> bool:
        """Whether it is another than when it was found. Raises OSError where it is gone."""
        return state(self.system.info(self.path)) != self.state

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The bytes of the file, unpacked if its name ends in `.gz`."""
        with self.system.open(self.path, "rb") as file:
            if not self.path.endswith(".gz"):
                yield file
                return
            with gzip.open(file, "rb") as unpacked:
                yield cast(BinaryIO, unpacked)


class Target(NamedTuple):
    """Where the output goes."""

    system: Any
    path: str
    url: str

    @property
    def local(self) -> Path | None:
        """Its path, if it is on this machine."""
        return Path(self.path) if isinstance(self.system, LocalFileSystem) else None

    def beside(self, ending: str) -> "Target":
        """The file of the same name with more at its end."""
        return Target(self.system, self.path + ending, self.url + ending)

    def exists(self) -> bool:
        """Whether something is there now."""
        return bool(self.system.exists(self.path))

    def publish(self, finished: Path) -> None:
        """Put a finished local file there: whole, or not at all."""
        if self.local:
            replace(finished, self.local)
            return
        partial = self.path + ".uploading"
        self.system.put_file(str(finished), partial)
        self.system.mv(partial, self.path)


def find(given: str) -> list[File]:
    """The files that a path, a folder, a pattern or a URL names, in the order of their names.

    In folders, whatever has a name that begins with a dot or an underscore is passed over, and so is any other format.

    Raises:
        BadLocation: there is none, they are of several formats, or the address cannot be understood.
    """
    system, path = locate(given)
    if system.isfile(path):
        paths = [path]
    else:
        folder = system.isdir(path)
        found = system.find(path) if folder else system.glob(path)
        below = len(path.rstrip("/")) + 1 if folder else 0
        shown = [one for one in found if not hidden(one[below:] if folder else one.rpartition("/")[2])]
        shown = [one for one in shown if not any(name.endswith(PARTS) for name in one.split("/"))]
        paths = sorted(one for one in shown if suffix(one, READABLE) and system.isfile(one))
    if not paths:
        raise BadLocation(
            f"INPUT {given!r}: no file is there; give a file, folder, pattern or URL of {', '.join(READABLE)}"
        )
    kinds = {suffix(one, READABLE).removesuffix(".gz") for one in paths}
    if len(kinds) > 1:
        raise BadLocation(f"INPUT {given!r}: holds {' and '.join(sorted(kinds))}; give files of one format")
    if kinds == {""}:
        raise BadLocation(f"INPUT {given!r}: its format is not known; rename it to end in {', '.join(READABLE)}")
    return [File(system, one, system.unstrip_protocol(one), state(system.info(one))) for one in paths]


def hidden(path: str) -> bool:
    """Whether a path below a folder is not meant to be read."""
    return any(name.startswith((".", "_")) for name in path.split("/"))


def state(info: dict[str, Any]) -> str:
    """Size and time of change (or the store's own tag) of a file, in words."""
    stamp = next((f"{name} {info[name]}" for name in STAMPS if info.get(name)), "no time of change")
    return f"{info.get('size')} bytes, {stamp}"


def target(given: str) -> Target:
    """Where to write.

    Raises:
        BadLocation: unknown format, no such folder, or the address cannot be understood.
    """
    system, path = locate(given)
    if not suffix(path, WRITABLE):
        raise BadLocation(f"OUTPUT {given!r}: its format is not known; let it end in {', '.join(WRITABLE)}")
    found = Target(system, path, system.unstrip_protocol(path))
    if found.local and not found.local.parent.is_dir():
        raise BadLocation(f"OUTPUT {given!r}: there is no folder {found.local.parent}; make it first")
    if system.isdir(path):
        raise BadLocation(f"OUTPUT {given!r}: is a folder; name a file in it")
    return found


def locate(given: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Raises:
        BadLocation: no such kind of address, or the package for it is not installed.
    """
    try:
        system, path = fsspec.core.url_to_fs(given)
    except (ValueError, ImportError) as error:
        raise BadLocation(
            f"{given!r} cannot be reached ({error}); give a local path or a URL that fsspec knows"
        ) from None
    return system, str(path)


def suffix(path: str, choices: tuple[str, ...]) -> str:
    """Which of the endings a name has, the longest first; empty if none."""
    return next((one for one in sorted(choices, key=len, reverse=True) if path.endswith(one)), "")


def replace(finished: Path, path: Path) -> None:
    """Make a finished file visible under its name, durably: afterwards it is there whole, whatever happens."""
    with finished.open("rb") as file:
        os.fsync(file.fileno())
    finished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sha256(place: Target | File) -> str:
    """Digest of a file, in hexadecimal."""
    with place.system.open(place.path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
