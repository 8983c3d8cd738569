"""An experiment as a file: what it may say, and every misspelling refused before anything is fitted."""

import difflib
import inspect
import re
import tomllib
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline
from sklearn.utils._param_validation import InvalidParameterError

from training.candidates import CANDIDATES
from training.model.encoder import EncoderError

DEFAULT = Path("experiments/default.toml")
# The pipelines that a candidate must beat to be worth anything; every experiment has one of each.
FLOORS = (("majority",), ("words", "unigrams"))
KINDS = {int: "a whole number", float: "a number", str: "a string", list: "a list", dict: "a table"}


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
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        found = ", ".join(sorted(str(p) for p in path.parent.glob("*.toml"))) or "none"
        raise InvalidExperiment(f"{path}: no such file; experiments there: {found}") from None
    except OSError as error:
        raise InvalidExperiment(f"{path}: cannot be read ({error.strerror}); name a TOML file") from None
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

    def value(self, table: Mapping[str, Any], key: str, kind: type, where: str = "", choices: str = "") -> Any:
        value = table[key]
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, accepted) or isinstance(value, bool):
            raise self.fail(f"{where}{key}", f"{value!r} is not {KINDS[kind]}{choices}")
        return value

    def number(self, table: Mapping[str, Any], key: str, kind: type, low: float, high: float, where: str = "") -> Any:
        between = f" between {low} and {high}"
        value = self.value(table, key, kind, where, between)
        if not low <= value <= high:
            raise self.fail(f"{where}{key}", f"{value!r} is not {KINDS[kind]}{between}")
        return value

    def experiment(self, raw: dict[str, Any]) -> Experiment:
        for key in raw:
            self.known("key", key, ("name", "corpora", "candidates", "weights", "seed", "folds", "resamples",
                                    "precision", "gate"))  # fmt: skip
        for key in ("corpora", "candidates"):
            if key not in raw:
                raise self.fail(key, f"missing; say which, as {DEFAULT} does")
        options: dict[str, Any] = {}
        for key, kind, low, high in (
            ("seed", int, 0, 2**32 - 1), ("folds", int, 2, 20), ("resamples", int, 100, 100_000),
            ("precision", float, 0, 1),
        ):  # fmt: skip
            if key in raw:
                options[key] = self.number(raw, key, kind, low, high)
        corpora = self.value(raw, "corpora", list)
        if not corpora or not all(isinstance(name, str) for name in corpora):
            raise self.fail("corpora", f"{corpora!r} is not a list of corpus names or paths")
        weights = self.value({"weights": raw.get("weights", {})}, "weights", dict)
        for name in weights:
            self.known("weights", name, corpora)
            self.number(weights, name, float, 0, 1000, "weights.")
        if not any(weights.get(name, 1) for name in corpora):
            raise self.fail("weights", f"{weights!r} leave nothing to learn from; weigh one corpus more than 0")
        gate = self.value({"gate": raw.get("gate", {})}, "gate", dict)
        for key in gate:
            self.known("gate", key, tuple(Gate.__dataclass_fields__))
            self.number(gate, key, float, 0, 1, "gate.")
        name = self.value({"name": raw.get("name", self.path.stem)}, "name", str)
        return Experiment(name, tuple(corpora), self.candidates(raw), weights, gate=Gate(**gate), **options)

    def candidates(self, raw: dict[str, Any]) -> tuple[Candidate, ...]:
        tables = self.value(raw, "candidates", dict)
        if not tables:
            raise self.fail("candidates", f"none named; choose from {', '.join(CANDIDATES)}")
        found = tuple(self.candidate(name, self.value(tables, name, dict, "candidates.")) for name in tables)
        for floor in FLOORS:
            if not any(candidate.pipeline in floor for candidate in found):
                named = f"the pipelines here are {', '.join(candidate.pipeline for candidate in found)}"
                remedy = f"add a line [candidates.{floor[0]}]"
                raise self.fail("candidates", f"none is {' or '.join(floor)}, the floor to beat ({named}); {remedy}")
        return found

    def candidate(self, name: str, table: dict[str, Any]) -> Candidate:
        where = f"candidates.{name}"
        if not re.fullmatch("[A-Za-z0-9_-]+", name):  # MLflow refuses others, but only when everything is trained
            raise self.fail(where, f"{name!r} is not a name of letters, digits, _ and -")
        for key in table:
            self.known(where, key, ("pipeline", "encoder", "params", "grid"))
        for key, kind in (("pipeline", str), ("encoder", str), ("params", dict), ("grid", dict)):
            if key in table:
                self.value(table, key, kind, f"{where}.")
        self.known(where, table.get("pipeline", name), CANDIDATES)
        candidate = Candidate(name, table.get("pipeline", name), table.get("encoder"))
        encoding = [key for key, build in CANDIDATES.items() if "encoder" in inspect.signature(build).parameters]
        if candidate.encoder is not None and candidate.pipeline not in encoding:
            takes = f"{candidate.pipeline} takes no encoder; {', '.join(encoding)} do"
            raise self.fail(f"{where}.encoder", f"{candidate.encoder!r}: {takes}")
        try:
            pipeline = candidate.build()
        except EncoderError as error:
            raise self.fail(f"{where}.encoder", f"{candidate.encoder!r}: {error}") from None
        params, grid = table.get("params", {}), table.get("grid", {})
        for key, values in grid.items():
            if not isinstance(values, list) or not values:
                raise self.fail(f"{where}.grid.{key}", f"{values!r} is not a list of values to search")
            if key in params:
                raise self.fail(
                    f"{where}.grid.{key}", f"{values!r}, and {params[key]!r} under params; keep one of them"
                )
        settings = [("params", key, value) for key, value in params.items()]
        settings += [("grid", key, value) for key, values in grid.items() for value in values]
        for section, key, value in settings:
            self.setting(pipeline, f"{where}.{section}.{key}", key, value)
        self.trial(pipeline, where, params, grid)
        return Candidate(name, candidate.pipeline, candidate.encoder, params, grid)

    def setting(self, pipeline: Pipeline, where: str, key: str, value: Any) -> None:
        """Let scikit-learn judge one parameter by itself."""
        parameters = pipeline.get_params(deep=True)
        self.known(where, key, _settable(parameters))
        if isinstance(value, bool) and isinstance(parameters[key], (int, float)) != isinstance(parameters[key], bool):
            raise self.fail(where, f"{value!r} is not a number")
        owner, _, name = key.rpartition("__")
        if owner == "weigh":
            return  # scikit-learn holds the weights of parts against the parts when it fits
        try:
            clone(parameters[owner]).set_params(**{name: value})._validate_params()
        except InvalidParameterError as error:
            raise self.fail(where, str(error)) from None

    def trial(self, pipeline: Pipeline, where: str, params: Mapping[str, Any], grid: Mapping[str, list[Any]]) -> None:
        """Fit made-up passages with every combination: values that are each valid may not go together."""
        rows, y = _made_up(pipeline)
        tried = Pipeline([("weigh", pipeline["weigh"]), ("heads", pipeline["heads"])])
        for other in ("heads__stance__", "heads__topic__"):
            for combination in ParameterGrid({k: v for k, v in grid.items() if not k.startswith(other)}):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        clone(tried).set_params(**params, **combination).fit(rows, y)
                except Exception as error:  # whatever an estimator says against its parameters
                    raise self.fail(where, f"{ {**params, **combination} } cannot be fitted: {error}") from None


