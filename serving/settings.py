"""The deployment settings that are numbers, read from the environment and checked."""

import os

TIMES = {
    # The largest valid request (512 passages of 10,000 characters) took 43 s on two busy cores.
    "IMMNEWS_TIMEOUT_SECONDS": 120.0,
    # Long enough for a load balancer that asks `/readyz` every second to notice.
    "IMMNEWS_DRAIN_SECONDS": 2.0,
}
SHORTEST, LONGEST = 0.1, 3600.0
MOST_THREADS = 256


class BadSetting(ValueError):
    """A setting is not a number that it may be; the message names it, its value and what is allowed."""


def seconds(name: str) -> float:
    """A setting of `TIMES`, as it is now.

    Raises:
        BadSetting: it is not a number from `SHORTEST` to `LONGEST`.
    """
    return _number(name, TIMES[name], SHORTEST, LONGEST)


def threads() -> int:
    """`IMMNEWS_THREADS`: passages encoded at once.

    Raises:
        BadSetting: it is not a whole number from 1 to `MOST_THREADS`.
    """
    return int(_number("IMMNEWS_THREADS", 2, 1, MOST_THREADS))


def check() -> None:
    """Read each setting once, so that a bad one is named before anything starts. Raises BadSetting."""
    threads()
    for name in TIMES:
        seconds(name)


def _number(name: str, default: float, least: float, most: float) -> float:
    given = os.environ.get(name) or str(default)
    kind = type(default)
    try:
        value = kind(given)
    except ValueError:
        value = kind(-1)
    if not least <= value <= most:
        what = "a whole number" if kind is int else "a number"
        raise BadSetting(f"{name}={given!r} is not {what} from {least:g} to {most:g}; give one, or leave it out")
    return value
