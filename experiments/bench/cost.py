"""How a cost is taken, the same for candidates and peers; of libraries it needs what the peers' environment has."""

import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CALLS = {1: 100, 64: 5, 10_000: 1}  # passages a call → calls that are timed together
FACTORS: Sequence[int] = (1, 4, 16)  # times the passages


def drawn(passages: int, factor: int, seed: int) -> npt.NDArray[np.int64]:
    """Positions of `factor` times as many passages, drawn with replacement; for factor 1 each once, in order."""
    if factor == 1:
        return np.arange(passages)
    return np.random.default_rng(seed).integers(0, passages, factor * passages)


def rate_name(size: int) -> str:
    """What the rate at so many passages a call is called among the figures."""
    return f"passages/s, {size:,} a call"


def rates(predict: Callable[[Sequence[str]], Any], texts: Sequence[str], sizes: Sequence[int]) -> dict[str, float]:
    """Passages a second at each size, from text to answer; `texts` are as many as a call takes, or more."""
    predict(texts[:2])  # opens what is opened late
    out = {}
    for size in sizes:
        started = time.perf_counter()
        for call in range(CALLS[size]):
            predict(texts[call * size % 1_000 :][:size])
        out[rate_name(size)] = CALLS[size] * size / (time.perf_counter() - started)
    return out


def peak_megabytes() -> float:
    """The most memory that this process has held; not that of the process that started it, which `ru_maxrss` may be."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