def _settable(parameters: Mapping[str, Any]) -> list[str]:
    """The parameters of what is fitted; not its structure, and not the temperatures, which calibration sets."""
    owners = {
        key: parameters.get(key.rpartition("__")[0]) for key in parameters if key.startswith(("weigh__", "heads__"))
    }
    leaves = [
        key
        for key, owner in owners.items()
        if isinstance(owner, BaseEstimator) and not any("__" in name for name in owner.get_params(deep=True))
    ]
    checked = [key for key in leaves if hasattr(owners[key], "_parameter_constraints")]
    return [*checked, "weigh__transformer_weights"]


def _made_up(pipeline: Pipeline) -> tuple[Any, Any]:
    """Rows as the pipeline's extraction gives them, and labels: every topic with every stance, twice."""
    heads, width = pipeline["heads"], pipeline["weigh"].transformer_list[-1][1]["columns"].stop
    y = np.tile([(topic, stance) for topic in range(heads.n_topics) for stance in range(heads.n_stances)], (2, 1))
    random = np.random.default_rng(0)
    columns = np.concatenate(
        [part["columns"].start + random.integers(0, 16, (len(y), 8)) for _, part in pipeline["weigh"].transformer_list],
        axis=1,
    )
    at = np.repeat(np.arange(len(y)), columns.shape[1]), columns.ravel()
    return sp.csr_matrix((np.ones(columns.size, np.float32), at), shape=(len(y), width)), y
