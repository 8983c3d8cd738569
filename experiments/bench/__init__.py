"""Benchmarks: ratios against peers, all of them measured in turns within one run."""

import os
import platform


def machine() -> str:
    """What the figures of a run depend on besides the code, in words."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
