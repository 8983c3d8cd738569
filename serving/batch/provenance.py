"""What an output depends on and what it says of that: in Parquet's own metadata, or in a file beside it."""

import argparse
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serving import registry
from serving.batch import locations
from serving.batch.locations import Target
from serving.batch.parts import Parts
from serving.batch.tables import DIGEST, METADATA, SIDECAR, Table, digest

PACKAGES = ("numpy", "onnxruntime", "pyarrow", "scikit-learn", "sentencex", "trafilatura")
PARQUET_END = 8  # the footer's length and "PAR1"
# The options on which the output depends, and what they are when not given.
DEFAULTS = {"text": "text", "columns": None, "min_confidence": 0.0, "articles": False, "part_rows": 10_000}


def describe(
    options: argparse.Namespace, files: Sequence[locations.File], champion: registry.Champion
) -> dict[str, str]:
    """All that the bytes of the output depend on, in words."""
    return {
        **{f"input {file.url}": file.state for file in files},
        "the command": command(options),
        "model version": f"{champion.version} (manifest {champion.manifest})",
        "the code": code(),
    }


def code() -> str:
    """What else the bytes depend on: a digest of this package, and the versions of what reads and writes."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.read_bytes())
    return ", ".join([digest.hexdigest()[:16], *(f"{name} {version(name)}" for name in PACKAGES)])


def command(options: argparse.Namespace) -> str:
    """The call, without what does not change the output."""
    words = ["python", "-m", "serving.score", options.input, options.output]
    for name, default in DEFAULTS.items():
        value = getattr(options, name)
        if value != default:
            flag = "--" + name.replace("_", "-")
            words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)


def identity(description: Mapping[str, str]) -> str:
    """What a run is known by: a digest of its description."""
    return hashlib.sha256(json.dumps(description).encode("utf-8")).hexdigest()


def note(options: argparse.Namespace, champion: registry.Champion, description: Mapping[str, str]) -> dict[str, Any]:
    """What the output says of how it was made."""
    return {
        "model": {"name": registry.NAME, **champion._asdict()},
        "options": {name: getattr(options, name) for name in DEFAULTS},
        "command": command(options),
        "run": identity(description),
    }


def finished(target: Target) -> str | None:
    """Which run made a file, if it is one of ours and has not been changed since."""
    try:
        if target.path.endswith(".parquet"):
            with target.system.open(target.path, "rb") as file, pq.ParquetFile(file) as parquet:
                noted = json.loads((parquet.schema_arrow.metadata or {})[METADATA])
                footer = parquet.metadata.serialized_size + PARQUET_END
                if parquet.metadata.metadata[DIGEST].decode("ascii") != digest(file, file.seek(0, 2) - footer):
                    return None
        else:
            beside = target.beside(SIDECAR)
            noted = json.loads(beside.system.cat_file(beside.path))
            if noted["sha256"] != locations.sha256(target):
                return None
        return str(noted["run"])
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException):
        return None


def publish(kept: Parts, table: Table, target: Target, noted: Mapping[str, Any]) -> None:
    """Put the parts together, and the whole in its place; where metadata lie beside it, they come first."""
    whole = kept.folder / "whole"
    table.put_together(kept.paths(), whole, noted)
    if table.ending != ".parquet":
        beside = kept.folder / "whole.json"
        with whole.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        beside.write_text(json.dumps({**noted, "sha256": digest}, indent=1) + "\n", encoding="utf-8")
        target.beside(SIDECAR).publish(beside)
    target.publish(whole)
