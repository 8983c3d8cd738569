"""An experiment as a file: what it may say, and every misspelling refused before anything is fitted."""

import difflib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils._param_validation import InvalidParameterError

from training.candidates import CANDIDATES
from training.model.encoder import EncoderError

DEFAULT = Path("experiments/default.toml")


class InvalidExperiment(ValueError):
    """The experiment's file cannot be run as it stands."""


@dataclass(frozen=True)
class Candidate:
    """One row of the leaderboard: a pipeline of CANDIDATES, parameters set on it, and lists of values to search."""

    name: str
    pipeline: str
    encoder: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, list[Any]] = field(default_factory=dict)

    def build(self) -> Pipeline:
        """The unfitted pipeline with `params` set."""
        arguments = {} if self.encoder is None else {"encoder": self.encoder}
        pipeline: Pipeline = CANDIDATES[self.pipeline](**arguments)
        return pipeline.set_params(**self.params)


@dataclass(frozen=True)
class Gate:
    """What a winner must show before it becomes champion, on the validation split."""

    margin: float = 0.01  # mean macro-F1 that it may lie below the champion's
    topic_floor: float = 0.25  # F1 under which no topic may fall
    stance_floor: float = 0.4  # F1 under which no stance may fall


@dataclass(frozen=True)
class Experiment:
    """What one `make train` does."""

    name: str
    corpora: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    folds: int = 5
    resamples: int = 1000
    precision: float = 0.9  # topic accuracy wanted of passages on which the model does not abstain
    gate: Gate = Gate()


def read_experiment(path: Path) -> Experiment:
    """Read and check an experiment's TOML file.

    Raises:
        InvalidExperiment: names the file, the key, its value and the choices.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = ", ".join(sorted(str(p) for p in path.parent.glob("*.toml"))) or "none"
        raise InvalidExperiment(f"{path}: no such file; experiments there: {found}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidExperiment(f"{path}: not TOML: {error}") from None
    return _Checker(path).experiment(raw)


class _Checker:
    """Turns raw TOML into an Experiment; every complaint begins with the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fail(self, where: str, problem: str) -> InvalidExperiment:
        return InvalidExperiment(f"{self.path}: {where}: {problem}")

    def known(self, where: str, name: str, choices: Collection[str]) -> None:
        if name not in choices:
            close = difflib.get_close_matches(name, choices, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise self.fail(where, f"{name!r} is not one of {', '.join(sorted(choices))}{hint}")

    def value(self, table: Mapping[str, Any], key: str, kind: type, where: str = "") -> Any:
        value, where = table[key], f"{where}{key}"
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise self.fail(where, f"{value!r} is not {kind.__name__}")
        return value

    def number(self, table: Mapping[str, Any], key: str, kind: type, low: float, high: float, where: str = "") -> Any:
        value = self.value(table, key, kind, where)
        if not low <= value <= high:
            raise self.fail(f"{where}{key}", f"{value!r} is not between {low:g} and {high:g}")
        return value

    def experiment(self, raw: dict[str, Any]) -> Experiment:
        for key in raw:
            self.known("key", key, ("name", "corpora", "candidates", "weights", "seed", "folds", "resamples",
                                    "precision", "gate"))  # fmt: skip
        for key in ("corpora", "candidates"):
            if key not in raw:
                raise self.fail(key, "missing")
        options: dict[str, Any] = {}
        for key, kind, low, high in (
            ("seed", int, 0, 2**32 - 1), ("folds", int, 2, 20), ("resamples", int, 100, 100_000),
            ("precision", float, 0.0, 1.0),
        ):  # fmt: skip
            if key in raw:
                options[key] = self.number(raw, key, kind, low, high)
        corpora = self.value(raw, "corpora", list)
        if not corpora or not all(isinstance(name, str) for name in corpora):
            raise self.fail("corpora", f"{corpora!r} is not a list of corpus names or paths")
        weights = self.value({"weights": raw.get("weights", {})}, "weights", dict)
        for name in weights:
            self.known("weights", name, corpora)
            self.number(weights, name, float, 0.0, 1000.0, "weights.")
        gate = self.value({"gate": raw.get("gate", {})}, "gate", dict)
        for key in gate:
            self.known("gate", key, tuple(Gate.__dataclass_fields__))
            self.number(gate, key, float, 0.0, 1.0, "gate.")
        name = self.value({"name": raw.get("name", self.path.stem)}, "name", str)
        return Experiment(name, tuple(corpora), self.candidates(raw), weights, gate=Gate(**gate), **options)

    def candidates(self, raw: dict[str, Any]) -> tuple[Candidate, ...]:
        tables = self.value(raw, "candidates", dict)
        if not tables:
            raise self.fail("candidates", f"none named; choose from {', '.join(CANDIDATES)}")
        return tuple(self.candidate(name, self.value(tables, name, dict, "candidates.")) for name in tables)

    def candidate(self, name: str, table: dict[str, Any]) -> Candidate:
        where = f"candidates.{name}"
        for key in table:
            self.known(where, key, ("pipeline", "encoder", "params", "grid"))
        for key, kind in (("pipeline", str), ("encoder", str), ("params", dict), ("grid", dict)):
            if key in table:
                self.value(table, key, kind, f"{where}.")
        self.known(where, table.get("pipeline", name), CANDIDATES)
        candidate = Candidate(name, table.get("pipeline", name), table.get("encoder"))
        try:
            pipeline = candidate.build()
        except (EncoderError, TypeError) as error:
            takes = "" if "unexpected" not in str(error) else f" ({candidate.pipeline} takes no encoder)"
            raise self.fail(f"{where}.encoder", f"{error}{takes}") from None
        grid = table.get("grid", {})
        for key, values in grid.items():
            if not isinstance(values, list) or not values:
                raise self.fail(f"{where}.grid.{key}", f"{values!r} is not a list of values to search")
        settings = [("params", key, value) for key, value in table.get("params", {}).items()]
        settings += [("grid", key, value) for key, values in grid.items() for value in values]
        for section, key, value in settings:
            self.setting(pipeline, f"{where}.{section}.{key}", key, value)
        return Candidate(name, candidate.pipeline, candidate.encoder, table.get("params", {}), grid)

    def setting(self, pipeline: Pipeline, where: str, key: str, value: Any) -> None:
        """Set one parameter on the pipeline and let scikit-learn judge it."""
        parameters = pipeline.get_params(deep=True)
        fitted = [name for name in parameters if name.startswith(("weigh__", "heads__"))]
        self.known(where, key, fitted)
        pipeline.set_params(**{key: value})
        owner = pipeline.get_params(deep=True).get(key.rpartition("__")[0])
        try:
            if isinstance(owner, BaseEstimator):
                owner._validate_params()
        except InvalidParameterError as error:
            raise self.fail(where, str(error)) from None
