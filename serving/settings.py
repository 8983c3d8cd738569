"""The deployment settings that are times, read from the environment and checked."""

import os

DEFAULTS = {
    # The largest valid request (512 passages of 10,000 characters) took 43 s on two busy cores.
    "IMMNEWS_TIMEOUT_SECONDS": 120.0,
    # Long enough for a load balancer that asks `/readyz` every second to notice.
    "IMMNEWS_DRAIN_SECONDS": 2.0,
}
SHORTEST, LONGEST = 0.1, 3600.0


class BadSetting(ValueError):
    """A setting is not a time; the message names it, its value and what it may be."""


def seconds(name: str) -> float:
    """A setting of `DEFAULTS`, as it is now.

    Raises:
        BadSetting: it is not a number from `SHORTEST` to `LONGEST`.
    """
    given = os.environ.get(name) or str(DEFAULTS[name])
    try:
        value = float(given)
    except ValueError:
        value = -1.0
    if not SHORTEST <= value <= LONGEST:
        allowed = f"give {SHORTEST:g} to {LONGEST:g}, or leave it out"
        raise BadSetting(f"{name}={given!r} is not a time in seconds; {allowed}")
    return value
