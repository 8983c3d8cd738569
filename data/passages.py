"""What a passage record holds: its fields, their types and defaults, and every way in which one can be wrong."""

import difflib
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Features, List, Value

from data.codebook import NEUTRAL, OFF_TOPIC, load_codebook

TEXT_LIMIT = 10_000  # characters, the limit of the service too
SHOWN = 50  # problems printed; `InvalidPassages.problems` holds them all
REQUIRED = ("id", "doc_id", "text", "topic", "stance")
DEFAULTS: Mapping[str, Any] = {
    "secondary_topic": None,
    "genre": None,
    "country": "ZZ",
    "annotations": (),
    "disputed": False,
}
ANNOTATION_FIELDS = ("topic", "secondary_topic", "stance")

Fault = tuple[str, object, str]  # field, value, remedy


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one record; `row` counts from 1 and is the line of a JSONL file."""

    source: str
    row: int
    field: str
    value: object
    remedy: str

    def __str__(self) -> str:
        return f"{self.source}, row {self.row}, {self.field}: {reprlib.repr(self.value)}: {self.remedy}"


class InvalidPassages(ValueError):
    """Names every bad record; the message prints the first `SHOWN` problems, `problems` holds them all."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [f"{len(self.problems)} problem(s) in the passages:", *map(str, self.problems[:SHOWN])]
        if len(self.problems) > SHOWN:
            lines.append(f"and {len(self.problems) - SHOWN} more")
        super().__init__("\n  ".join(lines))


def features() -> Features:
    """The typed columns of a passage; topic and stance are numbered in the codebook's order."""
    codebook = load_codebook()
    text = Value("string")
    return Features(
        {
            "id": text,
            "doc_id": text,
            "text": text,
            "topic": ClassLabel(names=list(codebook.topic_names)),
            "secondary_topic": text,
            "stance": ClassLabel(names=list(codebook.stance_names)),
            "genre": text,
            "country": text,
            "annotations": List(dict.fromkeys(ANNOTATION_FIELDS, text)),
            "disputed": Value("bool"),
        }
    )


def complete(record: Mapping[str, Any]) -> dict[str, Any]:
    """A valid record with exactly the fields of a passage, in order; what is missing or null gets its default."""
    whole: dict[str, Any] = {field: record.get(field) for field in features()}
    whole |= {field: default for field, default in DEFAULTS.items() if whole[field] is None}
    whole["annotations"] = [
        {field: reading.get(field) for field in ANNOTATION_FIELDS} for reading in whole["annotations"]
    ]
    return whole


def validate(records: Iterable[Mapping[str, Any]], source: str) -> None:
    """Checks records against the codebook, rows counted from 1.

    Raises InvalidPassages, which lists every problem of every record at once.
    """
    problems = list(find_problems(enumerate(records, start=1), source))
    if problems:
        raise InvalidPassages(problems)


def find_problems(numbered: Iterable[tuple[int, Mapping[str, Any]]], source: str) -> Iterator[Problem]:
    """Every problem of the records, each given with its row, in their order; ids must be unique among them."""
    first_row: dict[str, int] = {}
    for row, record in numbered:
        for field, value, remedy in _faults(record):
            yield Problem(source, row, field, value, remedy)
        name = record.get("id")
        if isinstance(name, str) and first_row.setdefault(name, row) != row:
            yield Problem(
                source, row, "id", name, f"already the id of row {first_row[name]}; give each passage its own"
            )


def _faults(record: Mapping[str, Any]) -> Iterator[Fault]:
    for field in ("id", "doc_id", "text"):
        yield from _string_faults(record.get(field), field)
    text = record.get("text")
    if isinstance(text, str) and len(text) > TEXT_LIMIT:
        yield "text", text, f"{len(text):,} characters, at most {TEXT_LIMIT:,} are allowed; split it into passages"
    yield from _label_faults(record, prefix="")
    genre, country, disputed = record.get("genre"), record.get("country"), record.get("disputed")
    if genre is not None:
        yield from _choice_faults(genre, "genre", load_codebook().genres)
    if country is not None and not (isinstance(country, str) and re.fullmatch("[A-Z]{2}", country)):
        yield "country", country, "give an ISO 3166 alpha-2 code in capitals, such as 'CA', or 'ZZ' where none fits"
    if disputed is not None and not isinstance(disputed, bool):
        yield "disputed", disputed, "allowed are true and false"
    yield from _annotation_faults(record.get("annotations"))


def _string_faults(value: object, field: str) -> Iterator[Fault]:
    if value is None:
        yield field, value, "missing or null; every passage needs one"
    elif not isinstance(value, str):
        yield field, value, f"is {_json_type(value)}; write it as a string"
    elif not value.strip():
        yield field, value, "empty; fill it in or leave the passage out"
    elif any("\ud800" <= character <= "\udfff" for character in value):
        yield field, value, "holds half a surrogate pair, which UTF-8 cannot encode; repair the text's encoding"


def _label_faults(reading: Mapping[str, Any], prefix: str) -> Iterator[Fault]:
    """Faults of one reading: the labels of a passage itself, or those that one annotator gave it."""
    codebook = load_codebook()
    topic, stance, second = (reading.get(field) for field in ("topic", "stance", "secondary_topic"))
    yield from _choice_faults(topic, f"{prefix}topic", codebook.topic_names)
    yield from _choice_faults(stance, f"{prefix}stance", codebook.stance_names)
    if topic == OFF_TOPIC and stance in codebook.stance_names and stance != NEUTRAL:
        yield f"{prefix}stance", stance, f"an {OFF_TOPIC} passage is always {NEUTRAL}; change one of the two"
    if second is None:
        return
    if topic == OFF_TOPIC:
        yield f"{prefix}secondary_topic", second, f"an {OFF_TOPIC} passage has none; set it to null"
    elif second == OFF_TOPIC:
        yield f"{prefix}secondary_topic", second, f"never {OFF_TOPIC}; set it to null or to another topic"
    elif second == topic:
        yield f"{prefix}secondary_topic", second, "the same as topic; set it to null or to another topic"
    else:
        choices = tuple(name for name in codebook.topic_names if name != OFF_TOPIC)
        yield from _choice_faults(second, f"{prefix}secondary_topic", choices)


def _choice_faults(value: object, field: str, choices: Sequence[str]) -> Iterator[Fault]:
    allowed = f"choose one of {', '.join(choices)}"
    if value is None:
        yield field, value, f"missing or null; {allowed}"
    elif not isinstance(value, str):
        yield field, value, f"is {_json_type(value)}; {allowed}"
    elif value not in choices:
        close = difflib.get_close_matches(value.strip().casefold(), choices, n=1)
        yield field, value, f"unknown; did you mean '{close[0]}'? {allowed}" if close else f"unknown; {allowed}"


def _annotation_faults(annotations: object) -> Iterator[Fault]:
    if annotations is None:
        return
    if not isinstance(annotations, (list, tuple)):
        remedy = (
            f"is {_json_type(annotations)}; give a list of objects with {', '.join(ANNOTATION_FIELDS)}, or leave it out"
        )
        yield "annotations", annotations, f"{remedy} (a CSV cannot hold it)"
        return
    for number, reading in enumerate(annotations):
        if isinstance(reading, Mapping):
            yield from _label_faults(reading, prefix=f"annotations[{number}].")
        else:
            yield f"annotations[{number}]", reading, f"give an object with {', '.join(ANNOTATION_FIELDS)}"


def _json_type(value: object) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}"
