"""From a request's bytes to a checked object, with an error that names the field and the limit."""

import json
import reprlib
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

SHOWN = 3
MAX_FIELDS = 20  # each unknown one would be an error of its own
# A body of nothing but empty lists would take minutes, and many times its size in memory; no valid one has so many.
MAX_VALUES = 200_000
Body = TypeVar("Body", bound=BaseModel)


class BadBody(ValueError):
    """A body that the client must change; the message quotes field names, never the text of a passage."""


def parse(body: bytes, model: type[Body]) -> Body:
    """Read JSON (UTF-8, no field twice, no NaN) into a model.

    Raises:
        BadBody: with the first few things that are wrong.
    """
    if _values(body) > MAX_VALUES:
        many = f"the body has over {MAX_VALUES:,} values"
        raise BadBody(f"{many}; it must be an object with the fields [{_wanted(model)}]")
    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise BadBody(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise BadBody(f"the body is nested too deep; it must be an object with the fields [{_wanted(model)}]") from None
    except BadBody:
        raise
    except json.JSONDecodeError as error:
        raise BadBody(f"the body is not JSON: {error}") from None
    except ValueError:
        raise BadBody("the body holds a number of thousands of digits") from None
    if isinstance(document, dict) and len(document) > MAX_FIELDS:
        raise BadBody(f"the body has {len(document):,} fields; it must be an object with the fields [{_wanted(model)}]")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        details = error.errors(include_url=False)
        more = [f"and {len(details) - SHOWN} more"] if len(details) > SHOWN else []
        raise BadBody("; ".join([*(_explain(detail, model) for detail in details[:SHOWN]), *more])) from None


def _values(body: bytes) -> int:
    """About how many values JSON holds, by what opens or parts them; strings are counted and not looked into."""
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = bare.count(b'"') // 2
    if strings > MAX_VALUES:
        return strings
    outside = b"".join(bare.split(b'"')[::2])
    return sum(outside.count(mark) for mark in (b",", b"[", b"{"))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose fields differ: of two of one name, one would be dropped unseen."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise BadBody(f"the field {reprlib.repr(name)} stands twice in one object")
        fields[name] = value
    return fields


def _no_constant(name: str) -> NoReturn:
    raise BadBody(f"the body is not JSON: {name} is not a JSON number")


def _wanted(model: type[BaseModel]) -> str:
    return "; ".join(f"{name}: {field.description}" for name, field in model.model_fields.items())


def _explain(detail: ErrorDetails, model: type[BaseModel]) -> str:
    """One of pydantic's errors, with the place, and what was given where that may be said."""
    if not detail["loc"]:
        return f"the body must be an object with the fields [{_wanted(model)}]"
    field, *rest = detail["loc"]
    if detail["type"] == "extra_forbidden":
        return f"unknown field {reprlib.repr(field)}; allowed are [{_wanted(model)}]"
    where = "".join([str(field), *(f"[{part}]" for part in rest)])
    given = f", not {len(detail['input']):,}" if detail["type"] == "string_too_long" else ""
    wanted = model.model_fields[str(field)].description
    return f"{where}: {detail['msg'].replace(' after validation', '')}{given}; {field} must be {wanted}"
