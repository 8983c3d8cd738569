"""Which Arrow type a column of JSON values has, found value by value; one that has none is kept as JSON."""

import base64
import json
import math
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any, cast

import pyarrow as pa

# "int" is a whole number that a double holds exactly, "long" one that takes 64 bits.
Kind = str | tuple[str, Any]

NULL, MIXED = "null", "mixed"
SCALARS = {
    NULL: pa.string(),
    "bool": pa.bool_(),
    "int": pa.int64(),
    "long": pa.int64(),
    "float": pa.float64(),
    "string": pa.string(),
}
# An object of more names is a table of its own, and would make the schema as long as the file.
MAX_NAMES = 1_000


def kind(value: Any) -> Kind:
    """What one JSON value is."""
    inner: Kind = NULL
    match value:
        case None:
            return NULL
        case bool():
            return "bool"
        case int():
            return "int" if abs(value) <= 2**53 else "long" if -(2**63) <= value < 2**63 else MIXED
        case float():
            return "float"
        case str():
            return "string"
        case list():
            return "list", reduce(unify, map(kind, value), inner)
        case _:
            return "object", {name: kind(one) for name, one in value.items()}


def unify(one: Kind, other: Kind) -> Kind:
    """The narrowest kind that holds values of both; `MIXED` where that would change a value."""
    if one == other or other == NULL:
        return one
    if one == NULL:
        return other
    if isinstance(one, tuple) and isinstance(other, tuple) and one[0] == other[0]:
        if one[0] == "list":
            return "list", unify(one[1], other[1])
        names = {**one[1], **other[1]}
        if len(names) <= MAX_NAMES:
            return "object", {name: unify(one[1].get(name, NULL), other[1].get(name, NULL)) for name in names}
    pair = {one, other} if isinstance(one, str) and isinstance(other, str) else set()
    return "long" if pair == {"int", "long"} else "float" if pair == {"int", "float"} else MIXED


def arrow_type(found: Kind) -> pa.DataType | None:
    """The Arrow type of a kind; None where there is none, for then the values are kept as JSON."""
    if isinstance(found, str):
        return SCALARS.get(found)
    if found[0] == "list":
        inner = arrow_type(found[1])
        return None if inner is None else pa.list_(inner)
    fields = {printable(name): arrow_type(one) for name, one in found[1].items()}
    # Parquet has no objects without fields.
    if not fields or len(fields) < len(found[1]) or None in fields.values():
        return None
    return pa.struct(list(fields.items()))


def column(values: Sequence[Any], found: Kind, words: bool = False) -> pa.Array:
    """Values of a column whose kind is known, as Arrow; half a surrogate pair, which it cannot hold, becomes U+FFFD.

    `words`: where the column is of mixed types, a string stands as it is and not as JSON.
    """
    chosen = arrow_type(found)
    if chosen is None:
        chosen, values = pa.string(), [as_json(value, words) for value in values]
    try:
        return pa.array(values, chosen)
    except UnicodeEncodeError:
        return pa.array([printable(value) for value in values], chosen)


def as_json(value: Any, words: bool) -> str | None:
    """A value as JSON; null stays null."""
    return value if value is None or (words and isinstance(value, str)) else dump(value)


def printable(value: Any) -> Any:
    """A value with U+FFFD for every half of a surrogate pair."""
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case list():
            return [printable(one) for one in value]
        case dict():
            return {printable(name): printable(one) for name, one in value.items()}
        case _:
            return value


def dump(value: Any) -> str:
    """JSON in one line, readable; escaped where UTF-8 cannot hold it. NaN and infinity, which JSON lacks, are null."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        value = plain(value)
        text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def objects(table: pa.Table, rows: int) -> list[str]:
    """The rows of a table (so many) as JSON objects: times in ISO 8601, bytes in base64, NaN and infinity as null."""
    names, columns = table.column_names, [plain_values(values) for values in table.columns]
    if not names:
        return ["{}"] * rows
    return [dump(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


def plain_values(values: pa.ChunkedArray) -> Iterable[Any]:
    """The values of a column as JSON knows them."""
    try:
        kept = decoded(values)
    except OverflowError:  # a time that Python has no date for
        kept = values.cast(pa.string()).to_pylist()
    simple = pa.types.is_string(values.type) or pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)
    return kept if simple else [plain(value) for value in kept]


def decoded(values: pa.ChunkedArray) -> list[Any]:
    """The values of a column as Python knows them.

    Parquet may hold strings that are not UTF-8: they get U+FFFD for each byte that cannot be read. A list or an object
    with such a string in it becomes null.
    """
    try:
        return cast(list[Any], values.to_pylist())
    except UnicodeDecodeError:
        return [value.as_py() if decodes(value) else salvaged(value) for value in values]


def decodes(value: pa.Scalar) -> bool:
    """Whether all strings of a value are UTF-8."""
    try:
        value.as_py()
    except UnicodeDecodeError:
        return False
    except (ValueError, OverflowError):  # a time that Python has no date for
        return True
    return True


def salvaged(value: pa.Scalar) -> str | None:
    """A string that is not UTF-8, as far as it can be read."""
    string = value.value if isinstance(value, pa.DictionaryScalar) else value
    if pa.types.is_nested(string.type):
        return None
    return str(string.cast(pa.large_binary()).as_py(), "utf-8", "replace")


def plain(value: Any) -> Any:
    """One value of Arrow as JSON knows it."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case dict():
            return {str(name): plain(one) for name, one in value.items()}
        case list() | tuple():
            return [plain(one) for one in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
