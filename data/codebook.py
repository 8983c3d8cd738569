"""The codebook: which topics and stances a passage can have, what each means, and the rules for choosing."""

import tomllib
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

CODEBOOK = Path(__file__).with_name("codebook.toml")
OFF_TOPIC = "off_topic"
NEUTRAL = "neutral"


@dataclass(frozen=True)
class Label:
    """One topic or stance; `not_this` says what belongs elsewhere ("" where nothing is easily confused with it)."""

    name: str
    definition: str
    not_this: str = ""
    example: str | None = None


@dataclass(frozen=True)
class Rule:
    """One rule for the annotator, under the short name by which it is cited."""

    name: str
    text: str


@dataclass(frozen=True)
class Correspondence:
    """What published schemes call the given labels; an empty tuple where a scheme has no counterpart."""

    labels: tuple[str, ...]
    media_frames_corpus: tuple[str, ...] = ()
    comparative_agendas_project: tuple[str, ...] = ()


@dataclass(frozen=True)
class Codebook:
    """The whole codebook; topics and stances stand in the order in which they are numbered in a dataset."""

    version: str
    unit: str
    topics: tuple[Label, ...]
    stances: tuple[Label, ...]
    rules: tuple[Rule, ...]
    genres: tuple[str, ...]
    crosswalk: tuple[Correspondence, ...]

    @property
    def topic_names(self) -> tuple[str, ...]:
        return tuple(topic.name for topic in self.topics)

    @property
    def stance_names(self) -> tuple[str, ...]:
        return tuple(stance.name for stance in self.stances)

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Head (`topic`, `stance`) → the names of its labels, in the order in which they are numbered."""
        return {"topic": self.topic_names, "stance": self.stance_names}

    def as_dict(self) -> dict[str, Any]:
        """The codebook in plain lists, dictionaries and strings, ready for JSON."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


@lru_cache(maxsize=1)
def load_codebook() -> Codebook:
    """The codebook of `codebook.toml`, read once a process."""
    return _parse(tomllib.loads(CODEBOOK.read_text(encoding="utf-8")))


def _parse(raw: dict[str, Any]) -> Codebook:
    return Codebook(
        version=raw["version"],
        unit=raw["unit"],
        topics=tuple(Label(**label) for label in raw["topics"]),
        stances=tuple(Label(**label) for label in raw["stances"]),
        rules=tuple(Rule(**rule) for rule in raw["rules"]),
        genres=tuple(raw["genres"]),
        crosswalk=tuple(
            Correspondence(**{scheme: tuple(names) for scheme, names in entry.items()}) for entry in raw["crosswalk"]
        ),
    )


def _plain(value: Any) -> Any:
    """Tuples become lists all the way down: what JSON would give back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
